# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Templates that construct Volatility's objects with their values at hand, and without cycles.

Every access to a member of an object asks a dozen times for what its `vol` holds: layer, offset,
members. Volatility keeps that in a chain of four mappings, of which one lists the fields of a
dataclass each time. Here the same values stand in one dictionary: plugins that read much take a
third less time.

An object of Volatility also holds the object that it is a member of, which holds all members that
were asked for. So the process id in a row of output keeps a task alive with whatever was read of
it, and the cycles keep the garbage collector busy. Here an object holds only what its parent's
`vol` holds; when the parent itself is asked for and is gone, it is made again, at the same place
of a memory that does not change.
"""

import collections
import copy
import copyreg
import functools
import weakref
from collections.abc import MutableMapping
from typing import Any, Optional, Union

from volatility3.framework import interfaces, objects
from volatility3.framework.objects import templates

_Object = interfaces.objects.ObjectInterface
_Information = interfaces.objects.ObjectInformation


#: Structures of which a layer keeps the members that were made last.
_KEPT_STRUCTURES = 512


class KeptMembers:
    """Members of structures in a memory that does not change, of those that were made last."""

    def __init__(self) -> None:
        self._members: collections.OrderedDict[Any, dict[str, Any]] = collections.OrderedDict()

    def of(self, structure: Any) -> dict[str, Any]:
        """Returns the members of a structure by their names, as far as they are made.

        Args:
            structure: what tells it from all others.
        """
        members = self._members.get(structure)
        if members is None:
            if len(self._members) >= _KEPT_STRUCTURES:
                self._members.popitem(last=False)
            members = self._members[structure] = {}
        return members


class KeepsMembers:
    """A layer whose structures share members.

    Attributes:
        kept_members: the members.
    """

    kept_members: KeptMembers


class _Values(dict[str, Any]):
    """What an object's `vol` holds; its parent is made when it is asked for.

    Args:
        values: all but the parent.

    Attributes:
        parent: the object's parent, or what the `vol` of its parent holds.
        template: makes the object.
        context: that it is made in.
        owner: the object, if anything asked for it already.
    """

    __slots__ = ("context", "owner", "parent", "template")

    parent: Union["_Values", _Object, None]
    template: "ObjectTemplate"
    context: interfaces.context.ContextInterface

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.owner: Optional[weakref.ref[_Object]] = None

    def __contains__(self, key: object) -> bool:
        return key == "parent" or dict.__contains__(self, key)

    def __missing__(self, key: str) -> Any:
        if key != "parent":
            raise KeyError(key)
        return self.parent.object() if isinstance(self.parent, _Values) else self.parent

    def get(self, key: str, default: Any = None) -> Any:
        """Returns a value, or a default."""
        try:
            return self[key]
        except KeyError:
            return default

    def object(self) -> _Object:
        """Returns the object."""
        found = None if self.owner is None else self.owner()
        if found is None:
            found = self.template(self.context, self._information())
            _give(found, self)
            self.belongs_to(found)
        return found

    def belongs_to(self, owner: _Object) -> None:
        """Notes which object has these values."""
        # What derives from int or bytes cannot be referred to weakly: it is made again.
        if not self.template.makes_primitives:
            self.owner = weakref.ref(owner)

    def _information(self) -> _Information:
        fields = ("layer_name", "offset", "native_layer_name", "member_name", "parent", "size")
        return _Information(**{field: self[field] for field in fields})

    @property
    def maps(self) -> list[MutableMapping[str, Any]]:
        """The chain that Volatility's objects have, for pickling them."""
        information: Any = self._information()
        located = {"type_name": self["type_name"], "offset": self["offset"]}
        return [dict(self), located, information, {}]

    def __reduce__(self) -> Any:
        # Objects that are copied to another process are plain ones of Volatility.
        return collections.ChainMap, tuple(self.maps)


def _give(owner: Any, values: _Values) -> None:
    owner._vol = values


class ObjectTemplate(templates.ObjectTemplate):
    """A template of any object."""

    #: Class of the objects, what they are constructed with, and their size; None: not known yet.
    _made_of: Optional[tuple[type[_Object], dict[str, Any]]] = None
    _size: Optional[int] = None

    def __call__(
        self, context: interfaces.context.ContextInterface, object_info: _Information
    ) -> _Object:
        """Constructs the object."""
        if self._made_of is None:
            arguments = dict(self._vol)
            self._made_of = arguments.pop("object_class"), arguments
        object_class, arguments = self._made_of
        made = object_class(context=context, object_info=object_info, **arguments)
        chain = getattr(made, "_vol", None)
        if chain is None:
            # A string that ends before its length is a plain one.
            return made
        own, located, *_ = chain.maps
        values = _Values(arguments)
        values["layer_name"] = object_info.layer_name
        values["native_layer_name"] = object_info.native_layer_name
        values["member_name"] = object_info.member_name
        values["size"] = object_info.size
        values.update(located)
        if own:
            values.update(own)
        values.parent = parent = object_info.parent
        values.template = self
        values.context = context
        if parent is not None:
            held: object = parent._vol
            if isinstance(held, _Values):
                if held.owner is None:
                    held.belongs_to(parent)
                values.parent = held
        _give(made, values)
        return made

    @property
    def makes_primitives(self) -> bool:
        """Whether the objects are integers, strings and the like."""
        return issubclass(self._vol["object_class"], objects.PrimitiveObject)

    def clone(self) -> "ObjectTemplate":
        """Returns a copy without what was updated."""
        updates, *constructed = self._vol.maps
        made = copy.copy(self)
        made._vol = collections.ChainMap({}, *constructed)
        if updates:
            made._made_of = made._size = None
        return made

    def update_vol(self, **new_arguments: Any) -> None:
        """Updates the arguments that objects are constructed with."""
        if new_arguments:
            self._made_of = self._size = None
            super().update_vol(**new_arguments)

    @property
    def size(self) -> int:
        """The size in bytes."""
        if self._size is None:
            # Strings and bytes have none, and others that can grow are asked each time.
            if "data_format" not in self._vol:
                return int(super().size)
            self._size = int(self._vol["data_format"].length)
        return self._size


def _part(
    whole: _Object,
    values: _Values,
    offset: int,
    template: interfaces.objects.Template,
    name: Optional[str] = None,
) -> _Object:
    """Returns a member or an element of an object.

    Args:
        whole: the object.
        values: what its `vol` holds.
        offset: of the part in it.
        template: of the part.
        name: of a member.
    """
    context = whole._context
    if isinstance(template, templates.ReferenceTemplate):
        template = context.symbol_space.get_type(template.vol.type_name)
    layer_name = values["layer_name"]
    information = _Information(
        layer_name,
        context.layers[layer_name].address_mask & (values["offset"] + offset),
        values["native_layer_name"] or layer_name,
        name,
        whole,
        template.size,
    )
    made: _Object = template(context=context, object_info=information)
    return made


class _QuickArray(objects.Array):
    """An array that asks its `vol` once for what an element needs."""

    def __getitem__(self, index: Any) -> Any:
        values: object = self._vol
        if isinstance(values, _Values) and isinstance(index, int):
            template, count = values["subtype"], values["count"]
            if -count <= index < count:
                place = index if index >= 0 else count + index
                return _part(self, values, template.size * place, template)
        return super().__getitem__(index)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _as_stock(self)


def _as_stock(made: _Object) -> Any:
    """Returns what copies an object of a quick class as one of the class that it stands for."""
    stock = next(base for base in type(made).__mro__[1:] if base not in _QUICK)
    return copyreg.__newobj__, (stock,), made.__dict__  # type: ignore[attr-defined]


class _QuickMembers(objects.AggregateType):
    """A structure that asks its `vol` once for what its members need."""

    def __getattr__(self, attr: str) -> Any:
        values: object = self.__dict__.get("_vol")
        # Volatility gives some names with an underscore a meaning of their own.
        if isinstance(values, _Values) and not attr.startswith("_"):
            made: dict[str, Any] = self._concrete_members
            if attr in made:
                return made[attr]
            found = values["members"].get(attr)
            if found is not None:
                offset, template = found
                member = made[attr] = _part(self, values, offset, template, attr)
                return member
        return super().__getattr__(attr)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _as_stock(self)


_QUICK: tuple[type[_Object], ...] = (_QuickArray, _QuickMembers)


@functools.cache
def quick_class(object_class: type[_Object]) -> type[_Object]:
    """Returns a class of the same name and behaviour whose objects find their parts quickly.

    Args:
        object_class: the class. One that is not of structures or arrays, or that has its own way to
            their parts, is returned itself.
    """
    if issubclass(object_class, objects.AggregateType):
        quick_base: type[_Object] = _QuickMembers
        unchanged = object_class.__getattr__ is objects.AggregateType.__getattr__
    else:
        quick_base = _QuickArray
        unchanged = object_class is objects.Array
    if not unchanged:
        return object_class
    names = ("__module__", "__qualname__", "__doc__")
    attributes = {name: getattr(object_class, name) for name in names}
    return type(object_class.__name__, (quick_base, object_class), attributes)


class StructureTemplate(ObjectTemplate):
    """A structure, for the symbol space without children: it would resolve them all at once.

    Structures at the same address share their members: lists of open files, for one, lead to the
    same directories again and again.
    """

    def __call__(
        self, context: interfaces.context.ContextInterface, object_info: _Information
    ) -> _Object:
        """Constructs the object."""
        made = super().__call__(context, object_info)
        layer = context.layers[object_info.layer_name]
        if isinstance(layer, KeepsMembers):
            values = made._vol
            state: dict[str, Any] = made.__dict__
            state["_concrete_members"] = layer.kept_members.of(
                (type(made), values["type_name"], values["offset"], values["native_layer_name"])
            )
        return made

    @property
    def children(self) -> list[interfaces.objects.Template]:
        """None: they are resolved when they are asked for."""
        return []

    @property
    def size(self) -> int:
        """The size in bytes."""
        if self._size is None:
            self._size = int(self._vol["size"])
        return self._size


def quick(template: templates.ObjectTemplate) -> ObjectTemplate:
    """Returns the same template as one of ours."""
    updates, *constructed = template._vol.maps
    arguments = dict(collections.ChainMap(*constructed))
    made = ObjectTemplate(quick_class(arguments.pop("object_class")), **arguments)
    made.update_vol(**updates)
    return made
