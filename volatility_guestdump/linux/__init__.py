# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Linux guests: the kernel, found in memory, and what it says of itself.

`find` starts the search for it, `kernel` has what all others read, and `stacks` what ran.
"""
