"""Measures the package against stock Volatility, on guests of the lab: python -m benchmarks.

It prints one Markdown document. No figure in it decides whether a test passes: they depend on the
machine, and on what else that does.
"""
