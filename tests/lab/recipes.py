"""The guests that the lab can make, and why each of them is there."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Optional

from tests.lab import threads

#: Counts up with every change of the lab that changes its guests: older ones are made anew.
LAB_VERSION = 1

#: How a guest ends: it panics by itself, by an NMI from outside, by the timer of a kernel module
#: (softdog, a watchdog that nobody feeds), or runs until stopped.
PANIC, NMI, MODULE, STOP = "panic", "nmi", "module", "stop"

#: Fields of a recipe that came after guests had been made: at their defaults they say nothing new,
#: so they do not count for the digest, and the guests stay what they are.
_LATER_FIELDS = ("devices", "dumps", "firmware")

#: What a vCPU does at the moment of the stop.
USER, KERNEL, HALTED = "user", "kernel", "halted"


@dataclass(frozen=True)
class KernelSource:
    """Where a kernel comes from: always the newest one that the suite has.

    Attributes:
        suite: of Debian; if it gets security updates, these are looked at too.
        release: regular expression of what `uname -r` says.
        architecture: of the packages.
        security: whether the suite gets security updates.
    """

    suite: str
    release: str
    architecture: str = "amd64"
    security: bool = False


@dataclass(frozen=True)
class Recipe:
    """How to make one guest.

    Attributes:
        name: of the guest, and of its folder.
        reason: what the guest shows that no other does.
        kernel: what it runs.
        format_version: of its debug.guest.
        memory: in MiB.
        below_4g: how many MiB of it lie below 4 GiB; the rest begins there, behind a hole. None
            leaves it to QEMU, which makes no hole unless there are 3.5 GiB.
        vcpus: how many.
        five_level: whether the CPU has 5-level paging.
        append: to the kernel's command line.
        modules: kernel modules to load; one that the kernel's package lacks is left out.
        start: shell commands that start the guest's processes, all in the background.
        end: `PANIC`, `NMI` or `STOP`.
        modes: for a guest that is stopped, what each vCPU must be doing then.
        slow: whether it takes so much time or space that one has to ask for it.
        devices: further devices of the machine, as QEMU's -device wants them.
        dumps: dumps that QEMU itself writes beside debug.guest, of the same moment: names of files
            from `qemu.DUMPS`.
        firmware: the package of Debian that the firmware comes from, see `packages.FIRMWARE`; None
            for QEMU's own BIOS.
    """

    name: str
    reason: str
    kernel: KernelSource
    format_version: int
    memory: int = 256
    below_4g: Optional[int] = None
    vcpus: int = 2
    five_level: bool = False
    append: str = ""
    modules: tuple[str, ...] = ("dummy", "loop")
    start: str = "sleep 1000000 &"
    end: str = PANIC
    modes: tuple[str, ...] = ()
    slow: bool = False
    devices: tuple[str, ...] = ()
    dumps: tuple[str, ...] = ()
    firmware: Optional[str] = None

    @property
    def digest(self) -> str:
        """Tells whether a guest on disk was made by this very recipe and lab."""
        fields = dataclasses.asdict(self)
        for field in dataclasses.fields(self):
            if field.name in _LATER_FIELDS and fields[field.name] == field.default:
                del fields[field.name]
        # Words only; they do not change the guest.
        del fields["reason"], fields["slow"]
        text = json.dumps([LAB_VERSION, fields], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


BULLSEYE = KernelSource("bullseye", r"5\.10\.0-\d+-cloud-amd64", security=True)
BOOKWORM = KernelSource("bookworm", r"6\.1\.0-\d+-cloud-amd64", security=True)
BOOKWORM_NEW = KernelSource("bookworm", r"6\.12\.\d+\+deb12-cloud-amd64", security=True)
BOOKWORM_PAE = KernelSource("bookworm", r"6\.1\.0-\d+-686-pae", "i386", security=True)
SID = KernelSource("sid", r"\d+\.\d[^-]*(-\d+)?-cloud-amd64")
EXPERIMENTAL = KernelSource("experimental", r"\d+\.\d[^-]*(-\d+)?-cloud-amd64")

# The shell waits for a writer that never comes.
PROCESSES = """\
httpd -f -p 80 &
nc -l -p 8000 &
tail -f /dev/null &
sh -c 'read -r line < /fifo' &
sleep 1000000 &
"""

MANY_PROCESSES = """\
count=0
while [ $count -lt 500 ]; do
    sleep 1000000 &
    count=$((count + 1))
done
"""

#: So many tasks that the kernel, with 512 MiB, would refuse the last of them.
THOUSANDS_OF_PROCESSES = f"""\
echo 20000 > /proc/sys/kernel/threads-max
{threads.commands(499, "/threads")}\
{PROCESSES}\
/threads &
/threads &
/threads &
count=0
while [ $count -lt 3000 ]; do
    sleep 1000000 3< /sys/kernel/mm/transparent_hugepage/enabled &
    count=$((count + 1))
done
"""

SPINNER = "sh -c 'while :; do :; done'"

_RECIPES = (
    Recipe(
        name="hole-pti",
        reason="the usual case: a hole in memory, page-table isolation, KASLR, a few processes",
        kernel=BOOKWORM,
        format_version=6,
        memory=192,
        below_4g=128,
        append="pti=on",
        start=PROCESSES,
    ),
    Recipe(
        name="la57",
        reason="5-level paging",
        kernel=BOOKWORM,
        format_version=7,
        five_level=True,
        start=PROCESSES,
    ),
    Recipe(
        name="6.12",
        reason="a kernel of the generation between: kallsyms order of 6.4, ORC form 3, pcpu_hot",
        kernel=BOOKWORM_NEW,
        format_version=5,
    ),
    Recipe(
        name="5.10",
        reason="a kernel whose VMCOREINFO does not name its kallsyms tables",
        kernel=BULLSEYE,
        format_version=4,
    ),
    Recipe(
        name="newest",
        reason="the newest kernel that Debian calls ready",
        kernel=SID,
        format_version=6,
        five_level=True,
    ),
    Recipe(
        name="next",
        reason="the kernel to come: notices a change before its users do",
        kernel=EXPERIMENTAL,
        format_version=7,
        memory=192,
        below_4g=128,
    ),
    Recipe(
        name="user-mode",
        reason="every vCPU runs user code: the user half of CR3, a gs_base that is the user's",
        kernel=BOOKWORM,
        format_version=3,
        memory=192,
        below_4g=128,
        append="pti=on",
        start=f"on_cpu 0 {SPINNER}\non_cpu 1 {SPINNER}\n",
        end=STOP,
        modes=(USER, USER),
    ),
    Recipe(
        name="nokaslr",
        reason="the kernel where it was linked; version 1, whose vCPUs move with the holes",
        kernel=BOOKWORM,
        format_version=1,
        memory=192,
        below_4g=128,
        append="nokaslr",
    ),
    Recipe(
        name="i686-pae",
        reason="a 32-bit kernel: PAE paging, memory above 4 GiB all the same",
        kernel=BOOKWORM_PAE,
        format_version=5,
        memory=192,
        below_4g=128,
    ),
    Recipe(
        name="idle-mix",
        reason="no panic: vCPUs in user code, in a system call, and idle at the same moment",
        kernel=BOOKWORM,
        format_version=3,
        vcpus=4,
        start=f"on_cpu 1 {SPINNER}\non_cpu 2 dd if=/dev/zero of=/dev/null bs=64M\n",
        end=STOP,
        modes=(HALTED, USER, KERNEL, HALTED),
    ),
    Recipe(
        name="nmi",
        reason="a panic in an NMI that interrupts user or idle code: a stack of several parts",
        kernel=BOOKWORM,
        format_version=4,
        memory=192,
        below_4g=128,
        end=NMI,
    ),
    Recipe(
        name="module",
        reason="a panic in a kernel module's function, in an interrupt",
        kernel=BOOKWORM_NEW,
        format_version=6,
        modules=("dummy", "loop", "watchdog", "softdog"),
        end=MODULE,
    ),
    Recipe(
        name="big",
        reason="8 GiB with the usual hole below 4 GiB: cost must not follow the size of memory",
        kernel=BOOKWORM,
        format_version=4,
        memory=8192,
        start=PROCESSES,
        slow=True,
    ),
    Recipe(
        name="busy",
        reason="many processes: cost must follow them gently",
        kernel=BOOKWORM,
        format_version=6,
        start=MANY_PROCESSES,
        slow=True,
    ),
    Recipe(
        name="large",
        reason="a server's number of tasks: 3,000 processes, and 1,500 threads in three of them",
        kernel=BOOKWORM_NEW,
        format_version=6,
        memory=512,
        start=THOUSANDS_OF_PROCESSES,
        slow=True,
    ),
    Recipe(
        name="qemu-elf",
        reason="dumps that QEMU wrote itself, with a VMCOREINFO note: they have the registers too",
        kernel=BOOKWORM,
        format_version=6,
        memory=192,
        below_4g=128,
        append="pti=on",
        # Its driver hands VMCOREINFO to the device.
        modules=("dummy", "loop", "qemu_fw_cfg"),
        start=PROCESSES,
        devices=("vmcoreinfo",),
        dumps=("dump.elf", "dump-paging.elf", "dump.kdump"),
    ),
    Recipe(
        name="qemu-elf-la57",
        reason="QEMU's dumps with 5-level paging, and a vCPU whose gs_base is the user's",
        kernel=SID,
        format_version=7,
        vcpus=3,
        five_level=True,
        start=f"on_cpu 1 {SPINNER}\non_cpu 2 dd if=/dev/zero of=/dev/null bs=64M\n",
        end=STOP,
        modes=(HALTED, USER, KERNEL),
        dumps=("dump.elf", "dump-paging.elf"),
    ),
    Recipe(
        name="uefi",
        reason="booted by UEFI: memory in many small ranges, firmware that stays in memory",
        kernel=BOOKWORM,
        format_version=6,
        start=PROCESSES,
        firmware="ovmf",
    ),
)

#: Name -> recipe, of every guest that the lab can make.
GUESTS: dict[str, Recipe] = {recipe.name: recipe for recipe in _RECIPES}
