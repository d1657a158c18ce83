# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Memory that is read while its guest runs, by LiME and by /proc/kcore; see `tests.live`."""

import os

import pytest

from tests import lab
from tests.live.__main__ import check
from tests.live.acquire import METHODS


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_live_acquisitions(method: str) -> None:
    """Plugins end, list all processes that lived all through, and show nothing that never was."""
    missing = lab.missing_tools()
    if missing and not os.environ.get("CI"):
        pytest.skip(f"guests cannot be made without {', '.join(missing)}")
    ((checker, faults),) = check(method, 1, 256)
    assert not faults
    assert len(checker.steady) > 40
