# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The guests that the lab can make, and why each of them is there."""

import dataclasses
import hashlib
import json
import pathlib
from dataclasses import dataclass
from typing import Optional

from tests.lab import threads

#: Counts up with every change of the lab that changes its guests: older ones are made anew.
LAB_VERSION = 1

#: C sources of programs, each a program of its own, and of kernel modules.
PROGRAM_SOURCES = pathlib.Path(__file__).parent / "programs"
MODULE_SOURCES = pathlib.Path(__file__).parent / "module"

#: How a guest ends: it panics by itself, by an NMI from outside, by the timer of a kernel module
#: (softdog, a watchdog that nobody feeds), or runs until stopped.
PANIC, NMI, MODULE, STOP = "panic", "nmi", "module", "stop"

#: Two more ends: a second kernel takes over, because the first panicked (kdump) or because it was
#: asked to (kexec). The guest is stopped when the second one has told its own facts.
KDUMP, KEXEC = "kdump", "kexec"

#: Fields of a recipe that came after guests had been made: at their defaults they say nothing new,
#: so they do not count for the digest, and the guests stay what they are.
_LATER_FIELDS = (
    *("devices", "dumps", "firmware"),
    *("finish", "programs", "built_modules", "files", "second", "in_bpf", "shows"),
    *("module_name", "lime", "disks"),
)

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
        end: `PANIC`, `NMI`, `MODULE`, `STOP`, `KDUMP` or `KEXEC`.
        modes: for a guest that is stopped, what each vCPU must be doing then; empty for anything.
        slow: whether one has to ask for it: it takes much time or space, or shows what another one
            shows too. Tests of such guests are marked as slow.
        odd: whether it serves tests of its own, and those of all guests pass it over.
        finish: shell commands that bring the end about, once all facts are told; empty leaves it
            to `end`. A command that is no built-in one starts a process that no fact names.
        programs: the lab's own programs in the guest's /bin, by the names of their sources.
        built_modules: the lab's own kernel modules in the guest's /lab, which nothing loads.
        files: path and contents of further files; their folders must exist.
        module_name: what the built module odd_name is called in the guest.
        second: whether the guest has its own kernel and an initramfs for it in /second.
        in_bpf: whether a vCPU must be in the code of a BPF program when the guest is stopped.
        shows: regular expression that must be found on the console at the end.
        devices: further devices of the machine, as QEMU's -device wants them.
        lime: whether the guest has LiME, the module that writes its memory to a file, in /lab.
        disks: how many empty disks it has: /dev/nvme0n1 and so on, disk-1 and so on on the host.
            Each has room for all of its memory.
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
    finish: str = ""
    programs: tuple[str, ...] = ()
    built_modules: tuple[str, ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    second: bool = False
    in_bpf: bool = False
    shows: str = ""
    odd: bool = False
    module_name: str = ""
    lime: bool = False
    disks: int = 0

    @property
    def boots(self) -> int:
        """How many kernels tell their facts before the guest is stopped."""
        return 2 if self.end in (KDUMP, KEXEC) else 1

    @property
    def digest(self) -> str:
        """Tells whether a guest on disk was made by this very recipe and lab."""
        fields = dataclasses.asdict(self)
        for field in dataclasses.fields(self):
            if field.name in _LATER_FIELDS and fields[field.name] == field.default:
                del fields[field.name]
        # Words only; they do not change the guest.
        del fields["reason"], fields["slow"], fields["odd"]
        sources = [PROGRAM_SOURCES / f"{name}.c" for name in self.programs]
        sources += [MODULE_SOURCES / f"{name}.c" for name in self.built_modules]
        built = {"sources": [source.read_text() for source in sources]} if sources else {}
        text = json.dumps([LAB_VERSION, {**fields, **built}], sort_keys=True)
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

ZOMBIES = """\
zombies /done &
wait_for /done
sleep 1000000 &
"""

#: What servers have and small systems do not: files in large folios, long command lines and
#: environments, and processes in a container whose files are on overlayfs. One of those runs a
#: program of the lower layer, the other one a copy in the upper layer.
SERVERS = """\
busybox mkdir /h /lower /lower/bin /lower/dev /lower/etc /lower/proc /merged /writable
mount -t tmpfs -o huge=always,size=64m h /h
dd if=/dev/urandom of=/h/f bs=8M count=1
dd if=/dev/urandom of=/h/odd bs=5000001 count=1
echo small > /h/small
count=0
words=
while [ $count -lt 1500 ]; do
    words="$words argument-$count"
    count=$((count + 1))
done
sh -c 'read -r line < /fifo' $words &
arguments=$!
long=0123456789
long=$long$long$long$long$long$long$long$long$long$long
long=$long$long$long$long$long$long$long$long$long
LAB_LONG=$long$long$long$long$long$long$long$long$long$long LAB_LAST=1 sleep 1000000 &
environment=$!
mount -t tmpfs writable /writable
busybox mkdir /writable/upper /writable/work
busybox cp /bin/busybox /lower/bin/busybox
echo below > /lower/etc/below
echo copied > /lower/etc/copied
busybox cp /lab/run.sh /lower/etc/run
busybox unshare -m sh /lab/container.sh &
below=$!
wait_for /writable/upper/pid
read -r above < /writable/upper/pid
sleep 1000000 &
"""

CONTAINER = """\
mount -t overlay container /merged -o \
    lowerdir=/lower,upperdir=/writable/upper,workdir=/writable/work
cd /merged
mount -t devtmpfs dev dev
mount -t proc proc proc
busybox mount --move . /
exec busybox chroot . /bin/busybox sh /etc/run
"""

IN_CONTAINER = """\
exec 3< /etc/below 4>> /etc/copied 5> /etc/new
echo more >&4
echo new >&5
/bin/busybox cp /bin/busybox /etc/busybox
/etc/busybox sleep 1000000 &
echo $! > /new
/bin/busybox mv /new /pid
exec /bin/busybox sleep 1000000
"""

SERVERS_FACTS = """\
begin files; sha256sum /h/f /h/odd /h/small; end
begin long-arguments; echo $arguments; tr '\\0' ' ' < /proc/$arguments/cmdline; echo; end
begin long-environment; echo $environment; tr '\\0' '\\n' < /proc/$environment/environ; end
for pid in $below $above; do
    begin container; echo $pid; end
    begin container-maps-$pid; cat /proc/$pid/maps; end
    begin container-mountinfo-$pid; cat /proc/$pid/mountinfo; end
    begin container-files-$pid
    for file in /proc/$pid/fd/*; do
        number=${file##*/}
        echo $number $(grep ^ino: /proc/$pid/fdinfo/$number) $(busybox readlink $file)
    done
    end
done
echo c > /proc/sysrq-trigger
"""

GRAPH_TRACER = """\
echo function_graph > /sys/kernel/tracing/current_tracer
echo c > /proc/sysrq-trigger
"""

KRETPROBE = """\
echo 'r:rv ksys_write' > /sys/kernel/tracing/kprobe_events
echo 1 > /sys/kernel/tracing/events/kprobes/rv/enable
echo c > /proc/sysrq-trigger
"""

FPROBE = """\
echo 'f:fv vfs_write%return' > /sys/kernel/tracing/dynamic_events
echo 1 > /sys/kernel/tracing/events/fprobes/fv/enable
echo c > /proc/sysrq-trigger
"""

TRACEFS = "mount -t tracefs tracefs /sys/kernel/tracing\nsleep 1000000 &"

CRASHME = "insmod /lab/crashme.ko\nsleep 1000000 &"

BPF = """\
echo 1 > /proc/sys/net/core/bpf_jit_enable
echo 1 > /proc/sys/net/core/bpf_jit_kallsyms
"""

HUNG = """\
hostname lab-hung
echo 3 > /proc/sys/kernel/hung_task_timeout_secs
insmod /lab/crashme.ko
echo hung > /sys/module/crashme/parameters/run
until dmesg | grep -q 'lab_hung:.* blocked for more than'; do
    sleep 1
done
sleep 1000000 &
"""

SOFT_LOCKUP = """\
hostname lab-lockup
echo 2 > /proc/sys/kernel/watchdog_thresh
insmod /lab/crashme.ko
echo lockup > /sys/module/crashme/parameters/run
until dmesg | grep -q 'soft lockup - CPU'; do
    sleep 1
done
sleep 1000000 &
"""

#: The kernel gives dd a buffer that is larger than memory, and dd fills it.
OUT_OF_MEMORY = """\
echo 1 > /proc/sys/vm/panic_on_oom
echo 1 > /proc/sys/vm/overcommit_memory
dd if=/dev/zero of=/dev/null bs=1G
"""

#: Names that mean something to HTML, to a terminal, and to who reads from right to left. Octal,
#: since printf in a shell understands that.
_ODD = {
    "tag": "<script>al(1)<",
    "quotes": "\\047\\042&amp;<!--]]>",
    "escape": "a\\033[2J\\033[31mred",
    "bell": "b\\033]0;own\\007\\010\\010",
    "right to left": "lab\\342\\200\\256gpj.exe",
    "template": "{{7*7}}{%% x %%}",
    "no UTF-8": "c\\377\\376\\300\\200d",
}

ODD_NAMES = "".join(
    [
        "hostname '<b onload=\"a()\">lab'\n",
        "insmod /lab/odd_name.ko\n",
        *(
            f"sh -c \"printf '{text}' > /proc/self/comm; read -r line < /fifo\" &\n"
            for text in _ODD.values()
        ),
        *(f"printf '<2>lab: {text}\\n' > /dev/kmsg\n" for text in _ODD.values()),
        # The kernel takes no more than 976 bytes as one message.
        "long=0123456789ABCDEF\n",
        "long=$long$long$long$long$long$long$long\nlong=$long$long$long$long$long$long$long\n",
        'echo "<2>lab: long $long" > /dev/kmsg\n',
        # An argument of more than 10,000 bytes.
        "long=$long$long$long$long$long$long$long$long$long$long$long$long$long$long\n",
        'sh -c "read -r line < /fifo" "<script>$long</script>" &\n',
        "sleep 1000000 &\n",
    ]
)

#: What a second kernel is told; the lab's command line for the first one is not handed down.
SECOND = "console=ttyS0 ignore_loglevel printk.time=1 panic=0"
KDUMP_SECOND = f"{SECOND} maxcpus=1 irqpoll reset_devices"

LOAD_KDUMP = f"""\
kexec crash /second/vmlinuz /second/initramfs '{KDUMP_SECOND}' || exit
sleep 1000000 &
"""

LOAD_KEXEC = f"""\
kexec load /second/vmlinuz /second/initramfs '{SECOND}' || exit
sleep 1000000 &
"""

SYSTEM_CALLS = """\
dd if=/dev/zero of=/dev/null bs=1 &
sh -c 'while :; do (:); done' &
sh -c 'dd if=/dev/zero bs=1 | dd of=/dev/null bs=1' &
sh -c 'while read -r line; do :; done < /proc/kallsyms; while :; do echo x | cat > /fifo; done' &
sh -c 'while :; do cat /fifo > /dev/null; done' &
sleep 1000000 &
"""


def _zombies(name: str, kernel: KernelSource, *, slow: bool = True) -> Recipe:
    return Recipe(
        name=name,
        reason="processes that exited and are not reaped, whose stacks others have now",
        kernel=kernel,
        format_version=6,
        start=ZOMBIES,
        programs=("zombies",),
        slow=slow,
        odd=True,
    )


def _servers(name: str, kernel: KernelSource, *, slow: bool = True) -> Recipe:
    return Recipe(
        name=name,
        reason="large folios, long arguments and environments, a container on overlayfs",
        kernel=kernel,
        format_version=6,
        modules=("overlay",),
        start=SERVERS,
        slow=slow,
        odd=True,
        finish=SERVERS_FACTS,
        files=(("lab/container.sh", CONTAINER), ("lab/run.sh", IN_CONTAINER)),
    )


def _traced(
    name: str, kernel: KernelSource, what: str, finish: str, *, slow: bool = True
) -> Recipe:
    return Recipe(
        name=name,
        reason=f"return addresses replaced by {what}",
        kernel=kernel,
        format_version=6,
        start=TRACEFS,
        slow=slow,
        odd=True,
        finish=finish,
        shows=r"Kernel panic - not syncing: sysrq triggered crash\r?\n[^\0]*",
    )


def _crashme(
    name: str, kernel: KernelSource, run: str, reason: str, shows: str, *, slow: bool = True
) -> Recipe:
    return Recipe(
        name=name,
        reason=reason,
        kernel=kernel,
        format_version=6,
        start=CRASHME,
        slow=slow,
        odd=True,
        finish=f"echo {run} > /sys/module/crashme/parameters/run\n",
        built_modules=("crashme",),
        shows=shows,
    )


def _state(name: str, reason: str, start: str, shows: str) -> Recipe:
    """Returns the recipe of a guest that the lab's module harms, and that runs on."""
    return Recipe(
        name=name,
        reason=reason,
        kernel=BOOKWORM,
        format_version=6,
        start=start,
        end=STOP,
        slow=True,
        odd=True,
        built_modules=("crashme",),
        shows=shows,
    )


def _wild(name: str, kernel: KernelSource, *, slow: bool = True) -> Recipe:
    reason = "a call through a wild pointer: the exception's RIP is in no code"
    return _crashme(name, kernel, "wild", reason, r"RIP: 0010:0x4141414100", slow=slow)


def _kprobe(name: str, kernel: KernelSource) -> Recipe:
    reason = "a panic in the handler of a kprobe on a function's entry: an ftrace trampoline"
    return _crashme(name, kernel, "kprobe", reason, r"victim_caller\+0x")


def _load(name: str, kernel: KernelSource) -> Recipe:
    return Recipe(
        name=name,
        reason="under system-call load: for stops at random moments",
        kernel=kernel,
        format_version=6,
        append="pti=on",
        start=SYSTEM_CALLS,
        end=STOP,
        slow=True,
        odd=True,
    )


def _second(
    name: str,
    reason: str,
    *,
    end: str,
    vcpus: int = 2,
    start: str = LOAD_KDUMP,
    slow: bool = True,
) -> Recipe:
    return Recipe(
        name=name,
        reason=reason,
        kernel=BOOKWORM,
        format_version=6,
        memory=768,
        vcpus=vcpus,
        append="" if end == KEXEC else "crashkernel=256M",
        start=start,
        end=end,
        slow=slow,
        odd=True,
        programs=("kexec",),
        second=True,
    )


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
        slow=True,
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
    Recipe(
        name="uefi-la57",
        reason="booted by UEFI, with 5-level paging and memory above 4 GiB",
        kernel=SID,
        format_version=7,
        memory=384,
        below_4g=256,
        five_level=True,
        start=PROCESSES,
        firmware="ovmf",
        slow=True,
    ),
    _zombies("zombies-6.1", BOOKWORM, slow=False),
    _zombies("zombies-6.12", BOOKWORM_NEW),
    _servers("servers-6.1", BOOKWORM),
    _servers("servers-6.12", BOOKWORM_NEW),
    _servers("servers-newest", SID, slow=False),
    _traced("graph-6.1", BOOKWORM, "the function_graph tracer", GRAPH_TRACER, slow=False),
    _traced("graph-6.12", BOOKWORM_NEW, "the function_graph tracer", GRAPH_TRACER),
    _traced("graph-newest", SID, "the function_graph tracer", GRAPH_TRACER),
    _traced("graph-next", EXPERIMENTAL, "the function_graph tracer", GRAPH_TRACER),
    _traced("kretprobe-6.1", BOOKWORM, "a kretprobe", KRETPROBE, slow=False),
    _traced("kretprobe-6.12", BOOKWORM_NEW, "a kretprobe", KRETPROBE),
    _traced("fprobe-newest", SID, "an fprobe with an exit handler", FPROBE),
    _wild("wild-6.1", BOOKWORM, slow=False),
    _wild("wild-6.12", BOOKWORM_NEW),
    _kprobe("kprobe-6.1", BOOKWORM),
    _kprobe("kprobe-6.12", BOOKWORM_NEW),
    Recipe(
        name="bpf",
        reason="a vCPU in the compiled code of a BPF program",
        kernel=BOOKWORM,
        format_version=6,
        start=f"{BPF}bpfloop /bpf &\nwait_for /bpf\n",
        end=STOP,
        slow=True,
        odd=True,
        programs=("bpfloop",),
        in_bpf=True,
    ),
    Recipe(
        name="bpf-nmi",
        reason="a panic in an NMI that interrupts a BPF function called by a BPF program",
        kernel=BOOKWORM_NEW,
        format_version=6,
        vcpus=1,
        start=f"{BPF}bpfloop /bpf call &\nwait_for /bpf\n",
        end=NMI,
        slow=True,
        odd=True,
        programs=("bpfloop",),
        shows=r"RIP: 0010:bpf_prog_\w+",
    ),
    _second(
        "kdump", "stopped in the kernel that kdump started after a panic", end=KDUMP, slow=False
    ),
    _second(
        "kdump-one-vcpu",
        "stopped in the kernel that kdump started: no vCPU is left in the one that panicked",
        end=KDUMP,
        vcpus=1,
    ),
    _second("kdump-loaded", "a kernel for kdump is in memory, but the first one runs", end=STOP),
    _second(
        "kexec",
        "a second kernel runs after kexec, in memory that has the first one's remains",
        end=KEXEC,
        start=LOAD_KEXEC,
    ),
    Recipe(
        name="offline",
        reason="a CPU that was taken offline",
        kernel=BOOKWORM,
        format_version=6,
        start="echo 0 > /sys/devices/system/cpu/cpu1/online\nsleep 1000000 &",
        end=STOP,
        modes=(HALTED, HALTED),
        odd=True,
    ),
    _state("hung", "a task hangs uninterruptibly, and the kernel says so", HUNG, "lab_hung:"),
    _state("soft-lockup", "a CPU never gets out of the kernel", SOFT_LOCKUP, "soft lockup - CPU"),
    Recipe(
        name="oom",
        reason="a panic because memory is full",
        kernel=BOOKWORM,
        format_version=6,
        memory=192,
        slow=True,
        odd=True,
        finish=OUT_OF_MEMORY,
        shows="system-wide panic_on_oom is enabled",
    ),
    Recipe(
        name="odd-names",
        reason="names and log lines that try to be more than text where they are shown",
        kernel=BOOKWORM,
        format_version=6,
        append="lab='<script>alert(1)</script>'",
        start=ODD_NAMES,
        slow=True,
        odd=True,
        built_modules=("odd_name",),
        module_name="<img/src=x>\x1b[2J\u202e{{7*7}}'",
    ),
    _load("load-6.1", BOOKWORM),
    _load("load-6.12", BOOKWORM_NEW),
    _load("load-newest", SID),
)

#: Name -> recipe, of every guest that the lab can make.
GUESTS: dict[str, Recipe] = {recipe.name: recipe for recipe in _RECIPES}
