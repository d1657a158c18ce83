# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""A report as one HTML file: no script, no request, readable on a phone and on paper.

All that comes from the guest is text: the template engine escapes it, and the file's
Content-Security-Policy allows nothing but its own style sheet, which is named by its hash.
"""

import base64
import hashlib
import pathlib
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import BinaryIO, NamedTuple, Optional

import jinja2
import markupsafe

from volatility_guestdump import words
from volatility_guestdump.report import document
from volatility_guestdump.words import short_size

_FOLDER = pathlib.Path(__file__).resolve().parent

#: Of the picture of memory, in its own units.
_WIDTH = 1000
#: What is narrower would not be seen.
_NARROWEST = 2.0

#: What the letters for states of tasks mean, as in ps.
_STATES = {
    "D": "uninterruptible",
    "I": "idle threads of the kernel",
    "P": "parked",
    "R": "running or ready to run",
    "S": "sleeping",
    "T": "stopped",
    "t": "stopped by a debugger",
    "X": "dead",
    "Z": "zombies",
    "?": "of unknown state",
}


class Piece(NamedTuple):
    """A piece of a bar: what it is, its words, and where it is drawn."""

    kind: str
    label: str
    x: float
    width: float


def write(
    report: document.Report, system: Iterable[words.Row], title: str, stream: BinaryIO
) -> None:
    """Writes a report as HTML.

    Args:
        report: what it says.
        system: its section on the system in words, see `compose.system_rows`.
        title: what it is of: the name of the dump.
        stream: where to.

    Raises:
        OSError: it cannot be written there.
    """
    # A name may have half of a surrogate pair, which UTF-8 cannot say.
    stream.write(render(report, system, title).encode("utf-8", "replace"))


def render(report: document.Report, system: Iterable[words.Row], title: str) -> str:
    """Returns the HTML of a report; see `write`."""
    style = (_FOLDER / "report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["size"] = short_size
    environment.filters["duration"] = lambda seconds: words.duration(timedelta(seconds=seconds))
    environment.filters["utc"] = words.utc
    environment.filters["taint"] = words.module_taint
    environment.filters["notes"] = lambda notes: words.joined(note.text for note in notes)
    return environment.get_template("report.html").render(
        report=report,
        system=system,
        title=title,
        style=markupsafe.Markup(style),
        style_hash=digest,
        states=_STATES,
        map=memory_map(report.memory),
        use=memory_bar(report.memory.counters),
        swap=_swap(report.memory.counters),
    )


def memory_map(memory: document.Memory) -> list[Piece]:
    """Returns a picture of guest-physical memory, from 0 to its end.

    A hole is drawn no wider than a tenth of the picture, however many gigabytes it has: the ranges
    are what is to be seen.
    """
    ranges = [run for run in memory.ranges if run.kind == "memory"]
    total = sum(run.size for run in ranges)
    if not total:
        return []
    hole = total // 10
    pieces: list[tuple[str, str, int, int]] = []
    # Where each address is in the picture: address, place.
    bends: list[tuple[int, int]] = []
    at = place = 0
    for run in ranges:
        start = int(run.start, 16)
        if start > at:
            label = f"hole, {short_size(start - at)}"
            pieces.append(("hole", label, place, min(start - at, hole)))
            place += min(start - at, hole)
        bends.append((start, place))
        label = f"memory {run.start}-{run.end}, {short_size(run.size)}"
        pieces.append(("memory", label, place, run.size))
        at, place = start + run.size, place + run.size
    for run in memory.ranges:
        if run.kind == "memory":
            continue
        start = int(run.start, 16)
        base, drawn = max((bend for bend in bends if bend[0] <= start), default=(start, 0))
        label = f"{run.kind} {run.start}-{run.end}, {short_size(run.size)}"
        pieces.append((run.kind, label, drawn + start - base, run.size))
    scale = _WIDTH / place
    return [
        Piece(kind, label, round(x * scale, 2), round(max(width * scale, _NARROWEST), 2))
        for kind, label, x, width in pieces
    ]


_COUNTED = (
    ("anonymous", "anonymous"),
    ("page_cache", "page cache"),
    ("slab", "slab"),
    ("page_tables", "page tables"),
    ("huge_pages", "huge pages"),
    ("free", "free"),
)


def memory_bar(counters: Optional[dict[str, Optional[int]]]) -> Sequence[Piece]:
    """Returns the kernel's counters against all of its memory; none without the total."""
    total = (counters or {}).get("total")
    if not counters or not total:
        return []
    known = [(key, label, counters[key]) for key, label in _COUNTED]
    found, x = [], 0.0
    for key, label, size in known:
        if size:
            width = size / total * _WIDTH
            found.append(Piece(key, f"{label} {short_size(size)}", round(x, 2), round(width, 2)))
            x += width
    rest = total - sum(size or 0 for _, _, size in known)
    if rest > 0:
        label = f"other {short_size(rest)}"
        found.append(Piece("other", label, round(x, 2), round(_WIDTH - x, 2)))
    # Counters that CPUs bring forward apart need not add up.
    scale = max(1.0, x / _WIDTH)
    return [
        piece._replace(x=round(piece.x / scale, 2), width=round(piece.width / scale, 2))
        for piece in found
    ]


def _swap(counters: Optional[dict[str, Optional[int]]]) -> Optional[str]:
    total, free = (counters or {}).get("swap_total"), (counters or {}).get("swap_free")
    if total is None or free is None:
        return None
    return f"{short_size(total - free)} of {short_size(total)} used" if total else "none"
