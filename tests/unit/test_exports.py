# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What is written to streams, whatever these are."""

import errno
import io
import json as standard_json
import lzma
from typing import BinaryIO, Callable

import pytest

from tests.handmade.guest import HOSTILE, guest
from tests.unit.test_collect import report, system_rows
from volatility_guestdump.exports import html, isf, json

DOCUMENT = {"metadata": {"format": "6.2.0"}, "symbols": {"a\u00e9": {"address": 1}}}


class Sink(io.RawIOBase):
    """A stream that nobody can read or seek in, and that may be full.

    Args:
        room: how many bytes it takes; None for any number.
    """

    def __init__(self, room: "int | None" = None) -> None:
        super().__init__()
        self.data = b""
        self._room = room

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: "object") -> int:
        """Keeps what is written; an error where there is no room."""
        piece = bytes(data)  # type: ignore[call-overload]
        if self._room is not None and len(self.data) + len(piece) > self._room:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.data += piece
        return len(piece)


def _html(stream: BinaryIO) -> None:
    html.write(report(guest()), system_rows(guest()), "debug.guest", stream)


def _json(stream: BinaryIO) -> None:
    json.write(report(guest()), stream)


def _isf(stream: BinaryIO) -> None:
    isf.write(DOCUMENT, stream)


def written(write: Callable[[BinaryIO], None]) -> bytes:
    """Returns what is written to a stream, which stays open."""
    stream = Sink()
    write(stream)  # type: ignore[arg-type]
    assert not stream.closed
    return stream.data


def test_each_can_be_read() -> None:
    """HTML as a page, JSON as what the report has, ISF as Volatility reads it."""
    assert written(_html).decode("utf-8").startswith("<!DOCTYPE html>")
    assert standard_json.loads(written(_json)) == report(guest()).as_json()
    assert standard_json.loads(lzma.decompress(written(_isf))) == DOCUMENT


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text(name: str) -> None:
    """Every text of a guest can be written; JSON gives it back as it was."""
    subject = guest(HOSTILE[name])
    made = report(subject)
    assert standard_json.loads(written(lambda stream: json.write(made, stream))) == made.as_json()
    rows = system_rows(subject)
    page = written(lambda stream: html.write(made, rows, HOSTILE[name], stream))
    assert page.decode("utf-8")


@pytest.mark.parametrize("write", [_html, _json, _isf])
def test_a_full_disk(write: Callable[[BinaryIO], None]) -> None:
    """The stream's own error comes through, for who opened the file to tell."""
    with pytest.raises(OSError, match="No space left"):
        write(Sink(20))  # type: ignore[arg-type]
