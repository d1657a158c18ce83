# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""A short run of the fuzzer; `make fuzz` is the long one."""

import pytest

from tests.fuzz.__main__ import run
from tests.fuzz.targets import TARGETS
from tests.helpers import real_guest


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_damaged_input_ends_in_order(name: str) -> None:
    """A few hundred inputs, always the same, end in nothing but the package's own errors."""
    real_guest("module")
    _, share = TARGETS[name]
    for seed in range(6 * share):
        wrong = run(name, seed)
        assert wrong is None, f"python -m tests.fuzz --target {name} --seed {seed}\n{wrong}"
