"""Formats that describe a machine: a module each, from a stream to ranges of memory and vCPUs."""
