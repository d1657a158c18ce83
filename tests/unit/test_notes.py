# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The words for notes on frames."""

import pathlib
import re

import pytest

from volatility_guestdump.linux.stacks.frames import Note, NoteKind
from volatility_guestdump.words import notes

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "backtrace.md"


# Backtrace refuses 32-bit guests as a whole.
@pytest.mark.parametrize("kind", [kind for kind in NoteKind if kind is not NoteKind.ONLY_64_BIT])
def test_the_page_explains_what_one_sees(kind: NoteKind) -> None:
    """Every note is in that table, word for word but for addresses and details."""
    shown = notes([Note(kind, 0x1234, "DETAIL")])
    explained = re.findall(r"`([^`]*)`", PAGE.read_text(encoding="utf-8"))
    for words in filter(None, (part.strip(" ,:") for part in re.split("0x1234|DETAIL", shown))):
        assert any(words in text for text in explained)


def test_notes_are_told_apart() -> None:
    """A frame's notes are all there, and the address is in hexadecimal."""
    found = (
        Note(NoteKind.INTERRUPT),
        Note(NoteKind.BAD_REGISTERS, 0xFFFF),
        Note(NoteKind.FRAME_POINTER),
    )
    assert notes(found).split("; ") == [
        "interrupt",
        "what lies at 0xffff are no saved registers",
        "by frame pointer: no ORC for this code",
    ]
