"""What goes wrong in the lab."""


class LabError(Exception):
    """A guest cannot be made; the message says why and what to do."""
