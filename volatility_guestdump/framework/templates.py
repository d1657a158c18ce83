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
import copyreg
import functools
import weakref
from collections.abc import MutableMapping
from typing import Any, Optional, Union

from volatility3.framework import interfaces, objects
from volatility3.framework.objects import templates

_Object = interfaces.objects.ObjectInterface
_Information = interfaces.objects.ObjectInformation


class _Values(dict[str, Any]):
    """What an object's `vol` holds; its parent is made when it is asked for.

    Args:
        values: all but the parent.

    Attributes:
        parent: the object's parent, or what the `vol` of its parent holds.
        template: makes the object.
        context: that it is made in.
    """

    __slots__ = ("_object", "context", "parent", "template")

    parent: Union["_Values", _Object, None]
    template: "ObjectTemplate"
    context: interfaces.context.ContextInterface

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        self._object: Optional[weakref.ref[_Object]] = None

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
        found = None if self._object is None else self._object()
        if found is None:
            found = self.template(self.context, self._information())
            _give(found, self)
            self.belongs_to(found)
        return found

    def belongs_to(self, owner: _Object) -> None:
        """Notes which object has these values."""
        # What derives from int or bytes cannot be referred to weakly: it is made again.
        if not isinstance(owner, objects.PrimitiveObject):
            self._object = weakref.ref(owner)

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
        own, located, *_ = made._vol.maps
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
                held.belongs_to(parent)
                values.parent = held
        _give(made, values)
        return made

    def update_vol(self, **new_arguments: Any) -> None:
        """Updates the arguments that objects are constructed with."""
        self._made_of = self._size = None
        super().update_vol(**new_arguments)

    @property
    def size(self) -> int:
        """The size in bytes."""
        if self._size is None:
            if issubclass(self._vol["object_class"], objects.PrimitiveObject):
                self._size = int(self._vol["data_format"].length)
            else:
                return int(super().size)
        return self._size


class _QuickMembers(objects.AggregateType):
    """A structure that asks its `vol` once for what its members need."""

    def __getattr__(self, attr: str) -> Any:
        values: object = self.__dict__.get("_vol")
        # Volatility gives some names with an underscore a meaning of their own.
        if isinstance(values, _Values) and not attr.startswith("_"):
            found = values["members"].get(attr)
            if found is not None and not isinstance(found[1], templates.ReferenceTemplate):
                return self._made_member(attr, values, *found)
        return super().__getattr__(attr)

    def _made_member(
        self, name: str, values: _Values, offset: int, template: interfaces.objects.Template
    ) -> Any:
        member: Any = self._concrete_members.get(name)
        if member is None:
            layer_name = values["layer_name"]
            mask = self._context.layers[layer_name].address_mask
            information = _Information(
                layer_name=layer_name,
                offset=mask & (values["offset"] + offset),
                member_name=name,
                parent=self,
                native_layer_name=values["native_layer_name"] or layer_name,
                size=template.size,
            )
            member = template(context=self._context, object_info=information)
            self._concrete_members[name] = member
        return member

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Where it is copied to it is what Volatility would have made.
        return copyreg.__newobj__, (type(self).__bases__[1],), self.__dict__  # type: ignore[attr-defined]


@functools.cache
def with_quick_members(object_class: type[_Object]) -> type[_Object]:
    """Returns a class of structures of the same name and behaviour that finds members quickly."""
    if object_class.__getattr__ is not objects.AggregateType.__getattr__:
        return object_class
    names = ("__module__", "__qualname__", "__doc__")
    attributes = {name: getattr(object_class, name) for name in names}
    return type(object_class.__name__, (_QuickMembers, object_class), attributes)


class StructureTemplate(ObjectTemplate):
    """A structure, for the symbol space without children: it would resolve them all at once."""

    @property
    def children(self) -> list[interfaces.objects.Template]:
        """None: they are resolved when they are asked for."""
        return []

    @property
    def size(self) -> int:
        """The size in bytes."""
        size: int = self._vol["size"]
        return size


def quick(template: templates.ObjectTemplate) -> ObjectTemplate:
    """Returns the same template as one of ours."""
    updates, *constructed = template._vol.maps
    made = ObjectTemplate(**collections.ChainMap(*constructed))
    made.update_vol(**updates)
    return made
