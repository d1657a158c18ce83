"""What a Linux kernel in the guest's memory says of itself."""
