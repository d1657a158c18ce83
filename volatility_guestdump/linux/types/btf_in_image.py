# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Where a kernel's BTF lies in its image."""

import contextlib
import itertools
from typing import Optional

from volatility_guestdump.exceptions import BtfError
from volatility_guestdump.linux.finding.image import CODE_ALONE, KernelImage, read_run
from volatility_guestdump.linux.types.btf import Btf, btf_headers
from volatility_guestdump.linux.types.btf_kinds import Kind
from volatility_guestdump.machine import PAGE_SIZE, read_padded

#: A kernel's BTF has about 5 MiB.
_BTF_LIMIT = 64 << 20
#: What begins like BTF and is none.
_BTF_ATTEMPTS = 16

#: Where BTF starts and ends: from 5.7 on (90ceddcb4950), and before.
_BTF_SYMBOLS = (
    ("__start_BTF", "__stop_BTF"),
    ("_binary__btf_vmlinux_bin_start", "_binary__btf_vmlinux_bin_end"),
)


def read_btf(kernel: KernelImage) -> Btf:
    """Reads a kernel's BTF.

    Raises:
        BtfError: the kernel has none, or it is damaged.
    """
    for names in _BTF_SYMBOLS:
        start, stop = map(kernel.address, names)
        if start is not None and stop is not None and stop != start:
            break
    else:
        found = _search_btf(kernel) if kernel.lacks_symbols else None
        if kernel.kallsyms is None:
            raise BtfError("without symbols no type information (BTF) can be found")
        if found is None:
            also = f", and its {CODE_ALONE}" if kernel.has_code_alone else ""
            raise BtfError(f"the kernel has no type information (BTF){also}")
        return found
    if not 0 < stop - start <= _BTF_LIMIT:
        raise BtfError(f"the kernel's BTF would have {stop - start} bytes")
    data, missing = read_padded(kernel.read, start, stop - start)
    if not any(data[: PAGE_SIZE - start % PAGE_SIZE]):
        raise BtfError(
            "the first page of the kernel's types (BTF), which says where they are, is missing"
        ) from missing
    return Btf(data, start)


def _search_btf(kernel: KernelImage) -> Optional[Btf]:
    """Returns what decodes as BTF in the image, or None: its place is a variable's too."""
    for run in kernel.runs:
        image = read_run(kernel, run)
        for place in itertools.islice(btf_headers(image), _BTF_ATTEMPTS):
            with contextlib.suppress(BtfError):
                btf = Btf(image[place : place + _BTF_LIMIT], run.start + place)
                if btf.find("task_struct", Kind.STRUCT) is not None:
                    return btf
    return None
