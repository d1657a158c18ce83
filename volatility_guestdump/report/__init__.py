"""What is known of a guest, as typed facts."""
