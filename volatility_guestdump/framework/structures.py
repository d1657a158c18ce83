# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The structures of debug.guest in Volatility's symbol space, so that volshell can show them.

`dt("guestdump1!guest_vcpu")` shows the structure of this very dump; those of all versions stand
beside it under their own names (symbols/debug-guest.json).
"""

from typing import Any

from volatility3.framework import interfaces
from volatility3.framework.symbols import intermed

from volatility_guestdump import resources
from volatility_guestdump.sources import debug_guest


class StructuresTable(intermed.IntermediateSymbolTable):
    """A symbol table of debug.guest's structures.

    Args:
        context: that the table is made for.
        config_path: of the table.
        name: of the table.
        version: of the format, one of `debug_guest.VERSIONS`.
    """

    def __init__(
        self,
        context: interfaces.context.ContextInterface,
        config_path: str,
        name: str,
        version: int,
    ) -> None:
        isf = resources.read_json(debug_guest.STRUCTURES)
        types: dict[str, Any] = isf["user_types"]
        chosen = debug_guest.VERSIONS[version]
        document = {
            **isf,
            "user_types": {
                **types,
                "guest_header": types[chosen.header],
                "guest_vcpu": types[chosen.vcpu],
            },
        }
        self._delegate = intermed.Version8Format(context, config_path, name, document)
        # Past the loading of a JSON file.
        super(intermed.IntermediateSymbolTable, self).__init__(
            context, config_path, name, self._delegate.natives
        )
