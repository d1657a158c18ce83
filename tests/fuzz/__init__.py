# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Fuzzing: damaged and hostile dumps must end in one of the package's own errors, and soon."""
