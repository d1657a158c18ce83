"""The symbols and types of a Linux kernel in Volatility's Intermediate Symbol Format (ISF)."""
