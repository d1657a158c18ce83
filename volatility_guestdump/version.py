# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The version of the package, and those of Volatility that it was tested with."""

__version__ = "1.0.0"

#: The versions of Volatility that the tests have passed with: from the first to below the second.
OLDEST_VOLATILITY = (2, 28, 2)
UNTESTED_VOLATILITY = (2, 29, 0)
