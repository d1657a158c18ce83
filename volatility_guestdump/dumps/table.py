# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The formats of dumps: a new one is a module beside this, and a row here."""

from collections.abc import Sequence

from volatility_guestdump.dumps.debug_guest import DebugGuest
from volatility_guestdump.dumps.format import Format, Stage
from volatility_guestdump.dumps.glued import Glued
from volatility_guestdump.dumps.memory_images import Avml, Lime
from volatility_guestdump.dumps.qemu_elf import ElfCore, QemuElfCore
from volatility_guestdump.dumps.raw import Raw, SearchedRaw
from volatility_guestdump.dumps.vmware_state import VmwareStateFile

#: In the order in which they are asked. Where a .vmem has both descriptions it is a snapshot's
#: memory, so states of VMware come before debug.guest.
FORMATS: Sequence[Format] = (
    VmwareStateFile(),
    DebugGuest(),
    QemuElfCore(),
    Lime(),
    Avml(),
    ElfCore(),
    Raw(),
    Glued(),
    SearchedRaw(),
)

_BY_NAME = {each.name: each for each in FORMATS}


def format_named(name: str) -> Format:
    """Returns the format that `Parts.format` names."""
    return _BY_NAME[name]


def of_stage(stage: Stage) -> Sequence[Format]:
    """Returns the formats that are asked in a stage, in order."""
    return [each for each in FORMATS if each.stage is stage]
