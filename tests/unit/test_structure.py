"""How the package is built: who may know whom."""

import ast
import pathlib
from collections.abc import Iterator

import pytest

import volatility_guestdump

PACKAGE = pathlib.Path(volatility_guestdump.__file__).parent
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))

#: Who may import what; the longest prefix of a file's path counts.
KNOWS_VOLATILITY = ("framework/", "plugins/")


def imported(name: str) -> Iterator[str]:
    """Yields the modules that a file of the package imports."""
    for node in ast.walk(ast.parse((PACKAGE / name).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("name", FILES)
def test_who_knows_volatility(name: str) -> None:
    """The layers and plugins do; what finds and decodes kernels works without it."""
    if not name.startswith(KNOWS_VOLATILITY):
        assert not [module for module in imported(name) if module.startswith("volatility3")]
        if name != "__init__.py":
            assert not [
                module
                for module in imported(name)
                if module.startswith(
                    ("volatility_guestdump.framework", "volatility_guestdump.plugins")
                )
            ]


@pytest.mark.parametrize(
    ("name", "unknown"),
    [
        ("machine.py", ("files", "sources", "x86", "linux", "windows", "kernels", "report")),
        ("sources/", ("files", "x86", "linux", "windows", "kernels", "report")),
        ("x86/", ("files", "sources", "linux", "windows", "kernels", "report")),
        ("linux/", ("files", "sources", "windows", "kernels", "report")),
        ("windows/", ("files", "sources", "linux", "kernels", "report")),
    ],
)
def test_what_is_below_knows_nothing_of_what_is_above(name: str, unknown: tuple[str, ...]) -> None:
    """A format knows no kernel, page tables no system, and a kernel no file."""
    forbidden = tuple(f"volatility_guestdump.{part}" for part in unknown)
    found = [path for path in FILES if path.startswith(name)]
    assert found
    for path in found:
        assert not [module for module in imported(path) if module.startswith(forbidden)], path
