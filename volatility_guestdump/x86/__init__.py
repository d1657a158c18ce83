# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What every x86 guest has, whatever system it runs: page tables, registers, interrupt gates."""
