# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Templates that construct Volatility's objects with their values at hand, and without cycles.

Every access to a member of an object asks a dozen times for what its `vol` holds: layer, offset,
members. Volatility keeps that in a chain of four mappings, of which one lists the fields of a
dataclass each time. Here a class between Volatility's and `ObjectInterface` puts the same values
into one dictionary, and structures, pointers and arrays take from it what their parts need: plugins
that read much take a quarter of the time.

An object of Volatility also holds the object that it is a member of, which holds all members that
were asked for. So the process id in a row of output keeps a task alive with whatever was read of
it, and the cycles keep the garbage collector busy. Here an object holds only what its parent's
`vol` holds; when the parent itself is asked for and is gone, it is made again, at the same place
of a memory that does not change.

Nor does an object need its constructors. Integers, pointers and structures, which nearly all
objects are, get what Volatility's constructors would give them by functions of their own; a test
compares the two.

What all that relies on is private to Volatility: `_vol` of objects and templates, `_data_format` of
primitives, `_cache` of pointers and `_concrete_members` of structures. Nothing else of ours uses
these.
"""

import abc
import collections
import copyreg
import functools
import weakref
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, Callable, Optional, Union

from volatility3.framework import interfaces, objects
from volatility3.framework.objects import templates

from volatility_guestdump.kept import Kept

_Object = interfaces.objects.ObjectInterface
_Information = interfaces.objects.ObjectInformation


#: Structures of which a layer keeps the members that were made last.
_KEPT_STRUCTURES = 512


class KeepsMembers:
    """A layer, of a memory that does not change, whose structures share members.

    Attributes:
        kept_members: members by their names, as far as they are made; by what tells their structure
            from all others.
    """

    kept_members: Kept[dict[str, Any]]


def kept_members() -> Kept[dict[str, Any]]:
    """Returns what a layer begins with."""
    return Kept(_KEPT_STRUCTURES)


class _Values(dict[str, Any]):
    """What an object's `vol` holds; its parent is made when it is asked for.

    Attributes:
        parent: the object's parent, or what the `vol` of its parent holds.
        template: makes the object; None: nothing of ours does.
        context: that it is made in.
        owner: the object, if anything asked for it already.
    """

    __slots__ = ("context", "owner", "parent", "template")

    parent: Union["_Values", _Object, None]
    template: Optional["ObjectTemplate"]
    context: interfaces.context.ContextInterface
    owner: Optional["weakref.ref[_Object]"]

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
            assert self.template is not None  # who asks has checked that
            made: Any = self.template(self.context, self._information())
            made._vol = self
            self.belongs_to(made)
            found = made
        return found

    def belongs_to(self, owner: _Object) -> None:
        """Notes which object has these values."""
        if self.template is not None and self.template.makes_referable:
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
        return collections.ChainMap, tuple(self.maps)


class _View(interfaces.objects.ReadOnlyMapping):
    """What an object shows of its values: an attribute is looked up once."""

    def __getattr__(self, attr: str) -> Any:
        try:
            return self[attr]
        except KeyError:
            return super().__getattr__(attr)


class _Holder(_Object):
    """Takes the place of `ObjectInterface` in constructing an object, with one dictionary.

    It comes last among the bases of a class, where `super().__init__` of Volatility's own class
    leads to it: that still adds what it needs, such as the count of an array.
    """

    def __init__(
        self,
        context: interfaces.context.ContextInterface,
        type_name: str,
        object_info: _Information,
        **arguments: Any,
    ) -> None:
        values = _Values(arguments)
        values.update(vars(object_info))
        values["type_name"] = type_name
        values["offset"] &= context.layers[values["layer_name"]].address_mask
        values.owner = values.template = None
        values.context = context
        values.parent = _held(values.pop("parent"))
        self._vol: Any = values
        self._context = context

    @property
    def vol(self) -> interfaces.objects.ReadOnlyMapping:
        """What Volatility knows of the object."""
        return _View(self._vol)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Objects that are copied to another process are plain ones of Volatility.
        stock = _stock_class(type(self))
        # Primitives alone say what they are constructed with anew.
        arguments: tuple[Any, ...] = getattr(self, "__getnewargs_ex__", tuple)()
        return _stock_object, (stock, *arguments), self.__dict__


def _stock_class(object_class: type[Any]) -> type[Any]:
    """Returns the class that one of `quick_class` is made of."""
    return object_class.__bases__[-2]


def _held(parent: Optional[_Object]) -> Union[_Values, _Object, None]:
    """Returns what an object holds of the one that it is a part of."""
    held: object = None if parent is None else parent._vol
    if not isinstance(held, _Values) or held.template is None:
        return parent
    if held.owner is None:
        held.belongs_to(parent)  # type: ignore[arg-type] # it has values
    return held


def _stock_object(
    stock: type[Any], arguments: Sequence[Any] = (), keywords: Optional[dict[str, Any]] = None
) -> Any:
    return stock.__new__(stock, *arguments, **(keywords or {}))


def _merged(chain: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns what a chain of mappings holds, as `dict(ChainMap(*chain))` does but quickly."""
    merged: dict[str, Any] = {}
    for mapping in reversed(chain):
        merged.update(mapping)
    return merged


#: Volatility's constructors, which quick ones take the place of.
_NEW_PRIMITIVE: Any = objects.PrimitiveObject.__new__
_INIT_AGGREGATE: Any = objects.AggregateType.__init__


def _primitive(
    object_class: type[Any],
    context: interfaces.context.ContextInterface,
    values: _Values,
    value: int,
) -> Any:
    """Constructs what `PrimitiveObject.__init__` would of an integer that is read."""
    data_format = values["data_format"]
    made = _NEW_PRIMITIVE(object_class, context, values["type_name"], None, data_format, value)
    state = made.__dict__
    state["_vol"], state["_context"], state["_data_format"] = values, context, data_format
    return made


def _integer(
    object_class: type[Any],
    context: interfaces.context.ContextInterface,
    layer: interfaces.layers.DataLayerInterface,
    values: _Values,
) -> Any:
    """Reads and constructs an integer."""
    length, order, signed = values["data_format"]
    value = int.from_bytes(layer.read(values["offset"], length), order, signed=signed)
    return _primitive(object_class, context, values, value)


def _pointer(
    object_class: type[Any],
    context: interfaces.context.ContextInterface,
    layer: interfaces.layers.DataLayerInterface,
    values: _Values,
) -> Any:
    """Reads a pointer, and constructs what `Pointer.__init__` would."""
    length, order, _ = values["data_format"]
    native = context.layers[values["native_layer_name"]]
    value = int.from_bytes(layer.read(values["offset"], length), order) & native.address_mask
    made = _primitive(object_class, context, values, value)
    made.__dict__["_cache"] = {}
    return made


def _aggregate(
    object_class: type[Any],
    context: interfaces.context.ContextInterface,
    layer: interfaces.layers.DataLayerInterface,
    values: _Values,
) -> Any:
    """Constructs what `AggregateType.__init__` would."""
    made: Any = object.__new__(object_class)
    state = made.__dict__
    state["_vol"], state["_context"] = values, context
    state["_concrete_members"] = _members_at(layer, object_class, values)
    return made


def _members_at(
    layer: interfaces.layers.DataLayerInterface,
    object_class: type[_Object],
    values: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns the members of a structure that are made.

    Structures at the same address share them: lists of open files, for one, lead to the same
    directories again and again.
    """
    if not isinstance(layer, KeepsMembers):
        return {}
    key = object_class, values["type_name"], values["offset"], values["native_layer_name"]
    return layer.kept_members.get(key, dict)


#: Constructs an object in a layer that has certain values.
_Construct = Callable[
    [
        type[Any],
        interfaces.context.ContextInterface,
        interfaces.layers.DataLayerInterface,
        _Values,
    ],
    Any,
]


def _constructor(object_class: type[Any], arguments: Mapping[str, Any]) -> Optional[_Construct]:
    """Returns what constructs the objects of a class as Volatility's constructors do, but quickly.

    None where these have more to do, or refuse: an argument that they do not know, for one.
    """
    if not issubclass(object_class, _Holder):
        return None
    names = arguments.keys() - {"type_name"}
    if object_class.__init__ is _INIT_AGGREGATE:
        return _aggregate if names == {"size", "members"} else None
    stock = _stock_class(object_class)
    length, _, signed = arguments.get("data_format", (0, "", False))
    if not length:
        return None
    if stock is objects.Pointer:
        return _pointer if names == {"data_format", "subtype"} and not signed else None
    if stock in (objects.Integer, objects.Char, objects.Boolean) and names == {"data_format"}:
        return _integer
    return None


class ObjectTemplate(templates.ObjectTemplate):
    """A template of any object."""

    #: Class of the objects, what they are constructed with and by, and their size; None: not known
    #: yet.
    _made_of: Optional[tuple[type[_Object], dict[str, Any], Optional[_Construct]]] = None
    _size: Optional[int] = None
    #: Whether a weak reference to the objects is possible, once one was made. Not to integers,
    #: strings and bytes.
    makes_referable = False

    def _prepare(self) -> tuple[type[_Object], dict[str, Any], Optional[_Construct]]:
        arguments = _merged(self._vol.maps)
        object_class = arguments.pop("object_class")
        self.makes_referable = not issubclass(object_class, objects.PrimitiveObject)
        self._made_of = object_class, arguments, _constructor(object_class, arguments)
        return self._made_of

    def make(
        self,
        context: interfaces.context.ContextInterface,
        layer_name: str,
        offset: int,
        native_layer_name: str,
        member_name: Optional[str],
        parent: Optional[_Object],
    ) -> _Object:
        """Constructs an object as `__call__` does, for who has masked the offset."""
        object_class, arguments, construct = self._made_of or self._prepare()
        if construct is None:
            return self(
                context,
                _Information(layer_name, offset, native_layer_name, member_name, parent, self.size),
            )
        values = _Values(arguments)
        values["layer_name"] = layer_name
        values["offset"] = offset
        values["native_layer_name"] = native_layer_name
        values["member_name"] = member_name
        values["size"] = self.size
        values.parent = _held(parent)
        values.owner = None
        values.template = self
        values.context = context
        made: _Object = construct(object_class, context, context.layers[layer_name], values)
        return made

    def __call__(
        self, context: interfaces.context.ContextInterface, object_info: _Information
    ) -> _Object:
        """Constructs the object."""
        object_class, arguments, _ = self._made_of or self._prepare()
        made = object_class(context=context, object_info=object_info, **arguments)
        # A string that ends before its length is a plain one.
        values: object = getattr(made, "_vol", None)
        if isinstance(values, _Values):
            values.template = self
        return made

    def clone(self) -> "ObjectTemplate":
        """Returns a copy without what was updated."""
        updates, *constructed = self._vol.maps
        # copy.copy asks Template.__getattr__ for much that is not there.
        made = self.__class__.__new__(self.__class__)
        made.__dict__.update(self.__dict__)
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
    place = context.layers[layer_name].address_mask & (values["offset"] + offset)
    native_layer_name = values["native_layer_name"] or layer_name
    if isinstance(template, ObjectTemplate):
        return template.make(context, layer_name, place, native_layer_name, name, whole)
    information = _Information(layer_name, place, native_layer_name, name, whole, template.size)
    made: _Object = template(context=context, object_info=information)
    return made


class _QuickPointer(objects.Pointer):
    """A pointer that asks its `vol` once for what it points to."""

    def dereference(self, layer_name: Optional[str] = None) -> _Object:
        """Returns what it points to, the same object each time."""
        values: object = self._vol
        if not isinstance(values, _Values):
            return super().dereference(layer_name)
        layer_name = layer_name or values["native_layer_name"]
        found: Optional[_Object] = self._cache.get(layer_name)
        if found is None:
            context, template = self._context, values["subtype"]
            offset = self & context.layers[layer_name].address_mask
            if isinstance(template, ObjectTemplate):
                found = template.make(context, layer_name, offset, layer_name, None, self)
            else:
                information = _Information(
                    layer_name, offset, layer_name, parent=self, size=template.size
                )
                found = template(context=context, object_info=information)
            self._cache[layer_name] = found
        return found

    def is_readable(self, layer_name: Optional[str] = None) -> bool:
        """Returns whether all that it points to can be read."""
        values: object = self._vol
        if not isinstance(values, _Values):
            return bool(super().is_readable(layer_name))
        layer = self._context.layers[layer_name or values["native_layer_name"]]
        return bool(layer.is_valid(self, values["subtype"].size))


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


class _QuickMembers(objects.AggregateType):
    """A structure that asks its `vol` once for what its members need."""

    def __getattr__(self, attr: str) -> Any:
        state = self.__dict__
        made: Optional[dict[str, Any]] = state.get("_concrete_members")
        if made is not None:
            if attr in made:
                return made[attr]
            values: object = state["_vol"]
            # Volatility gives some names with an underscore a meaning of their own.
            if isinstance(values, _Values) and not attr.startswith("_"):
                found = values["members"].get(attr)
                if found is not None:
                    offset, template = found
                    member = made[attr] = _part(self, values, offset, template, attr)
                    return member
        return super().__getattr__(attr)

    def has_member(self, member_name: str) -> bool:
        """Returns whether there is a member of a name."""
        return member_name in self._vol["members"]


#: Volatility's class -> ours with quick ways to what it leads to.
_QUICK: Mapping[type[_Object], type[_Object]] = {
    objects.AggregateType: _QuickMembers,
    objects.Pointer: _QuickPointer,
    objects.Array: _QuickArray,
}


class _QuickClass(abc.ABCMeta):
    """The class of those that `quick_class` makes: they have no name to be pickled by."""


@functools.cache
def quick_class(object_class: type[_Object]) -> type[_Object]:
    """Returns a class of the same name and behaviour whose objects are made and read quickly.

    Args:
        object_class: the class. Where it has its own ways to what its objects lead to, it keeps
            those.
    """
    if issubclass(object_class, _Holder):
        return object_class
    bases: list[type] = [object_class, _Holder]
    for stock, quick_base in _QUICK.items():
        # Its methods, not its name and documentation.
        methods = [name for name in vars(quick_base) if callable(vars(stock).get(name))]
        if issubclass(object_class, stock) and all(
            getattr(object_class, name) is getattr(stock, name) for name in methods
        ):
            bases.insert(0, quick_base)
    names = ("__module__", "__qualname__", "__doc__")
    attributes = {name: getattr(object_class, name) for name in names}
    made: Any = _QuickClass(object_class.__name__, tuple(bases), attributes)
    return made  # type: ignore[no-any-return]


def _reduce_class(made: type[_Object]) -> tuple[Any, ...]:
    return quick_class, made.__bases__[-2:-1]


# Templates, and what layers keep of members, are pickled with a context.
copyreg.pickle(_QuickClass, _reduce_class)  # type: ignore[arg-type] # it is a class of classes


class StructureTemplate(ObjectTemplate):
    """A structure, for the symbol space without children: it would resolve them all at once."""

    def __call__(
        self, context: interfaces.context.ContextInterface, object_info: _Information
    ) -> _Object:
        """Constructs the object."""
        layer_name = object_info.layer_name
        layer = context.layers[layer_name]
        if (self._made_of or self._prepare())[2] is not None:
            made = self.make(
                context,
                layer_name,
                object_info.offset & layer.address_mask,
                object_info.native_layer_name,
                object_info.member_name,
                object_info.parent,
            )
            made._vol["size"] = object_info.size
            return made
        made = super().__call__(context, object_info)
        state: dict[str, Any] = made.__dict__
        state["_concrete_members"] = _members_at(layer, type(made), made._vol)
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
    arguments = _merged(constructed)
    made = ObjectTemplate(quick_class(arguments.pop("object_class")), **arguments)
    made.update_vol(**updates)
    return made
