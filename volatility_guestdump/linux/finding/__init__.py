# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Finding the kernel that a machine runs: registers, low memory, VMCOREINFO, the banner."""
