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
        parent: the object's parent, or what the `vol` of its parent holds.
        template: makes the object.
        context: that it is made in.
    """

    __slots__ = ("_context", "_object", "_parent", "_template")

    def __init__(
        self,
        values: dict[str, Any],
        parent: Union["_Values", _Object, None],
        template: "ObjectTemplate",
        context: interfaces.context.ContextInterface,
    ) -> None:
        super().__init__(values)
        self._parent = parent
        self._template = template
        self._context = context
        self._object: Optional[weakref.ref[_Object]] = None

    def __contains__(self, key: object) -> bool:
        return key == "parent" or dict.__contains__(self, key)

    def __missing__(self, key: str) -> Any:
        if key != "parent":
            raise KeyError(key)
        return self._parent.object() if isinstance(self._parent, _Values) else self._parent

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
            found = self._template(self._context, self._information())
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

    _arguments: Optional[dict[str, Any]] = None

    def __call__(
        self,
        context: interfaces.context.ContextInterface,
        object_info: interfaces.objects.ObjectInformation,
    ) -> interfaces.objects.ObjectInterface:
        """Constructs the object."""
        arguments = self._arguments
        if arguments is None:
            arguments = self._arguments = dict(self._vol)
            del arguments["object_class"]
        made: interfaces.objects.ObjectInterface = self._vol["object_class"](
            context=context, object_info=object_info, **arguments
        )
        own, located, *_ = made._vol.maps
        parent: Union[_Values, _Object, None] = object_info.parent
        if object_info.parent is not None:
            held: object = object_info.parent._vol
            if isinstance(held, _Values):
                held.belongs_to(object_info.parent)
                parent = held
        values = {
            **arguments,
            "layer_name": object_info.layer_name,
            "native_layer_name": object_info.native_layer_name,
            "member_name": object_info.member_name,
            "size": object_info.size,
            **located,
            **own,
        }
        _give(made, _Values(values, parent, self, context))
        return made

    def update_vol(self, **new_arguments: Any) -> None:
        """Updates the arguments that objects are constructed with."""
        self._arguments = None
        super().update_vol(**new_arguments)

    @property
    def size(self) -> int:
        """The size in bytes."""
        if issubclass(self._vol["object_class"], objects.PrimitiveObject):
            length: int = self._vol["data_format"].length
            return length
        size: int = super().size
        return size


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
