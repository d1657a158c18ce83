# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Linux guests: the kernel, found in memory, and what it says of itself.

`finding` is the search for it; `symbols`, `types` and `stacks` are its own, and `state` is what
else it says of itself. `kernel` has each of them once. `isf` is symbols and types for Volatility.
"""
