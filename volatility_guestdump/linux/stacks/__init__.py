# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What CPUs and tasks were doing: unwinding by ORC, return addresses, code that the kernel made."""
