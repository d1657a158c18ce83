# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What goes wrong in the lab."""


class LabError(Exception):
    """A guest cannot be made; the message says why and what to do."""
