# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Files that hold a guest's memory: where they lie, and random access to what is in them."""
