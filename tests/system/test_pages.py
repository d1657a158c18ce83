# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""A page of a kernel's tables that is missing costs what is in it; `tests.pages` takes them all."""

import pytest

from tests.helpers import guest_machine, real_guest
from tests.pages import without_each_page

#: Table -> one page out of how many is taken.
SAMPLES = {
    "kallsyms_num_syms": 1,
    "kallsyms_names": 120,
    "kallsyms_markers": 1,
    "BTF": 400,
    "ORC places": 300,
}


@pytest.mark.parametrize("removed", [False, True], ids=["zeros", "removed"])
def test_a_page_costs_what_is_in_it(removed: bool) -> None:
    """Without it all processes are listed, and no symbol is told that is not one."""
    machine = guest_machine(real_guest("hole-pti"))
    every = 2 if removed else 1
    for table, step in SAMPLES.items():
        (count,) = without_each_page(machine, every * step, removed, [table]).values()
        assert not count.wrong
        # The first page of BTF says where its types are, and has the integers.
        assert count.listed == count.images - (table == "BTF"), table
        assert count.lost <= 1024
