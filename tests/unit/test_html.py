# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The HTML of a report: text is text, and nothing is asked of anybody."""

import base64
import dataclasses
import hashlib
import re
from html.parser import HTMLParser
from typing import Optional

import pytest

from tests.handmade.guest import HOSTILE, guest
from tests.unit.test_collect import EVIDENCE, SCHEMA, report, system_rows
from volatility_guestdump.exports import html
from volatility_guestdump.guest.collect import Subject, _missing
from volatility_guestdump.guest.facts import MemoryFacts, Piece, PieceKind
from volatility_guestdump.linux.state.memory_use import MemoryUse
from volatility_guestdump.linux.state.tasks import STATES
from volatility_guestdump.machine import MemoryRange
from volatility_guestdump.report import document
from volatility_guestdump.report.compose import _memory
from volatility_guestdump.text import printable

#: Elements without an end.
VOID = {"meta", "rect"}


class Parsed(HTMLParser):
    """HTML as a browser sees it.

    Attributes:
        elements: names with attributes, of which labels are left out, in order.
        texts: between them, without the style sheet.
        style: the style sheet.
    """

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, tuple[tuple[str, Optional[str]], ...]]] = []
        self.texts: list[str] = []
        self.style = ""
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert not self._open, "every element that needs an end has one"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Optional[str]]]) -> None:
        """Notes an element."""
        self.elements.append((tag, tuple(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, Optional[str]]]) -> None:
        """Notes an element without content."""
        self.elements.append((tag, tuple(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """Asserts that elements end in order."""
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Notes a text."""
        if self._open and self._open[-1] == "style":
            self.style += data
        elif data.strip():
            self.texts.append(" ".join(data.split()))

    def handle_comment(self, data: str) -> None:
        """There is none."""
        raise AssertionError(data)

    def handle_pi(self, data: str) -> None:
        """There is none."""
        raise AssertionError(data)


def page(subject: Subject, title: str) -> str:
    """Returns the HTML of a guest."""
    return html.render(report(subject), system_rows(subject), title)


def parsed(text: str) -> Parsed:
    """Returns the HTML of a guest in which everything is called by a text."""
    return Parsed(page(guest(text), text))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_text(name: str) -> None:
    """No element and no attribute differs from those of a guest with harmless names."""
    found = parsed(HOSTILE[name])
    assert found.elements == parsed("x").elements
    # It is there, as it is, in every section: names in the log, of modules, tasks and functions.
    shown = printable(HOSTILE[name].encode("utf-8", "surrogatepass"))
    if len(shown) < 100:
        assert sum(shown in text for text in found.texts) > 20


@pytest.mark.parametrize("text", ["x", *HOSTILE.values()])
def test_nothing_is_asked_of_anybody(text: str) -> None:
    """There is no script, and nothing that makes a browser fetch something."""
    source = page(guest(text), text)
    found = Parsed(source)
    assert {tag for tag, _ in found.elements} <= {
        *("html", "head", "meta", "title", "style", "body", "header", "main", "section", "nav"),
        *("h1", "h2", "h3", "p", "a", "dl", "dt", "dd", "ol", "ul", "li", "div", "span", "pre"),
        *("code", "b", "i", "table", "tr", "th", "td", "details", "summary", "svg", "rect"),
    }
    for tag, attributes in found.elements:
        for name, value in attributes:
            assert name in {
                *("lang", "charset", "http-equiv", "content", "name", "class", "id", "start"),
                *("scope", "href", "x", "y", "width", "height", "role", "tabindex", "colspan"),
                *("viewbox", "preserveaspectratio", "aria-label", "aria-hidden"),
            }
            assert name != "href" or (tag == "a" and re.fullmatch("#[a-z]+", value or ""))
    assert not re.search(r"url\(|@import|expression", found.style)


def test_the_policy() -> None:
    """It allows the style sheet that is there, by its hash, and nothing else."""
    found = parsed("x")
    (policy,) = (
        dict(attributes)["content"]
        for tag, attributes in found.elements
        if tag == "meta" and dict(attributes).get("http-equiv") == "Content-Security-Policy"
    )
    digest = base64.b64encode(hashlib.sha256(found.style.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    # It comes before anything that it is for.
    tags = [tag for tag, _ in found.elements]
    assert tags.index("meta") < tags.index("style") and "style" not in {
        name for _, attributes in found.elements for name, _ in attributes
    }


def test_what_there_is() -> None:
    """Headline, comparison, log with its stamps, and what could not be shown are there."""
    subject = guest("db1")
    made = report(subject)
    problem = document.Problem("Kernel log", "a page is missing")
    made = dataclasses.replace(made, problems=[problem])
    source = html.render(made, system_rows(subject), "debug.guest")
    texts = Parsed(source).texts
    assert texts[0] == "debug.guest: report" and made.headline.text in texts
    for text in ("not in the log", "[ 0.000000]", "9: db1", ": a page is missing", "kernel"):
        assert text in texts
    assert "out-of-tree" in source and "20 tasks: 2 uninterruptible (D), 18 sleeping (S)." in texts


def test_nothing_is_there() -> None:
    """Each section says so."""
    empty = document.Report(
        document.Headline("unknown", "What happened is not known."),
        document.System("raw", None, None, None),
        *(None, [], 0, None, None, document.Memory(0, [], 0, None), None, EVIDENCE, []),
    )
    texts = " ".join(Parsed(html.render(empty, [], "x")).texts)
    for said in (
        *("None is known.", "There are no registers.", "There is none that can be read."),
        *("They are not known.", "No range of memory is known.", "It is not known.", "Nothing."),
    ):
        assert said in texts


def memory(*runs: tuple[int, int], available: tuple[tuple[int, int], ...] = ()) -> document.Memory:
    """Returns memory of ranges (start, end), of which some may be missing."""
    there = [MemoryRange(start, end - start, 0) for start, end in available]
    pieces = []
    for start, end in runs:
        pieces.append(Piece(PieceKind.MEMORY, start, end - start))
        pieces += _missing(MemoryRange(start, end - start, 0), there)
    return _memory(MemoryFacts(sum(end - start for start, end in runs), pieces, None))


def test_the_picture_of_memory() -> None:
    """Ranges have their sizes, holes are short, and what is missing lies where it lacks."""
    gib = 1 << 30
    made = memory((0, 3 * gib), (1 << 40, (1 << 40) + gib), available=((0, 2 * gib),))
    pieces = [(piece.kind, round(piece.x), round(piece.width)) for piece in html.memory_map(made)]
    total = 4.4 * gib
    at = [round(1000 * value * gib / total) for value in (0, 3, 3.4, 2)]
    assert pieces == [
        ("memory", at[0], at[1]),
        ("hole", at[1], round(1000 * 0.4 * gib / total)),
        ("memory", at[2], round(1000 * gib / total)),
        ("missing", at[3], round(1000 * gib / total)),
        ("missing", at[2], round(1000 * gib / total)),
    ]
    assert html.memory_map(memory()) == []


@pytest.mark.parametrize(
    "counters",
    [
        MemoryUse(total=1000, free=400, anonymous=100, slab=0),
        # Counters that CPUs bring forward apart need not add up.
        MemoryUse(total=1000, free=900, anonymous=800),
        MemoryUse(total=1000),
    ],
)
def test_the_bar_of_counters(counters: MemoryUse) -> None:
    """It fills its width, whatever the counters are, without a gap."""
    pieces = html.memory_bar(vars(counters))
    at = 0.0
    for piece in pieces:
        assert piece.x == pytest.approx(at, abs=0.1) and piece.width > 0
        at += piece.width
    assert at == pytest.approx(1000, abs=0.5)


def test_no_bar_without_the_total() -> None:
    """There is nothing to hold the counters against."""
    assert not html.memory_bar(None)
    for counters in (MemoryUse(free=3), MemoryUse(total=0, free=0)):
        assert not html.memory_bar(vars(counters))


def test_every_state_of_a_task_has_words() -> None:
    """In the page, and a place in the schema, as has one that is not known."""
    assert set(html._STATES) == {*STATES, "?"}
    (pattern,) = SCHEMA["properties"]["tasks"]["anyOf"][0]["properties"]["states"][
        "patternProperties"
    ]
    assert {state for state in map(chr, range(128)) if re.search(pattern, state)} == {*STATES, "?"}
