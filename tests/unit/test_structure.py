# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""How the package is built: who may know whom."""

import ast
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Optional

import pytest

import volatility_guestdump
from tests import packages
from tests.packages import ROOT

PACKAGE = pathlib.Path(volatility_guestdump.__file__).parent
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))

#: Who may import Volatility.
KNOWS_VOLATILITY = ("framework/", "plugins/")


def imported(name: str) -> Iterator[str]:
    """Yields the modules that a file of the package imports."""
    for node in ast.walk(ast.parse((PACKAGE / name).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def file_of(module: str) -> Optional[str]:
    """Returns the file of the package that a module is, or None."""
    root, *parts = module.split(".")
    if root != PACKAGE.name:
        return None
    path = "/".join(parts)
    found = {f"{path}.py", "/".join([*parts, "__init__.py"])} & set(FILES)
    return found.pop() if found else None


def ours(name: str) -> set[str]:
    """Returns the files of the package that one of them imports, the package's root among them."""
    modules = set(imported(name))
    # Of a package that only leads to a module of it nothing is used.
    leading = {module.rpartition(".")[0] for module in modules if file_of(module)}
    return {path for module in modules - leading if (path := file_of(module))} - {name}


@pytest.mark.parametrize("name", FILES)
def test_who_knows_volatility(name: str) -> None:
    """The layers and plugins do; what finds and decodes kernels works without it."""
    if not name.startswith(KNOWS_VOLATILITY):
        assert not [module for module in imported(name) if module.startswith("volatility3")]
        assert not [path for path in ours(name) if path.startswith(KNOWS_VOLATILITY)]


def test_importing_any_module_loads_none_of_volatility() -> None:
    """But for those that know it: the package's root, which comes with each, loads none either."""
    modules = [
        ".".join([PACKAGE.name, *pathlib.PurePath(name).with_suffix("").parts])
        for name in FILES
        if not name.startswith((*KNOWS_VOLATILITY, "path_entry/"))
        and not name.endswith("__init__.py")
    ]
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
        "print([name for name in sys.modules if name.startswith('volatility3')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *modules],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "volatility_guestdump.sources.lime" in modules and done.stdout == "[]\n"


@pytest.mark.parametrize("name", [path for path in FILES if not path.startswith("plugins/")])
def test_plugins_are_on_top(name: str) -> None:
    """Nothing needs the plugins: programs get all that they show without them."""
    assert not [path for path in ours(name) if path.startswith("plugins/")]


@pytest.mark.parametrize(
    ("name", "known"),
    [
        # The root is imported with everything, so it imports nothing but the version; its function
        # imports what it needs when it is called.
        ("__init__.py", ("version", "guest/facts", "guest/read")),
        # What all may use: errors, attempts, budgets, text, data files, what is kept, the machine.
        ("version.py", ()),
        ("exceptions.py", ()),
        ("attempts.py", ("exceptions", "text")),
        ("budget.py", ()),
        ("text.py", ()),
        ("kept.py", ()),
        ("resources.py", ()),
        ("machine.py", ("exceptions",)),
        ("elf.py", ("exceptions",)),
        (
            "sources/",
            (
                *("budget", "elf", "exceptions", "kept", "machine", "resources", "text"),
                "sources/",
            ),
        ),
        ("files/", ("exceptions", "kept", "machine", "resources", "text", "files/")),
        ("x86/", ("budget", "exceptions", "kept", "machine", "text", "x86/")),
        (
            "linux/",
            (
                *("attempts", "budget", "elf", "exceptions", "kept", "machine", "resources"),
                *("text", "version", "linux/", "x86/"),
            ),
        ),
        (
            "windows/",
            ("budget", "exceptions", "kept", "machine", "resources", "text", "x86/", "windows/"),
        ),
        (
            "kernels.py",
            ("exceptions", "kept", "machine", "text", "x86/", "linux/", "windows/"),
        ),
        (
            "dumps/",
            (
                *("budget", "dumps/", "exceptions", "files/", "kept", "kernels", "linux/"),
                *("machine", "sources/", "x86/"),
            ),
        ),
        (
            "guest/",
            (
                *("attempts", "dumps/", "exceptions", "files/", "kernels", "linux/", "machine"),
                *("text", "windows/", "x86/", "guest/"),
            ),
        ),
        # Facts come without words; whoever shows them takes these.
        ("words.py", ("guest/", "linux/")),
        (
            "report/",
            ("attempts", "files/", "guest/", "linux/", "machine", "words", "report/"),
        ),
        # They write to streams: no path, no kernel, and nothing but what a report says.
        ("exports/", ("report/", "words", "exports/")),
    ],
)
def test_what_is_below_knows_nothing_of_what_is_above(name: str, known: tuple[str, ...]) -> None:
    """A format knows no kernel, page tables no system, and a kernel no file."""
    found = [path for path in FILES if path.startswith(name)]
    assert found
    for path in found:
        assert not [other for other in ours(path) if not other.startswith(known)], path


def test_no_file_imports_itself_in_a_circle() -> None:
    """A reader who starts with any file gets to an end; imports for types alone count too."""
    left = {name: ours(name) for name in FILES}
    while True:
        needed = set().union(*left.values())
        # What imports nothing that is left is in no circle, nor is what nothing imports.
        done = {name for name in left if name not in needed or not left[name] & set(left)}
        if not done:
            break
        left = {name: others - done for name, others in left.items() if name not in done}
    assert not left


#: What people read: the README, and the pages that it leads to.
PAGES = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))


def anchors(text: str) -> set[str]:
    """Returns what links within a page can lead to: its headings, as they are made into links."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


def test_the_page_for_developers_names_every_folder() -> None:
    """Whoever looks for something starts there."""
    text = (ROOT / "docs/developing.md").read_text(encoding="utf-8")
    folders = {name.split("/")[0] for name in packages.sources() if "/" in name}
    parts = {path.split("/")[0] for path in FILES if "/" in path}
    assert [name for name in folders - {".ci"} if f"| `{name}/` |" not in text] == []
    assert [name for name in parts if f"`.../{name}/`" not in text] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """To a file that is there, and to a heading that it has."""
    folder = (ROOT / page).parent
    text = (ROOT / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = folder / path if path else ROOT / page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), link


def test_the_readme_leads_to_every_page() -> None:
    """And is short enough to be read."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [page for page in PAGES[1:] if f"]({page})" not in text] == []
    assert len(text.splitlines()) < 150


@pytest.mark.parametrize("name", [name for name in packages.sources() if name.endswith(".py")])
def test_every_file_says_what_license_it_is_under(name: str) -> None:
    """In the two lines that Volatility's own files have."""
    text = (ROOT / name).read_text(encoding="utf-8")
    assert re.match(
        r"(#!.*\n)?"
        r"# This file is licensed under the Volatility Software License 1\.0\n"
        r"# which is available at https://www\.volatilityfoundation\.org/license/vsl-v1\.0\n",
        text,
    )
