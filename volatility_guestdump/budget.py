# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""How much a search may cost in all, whatever the memory has that it searches."""


class Budget:
    """The steps that all parts of a search may take together.

    What one part may take at most does not bound a search: a hostile image has as many parts as it
    likes, each of which takes the most.

    Args:
        steps: how many there may be.
    """

    def __init__(self, steps: int) -> None:
        self._left = steps

    @property
    def is_spent(self) -> bool:
        """Whether more steps were wanted than there are."""
        return self._left < 0

    def take(self, steps: int = 1) -> bool:
        """Takes steps, and returns whether they were there."""
        self._left -= steps
        return self._left >= 0
