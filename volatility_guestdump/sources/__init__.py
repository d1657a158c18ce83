# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Formats that describe a machine: a module each, from a stream to ranges of memory and vCPUs.

A new one is a module here, and a module of `framework` with its layer and its stacker, whose place
among all stackers is in `framework.stacking.Order`; `framework.qemu_elf` is the shortest.
"""
