# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What is said of dumps in formats that are read neither here nor by Volatility.

Without it Volatility searches all of such a file for a kernel, finds none, and says no more.
"""

import logging
from collections.abc import Mapping

from volatility3.framework import constants, interfaces
from volatility3.framework.layers import physical

from volatility_guestdump.files.location import STREAM_ERRORS, display_name, open_location
from volatility_guestdump.framework.stacking import Order

vollog = logging.getLogger(__name__)

_ELF_FROM_QEMU = (
    "take an ELF of the guest's memory: `virsh dump --memory-only`, or dump-guest-memory of QEMU's "
    "monitor without compression"
)
_KDUMP = f"which crash reads; {_ELF_FROM_QEMU}"

#: How a file begins -> what it is, and what to do. Sources: diskdump.h of crash, makedumpfile.h,
#: qemu_saveimage.h of libvirt, migration/qemu-file-types.h of QEMU.
SIGNATURES: Mapping[bytes, str] = {
    b"KDUMP   ": f"a kdump-compressed file, {_KDUMP}",
    b"DISKDUMP": f"a kdump-compressed file of the older form, {_KDUMP}",
    b"makedumpfile\0\0\0\0": "a flattened file of makedumpfile, or of QEMU's kdump formats, "
    f"{_KDUMP}",
    b"LibvirtQemudSave": "a machine that libvirt saved for restoring it (virsh dump or virsh "
    f"save), in which memory is not in order; {_ELF_FROM_QEMU}",
    b"LibvirtQemudPart": "a machine that libvirt did not finish saving, in which memory is not in "
    f"order; {_ELF_FROM_QEMU}",
    b"QEVM": "QEMU's stream of a machine's state (migrate, savevm), in which memory is not in "
    f"order; {_ELF_FROM_QEMU}",
}


class UnsupportedFormatStacker(interfaces.automagic.StackerLayerInterface):
    """Stacks nothing: says what a file is that cannot be read, and how to get one that can."""

    stack_order = Order.UNSUPPORTED

    @classmethod
    def stack(
        cls,
        context: interfaces.context.ContextInterface,
        layer_name: str,
        progress_callback: constants.ProgressCallback = None,
    ) -> None:
        """Warns of a file in a format that is known, but not read."""
        layer = context.layers[layer_name]
        if type(layer) is not physical.FileLayer:
            return
        try:
            with open_location(layer.location) as stream:
                start = stream.read(max(map(len, SIGNATURES)))
        except STREAM_ERRORS:
            return
        for signature, what in SIGNATURES.items():
            if start.startswith(signature):
                vollog.warning(f"{display_name(layer.location)} is {what}")
