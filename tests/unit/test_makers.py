# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Who makes Volatility's objects where its version was not tested."""

from collections.abc import Iterator
from typing import Any

import pytest
from volatility3 import framework
from volatility3.framework import objects

from volatility_guestdump.framework import makers, templates


@pytest.fixture
def untested(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Volatility that is newer than those that were tested."""
    monkeypatch.setattr(framework, "interface_version", lambda: (2, 99, 0))
    makers.are_ours.cache_clear()
    yield
    makers.are_ours.cache_clear()


@pytest.mark.usefixtures("untested")
def test_an_untested_version_that_is_as_before() -> None:
    """Our templates are used: they make the same."""
    assert makers.are_ours()


@pytest.mark.usefixtures("untested")
@pytest.mark.parametrize("kind", ["raises", "lacks", "differs"])
def test_an_untested_version_that_is_not(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Volatility's own are used, whatever is wrong with ours."""
    construct = templates._integer

    def changed(*arguments: Any) -> Any:
        if kind == "raises":
            raise TypeError("the constructor has another argument")
        made = construct(*arguments)
        if kind == "lacks":
            del made._vol["size"]
        else:
            made._vol["offset"] += 1
        return made

    monkeypatch.setattr(templates, "_integer", changed)
    assert not makers.are_ours()
    template: Any = makers.structure(objects.StructType, "t!s", 8, {})
    assert type(template) is makers._StockStructure and template.children == []


def test_a_tested_version_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs nothing there."""
    monkeypatch.setattr(makers, "_shown", lambda template: pytest.fail("they were compared"))
    makers.are_ours.cache_clear()
    assert makers.are_ours()
