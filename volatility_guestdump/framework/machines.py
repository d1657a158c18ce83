"""From Volatility's layers to machines: the one place where sources of machines are added.

A layer of ours knows its machine. Whoever wants the machine of a guest asks `machine_below`, with
any layer that stands on it.
"""

from typing import Optional

from volatility3.framework import interfaces
from volatility3.framework.configuration import requirements

from volatility_guestdump.framework.layers import MachineLayer
from volatility_guestdump.machine import Machine


def machine_of(layer: interfaces.layers.DataLayerInterface) -> Optional[Machine]:
    """Returns the machine whose guest-physical memory a layer is, or None."""
    return layer.machine if isinstance(layer, MachineLayer) else None


def machine_below(
    context: interfaces.context.ContextInterface, layer_name: str
) -> Optional[Machine]:
    """Returns the machine whose memory a layer is, or stands on, or None.

    Args:
        context: that has the layer.
        layer_name: of the layer.
    """
    names = [layer_name]
    while names:
        name = names.pop()
        if name not in context.layers:
            continue
        layer = context.layers[name]
        machine = machine_of(layer)
        if machine is not None:
            return machine
        names += layer.dependencies
    return None


class MachineRequirement(requirements.TranslationLayerRequirement):
    """A layer that is, or stands on, the memory of a machine."""

    def unsatisfied(
        self, context: interfaces.context.ContextInterface, config_path: str
    ) -> dict[str, interfaces.configuration.RequirementInterface]:
        """Validates that there is a machine."""
        missing = super().unsatisfied(context, config_path)
        if not missing:
            path = interfaces.configuration.path_join(config_path, self.name)
            if machine_below(context, str(context.config[path])) is None:
                missing = {path: self}
        return dict(missing)
