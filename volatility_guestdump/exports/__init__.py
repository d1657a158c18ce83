# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Writes what is known of a guest in formats that others read, each to a stream of bytes.

`html` writes a report to be read, `json` one for programs, `isf` the symbols and types of a kernel
as Volatility reads them. None of them knows where the bytes go.
"""
