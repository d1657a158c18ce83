"""Templates that construct Volatility's objects with their values at hand.

Every access to a member of an object asks a dozen times for what its `vol` holds: layer, offset,
members. Volatility keeps that in a chain of four mappings, of which one lists the fields of a
dataclass each time. Here the same values stand in the first mapping too, and the chain asks that
one first: plugins that read much take a third less time.
"""

import collections
from typing import Any, Optional

from volatility3.framework import interfaces, objects
from volatility3.framework.objects import templates


class _Values(collections.ChainMap[str, Any]):
    """A chain of mappings that asks the first one without going through the chain."""

    def __contains__(self, key: object) -> bool:
        return key in self.maps[0] or super().__contains__(key)

    def __getitem__(self, key: str) -> Any:
        first = self.maps[0]
        return first[key] if key in first else super().__getitem__(key)


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
        own, located, *others = made._vol.maps
        values = {
            **arguments,
            "layer_name": object_info.layer_name,
            "native_layer_name": object_info.native_layer_name,
            "member_name": object_info.member_name,
            "parent": object_info.parent,
            "size": object_info.size,
            **located,
            **own,
        }
        made._vol = _Values(values, located, *others)
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
