# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""A folder for sys.path: nothing comes from it but this package.

Beside the package lies whatever else is installed in its environment: made for another Python
maybe, or older than what the program has that asks.
"""
