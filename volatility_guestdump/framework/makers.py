# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Who makes Volatility's objects: the templates of `templates`, or Volatility's own.

Ours are several times as fast, and rely on much that is private to Volatility. So with a version
that was not tested both make one structure first; where they differ in anything that plugins see,
or ours fail, all objects are made by Volatility's own.
"""

import functools
import logging
from collections.abc import Mapping
from typing import Any

from volatility3 import framework
from volatility3.framework import contexts, interfaces, objects
from volatility3.framework.layers import physical
from volatility3.framework.objects import templates

from volatility_guestdump.framework.templates import StructureTemplate, quick, quick_class
from volatility_guestdump.version import UNTESTED_VOLATILITY

vollog = logging.getLogger(__name__)

#: Members of a structure, name -> (offset, template).
Members = Mapping[str, tuple[int, interfaces.objects.Template]]

_Class = type[interfaces.objects.ObjectInterface]

_NAME, _SIZE = "t!compared", 32


class _StockStructure(templates.ObjectTemplate):
    """A structure of Volatility's own that, like ours, shows the symbol space no children."""

    @property
    def children(self) -> list[interfaces.objects.Template]:
        """None: they are resolved when they are asked for."""
        return []


@functools.cache
def are_ours() -> bool:
    """Whether objects are made by our templates."""
    if framework.interface_version() < UNTESTED_VOLATILITY:
        return True
    try:
        same = _shown(_ours(objects.StructType, _NAME, _SIZE, _members(quick))) == _shown(
            _stock(objects.StructType, _NAME, _SIZE, _members(lambda template: template))
        )
    except Exception as error:
        # A Volatility that is newer may raise anything.
        vollog.debug(f"Quick templates fail: {error!r}")
        same = False
    if not same:
        vollog.info("Objects are made by Volatility's own templates, which are slower")
    return same


def structure(
    object_class: _Class, name: str, size: int, members: Members
) -> interfaces.objects.Template:
    """Returns the template of a structure or union.

    Args:
        object_class: of the objects.
        name: of the type, with that of its table.
        size: in bytes.
        members: are resolved when they are asked for.
    """
    return (_ours if are_ours() else _stock)(object_class, name, size, members)


def resolvable(template: templates.ObjectTemplate) -> interfaces.objects.Template:
    """Returns a template of anything else, which was made just now: its children are replaced."""
    return quick(template) if are_ours() else template


def _ours(
    object_class: _Class, name: str, size: int, members: Members
) -> interfaces.objects.Template:
    return StructureTemplate(quick_class(object_class), name, size=size, members=members)


def _stock(
    object_class: _Class, name: str, size: int, members: Members
) -> interfaces.objects.Template:
    return _StockStructure(object_class, name, size=size, members=members)


def _members(finish: Any) -> Members:
    """Returns members of each kind of which structures have many.

    Args:
        finish: makes of a template of Volatility's own the one that is tried.
    """

    def made(object_class: _Class, name: str, **arguments: Any) -> Any:
        return finish(templates.ObjectTemplate(object_class, f"t!{name}", **arguments))

    def integer(length: int, signed: bool) -> objects.DataFormatInfo:
        return objects.DataFormatInfo(length, "little", signed)

    number = made(objects.Integer, "int", data_format=integer(4, True))
    long = templates.ObjectTemplate(objects.Integer, "t!long", data_format=integer(8, False))
    pointer = made(objects.Pointer, "pointer", data_format=integer(8, False), subtype=long)
    return {
        "number": (0, number),
        "bits": (
            4,
            made(objects.BitField, "bitfield", base_type=number, start_bit=4, end_bit=12),
        ),
        "pointer": (8, pointer),
        "array": (16, made(objects.Array, "array", count=2, subtype=number)),
        "name": (24, made(objects.String, "string", max_length=8)),
    }


def _shown(template: interfaces.objects.Template) -> list[Any]:
    """Returns all that plugins may see of a structure and its members."""
    context = contexts.Context()
    # The pointer leads to the structure itself.
    data = b"\xfe\xff\xff\xff\x21\x43\x65\x07" + bytes(8) + b"\1\0\0\0\2\0\0\0name\0\0\0\0"
    context.add_layer(physical.BufferDataLayer(context, "compared", "memory", data))
    information = interfaces.objects.ObjectInformation("memory", 0, "memory", size=_SIZE)
    whole: Any = template(context, information)
    parts = [whole.number, whole.bits, whole.pointer, whole.pointer.dereference(), *whole.array]
    values = [str(whole.name), *map(int, parts)]
    names = ("type_name", "layer_name", "native_layer_name", "offset", "member_name", "size")
    located = [
        [each.vol.get(name, None) for name in names] for each in (whole, whole.array, *parts)
    ]
    parents = [part.vol.parent.vol.offset for part in (whole.number, whole.array, whole.array[1])]
    return [
        *(values, located, parents, whole.has_member("number"), whole.has_member("gone")),
        *(list(whole.vol.members), whole.array.vol.count, whole.pointer.is_readable()),
    ]
