# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The symbols and types of a Linux kernel in Volatility's Intermediate Symbol Format (ISF)."""
