# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The rows of guestdump.Report."""

import dataclasses

import pytest

from tests.handmade.guest import HOSTILE, Counts, guest
from tests.unit.test_collect import report, system_rows
from volatility_guestdump.guest.facts import NoLinux
from volatility_guestdump.report import document
from volatility_guestdump.report.summary import summary


def test_every_row() -> None:
    """Each section has what there is to say of it, in few words."""
    subject = guest("db1")
    made = report(subject)
    problem = document.Problem("Kernel log", "a page is missing")
    rows = list(summary(dataclasses.replace(made, problems=[problem]), system_rows(subject)))
    assert rows[0] == ("Headline", "panic", made.headline.text)
    assert {
        ("System", "Host name", "db1"),
        ("Panic", "Message", "db1"),
        ("Panic", "Task", "vCPU 0: db1 (pid 1), panic+0x118"),
        ("Panic", "Stack and log", made.panic.comparison.text if made.panic else ""),
        ("vCPUs", "1", "kernel, db1 (2), panic+0x3"),
        ("Kernel log", "Lines", "14 (8 errors or worse)"),
        ("Kernel log", "Left out", "0"),
        ("Tasks", "States", "2 D, 18 S"),
        ("Tasks", "Uninterruptible", "1: db1 in db1+0x1"),
        ("Memory", "free", "3.9 MiB"),
        ("Memory", "swap total", "-"),
        ("Modules", "db1", "16384 bytes, O out-of-tree module"),
        ("Not shown", "Kernel log", "a page is missing"),
    } <= set(rows)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text(name: str) -> None:
    """It changes no row but in its text, and nothing that a terminal might obey is in one."""
    subjects = [guest(text) for text in (HOSTILE[name], "x")]
    rows, usual = (list(summary(report(each), system_rows(each))) for each in subjects)
    assert [row[0] for row in rows] == [row[0] for row in usual]
    assert all(part.isprintable() for row in rows for part in row)


def test_little_is_known() -> None:
    """Without sections there are no rows of them, but why."""
    bare = dataclasses.replace(
        guest(),
        linux=None,
        stacks=None,
        no_linux=NoLinux.NOT_FOUND,
        machine=guest(counts=Counts(0)).machine,
    )
    rows = list(summary(report(bare), system_rows(bare)))
    sections = {section for section, _, _ in rows}
    assert not sections & {"vCPUs", "Kernel log", "Tasks", "Modules"}
    assert ("Not shown", "Kernel", "in the guest's memory no kernel can be recognised") in rows
