# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Measures the package against stock Volatility, on guests of the lab: python -m benchmarks.

It prints one Markdown document. No figure in it decides whether a test passes: they depend on the
machine, and on what else that does.
"""
