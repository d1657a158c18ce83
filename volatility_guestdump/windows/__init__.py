"""Windows guests: the kernel, found from the registers."""
