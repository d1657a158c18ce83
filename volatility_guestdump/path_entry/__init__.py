"""A folder for sys.path: nothing comes from it but this package.

Beside the package lies whatever else is installed in its environment: made for another Python
maybe, or older than what the program has that asks.
"""
