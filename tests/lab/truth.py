# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What a guest and QEMU say of a guest, as the contents of expected.json.

All of it comes from the running kernel, its console and the virtual machine; nothing is read from
the dump, which is what shall be tested against it.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Optional

from tests.lab.errors import LabError
from tests.lab.qemu import VCPU
from tests.lab.recipes import HALTED, KDUMP, KEXEC, LAB_VERSION, USER, Recipe
from tests.lab.writer import Region

_TIME = r"^\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? ?"

#: Registers in the order in which they are written down.
_REGISTERS = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "rip", "r8", "r9", "r10", "r11"),
    *("r12", "r13", "r14", "r15", "eflags", "cs", "ss", "ds", "es", "fs", "fs_base", "gs"),
    *("gs_base", "cr0", "cr2", "cr3", "cr4", "idt_base"),
)


def expected(
    recipe: Recipe,
    package: str,
    regions: Sequence[Region],
    vcpus: Sequence[VCPU],
    *,
    facts_log: str,
    console_log: str,
) -> dict[str, Any]:
    """Returns what expected.json says of a guest.

    Args:
        recipe: of the guest.
        package: name and version of the kernel's package.
        regions: guest-physical memory.
        vcpus: their state when they were stopped.
        facts_log: what init.sh wrote.
        console_log: what the kernel wrote.
    """
    # After kexec the second kernel is the one that the guest runs. After kdump the first one is
    # what a dump is examined for.
    told = _boots(facts_log)
    facts = told[-1 if recipe.end == KEXEC else 0]
    panic = Panic(console_log)
    processes = _processes(facts["processes-early"], facts["processes-late"])
    names = {process["pid"]: process["comm"] for process in processes}
    found = {
        "name": recipe.name,
        "reason": recipe.reason,
        "recipe": recipe.digest,
        "lab_version": LAB_VERSION,
        "package": package,
        "format_version": recipe.format_version,
        **_kernel(recipe, facts),
        "paging": _paging(vcpus, _bits(recipe)),
        "memory_total_kib": _first_number(r"MemTotal: +(\d+) kB", facts["memtotal"]),
        "memory_regions": [{"start": hex(start), "size": hex(size)} for start, size in regions],
        "vcpus": [{name: hex(vcpu.registers[name]) for name in _REGISTERS} for vcpu in vcpus],
        "vcpu_msrs": [_msrs(vcpu) for vcpu in vcpus],
        "vcpu_modes": [vcpu.mode for vcpu in vcpus],
        # When a second kernel came, the vCPUs have left the tasks of the first.
        "vcpu_tasks": (
            [None] * len(vcpus)
            if recipe.boots > 1
            else _vcpu_tasks(vcpus, facts["pinned"], panic, names)
        ),
        "panic_message": panic.message,
        "panic_task": panic.task,
        "panic_call_trace": [re.sub(r"\+0x.*", "", line) for line in panic.trace],
        "panic_call_trace_full": panic.trace,
        "processes": processes,
        "arguments": _arguments(facts["arguments"], names),
        "modules": _modules(facts["modules"]),
        "mounts": [_mount(line) for line in facts["mountinfo"]],
        "maps": _maps(facts["maps"]),
        "states": _states(facts["processes-late"]),
        "zombies": _zombies(facts["processes-late"]),
        "made_symbols": _made_symbols(facts["kallsyms-made"]),
        "bpf_functions": [
            {"start": hex(function.start), "size": len(function)}
            for function in bpf_functions(facts_log)
        ],
        "cpus_online": _one_line(facts["cpus-online"]),
        "system": _system(facts),
    }
    if "container" in facts:
        found["servers"] = _servers(facts)
    if recipe.end == KDUMP:
        found["second_kernel"] = _kernel(recipe, told[1])
    return found


def _servers(facts: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Returns what the guests "servers-..." tell of long files, arguments and paths."""
    pid, text = facts["long-arguments"]
    environment = facts["long-environment"]
    return {
        "files": {path: digest for digest, path in map(str.split, facts["files"])},
        "arguments": {"pid": int(pid), "text": text.rstrip(" ")},
        "environment": {"pid": int(environment[0]), "variables": list(environment[1:])},
        "containers": [
            {
                "pid": int(pid),
                "maps": facts[f"container-maps-{pid}"],
                "mountinfo": facts[f"container-mountinfo-{pid}"],
                "files": facts[f"container-files-{pid}"],
            }
            for pid in facts["container"]
        ],
    }


def _bits(recipe: Recipe) -> int:
    return 32 if recipe.kernel.architecture == "i386" else 64


def _kernel(recipe: Recipe, facts: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Returns what one kernel said of itself."""
    symbols = _symbols(facts["symbols"])
    linked_at = 0xC1000000 if _bits(recipe) == 32 else 0xFFFFFFFF81000000
    return {
        "kernel_release": _one_line(facts["release"]),
        "banner": _one_line(facts["version"]),
        "cmdline": _one_line(facts["cmdline"]),
        "bits": _bits(recipe),
        "kernel_offset": hex(symbols["_text"] - linked_at) if "_text" in symbols else None,
        "physical_base": _first_hex(r"([0-9a-f]+)-[0-9a-f]+ : Kernel code", facts["iomem"]),
        "build_id": _build_id(facts["notes"]),
        "symbols": {name: hex(address) for name, address in sorted(symbols.items())},
        "kallsyms_count": int(_one_line(facts["kallsyms-count"])),
        "kallsyms_sha256": _one_line(facts["kallsyms-sha256"]).split()[0],
        "btf_sha256": facts["btf"][0].split()[0] if facts["btf"] else None,
    }


def _system(facts: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Returns what uname, date and some files in /proc said.

    "time" is in seconds since 1970 and belongs to "uptime", in seconds since the guest started:
    both are of the moment when its facts were told, shortly before it stopped.
    """
    time, then = facts["clock"]
    uptime = float(_one_line(facts["uptime"]).split()[0])
    states = [state for _, _, state, _ in stat_lines(facts["processes-late"])]
    return {
        "hostname": _one_line(facts["hostname"]),
        "time": int(time) + uptime - float(then.split()[0]),
        "uptime": uptime,
        "loadavg": _one_line(facts["loadavg"]).split()[:3],
        "tainted": int(_one_line(facts["tainted"])),
        "tasks": int(_one_line(facts["tasks"])),
        "uninterruptible": states.count("D"),
    }


def bpf_functions(facts_log: str) -> list[range]:
    """Returns the addresses of each function of the BPF program that init.sh tells of."""
    lines = (line.split() for line in _boots(facts_log)[0]["bpf"])
    pairs = ((int(start, 16), int(size, 16)) for start, size in lines)
    return [range(start, start + size) for start, size in pairs]


def _boots(log: str) -> list[dict[str, list[str]]]:
    """Returns the sections that each kernel told, in the order in which they ran."""
    first = "lab: begin processes-early"
    return [sections(first + part) for part in log.split(first)[1:]]


def _msrs(vcpu: VCPU) -> dict[str, str]:
    """Returns the model-specific registers of a vCPU that are known."""
    names = ("efer", "kernel_gs_base")
    return {name: hex(vcpu.registers[name]) for name in names if name in vcpu.registers}


def sections(log: str) -> dict[str, list[str]]:
    """Returns the lines of each section that a guest told."""
    found: dict[str, list[str]] = {}
    lines: Optional[list[str]] = None
    for line in log.replace("\r", "").split("\n"):
        if line.startswith("lab: begin "):
            lines = found.setdefault(line[len("lab: begin ") :], [])
        elif line == "lab: end":
            lines = None
        elif lines is not None:
            lines.append(line)
    return found


def _one_line(lines: Sequence[str]) -> str:
    if len(lines) != 1:
        raise LabError(f"the guest should have said one line, but said {lines!r}")
    return lines[0].strip()


def _first_hex(pattern: str, lines: Sequence[str]) -> Optional[str]:
    match = re.search(pattern, "\n".join(lines))
    return hex(int(match.group(1), 16)) if match else None


def _first_number(pattern: str, lines: Sequence[str]) -> Optional[int]:
    match = re.search(pattern, "\n".join(lines))
    return int(match.group(1)) if match else None


def _symbols(lines: Sequence[str]) -> dict[str, int]:
    found: dict[str, list[int]] = {}
    for line in lines:
        address, _, name = line.split()
        found.setdefault(name, []).append(int(address, 16))
    # A name that static symbols of several files share says nothing.
    return {name: addresses[0] for name, addresses in found.items() if len(addresses) == 1}


def _build_id(lines: Sequence[str]) -> Optional[str]:
    notes = bytes.fromhex("".join(lines).replace(" ", ""))
    position = 0
    while position + 12 <= len(notes):
        name_size, size, kind = (
            int.from_bytes(notes[position + 4 * index :][:4], "little") for index in range(3)
        )
        name = notes[position + 12 :][:name_size]
        data = position + 12 + -(-name_size // 4) * 4
        if (name, kind) == (b"GNU\0", 3):
            return notes[data : data + size].hex()
        position = data + -(-size // 4) * 4
    return None


def _paging(vcpus: Sequence[VCPU], bits: int) -> str:
    if bits == 32:
        return "PAE"
    levels = {5 if vcpu.registers["cr4"] & 1 << 12 else 4 for vcpu in vcpus}
    return f"{max(levels)}-level"


def _in_memory(name: str) -> str:
    """Returns task_struct.comm for the longer name that /proc gives.

    /proc appends what a worker worked on last, and does not cut a kernel thread's name.
    """
    worker = re.match(r"kworker/u?\d+:\d+H?I?", name)
    return (worker.group() if worker else name)[:15]


def stat_lines(lines: Sequence[str]) -> list[tuple[int, str, str, int]]:
    """Returns pid, name, state and parent of lines of /proc/PID/stat."""
    found = []
    for line in lines:
        match = re.fullmatch(r"(\d+) \((.*)\) (\S) (\d+) .*", line)
        if match is None:
            raise LabError(f"not a line of /proc/PID/stat: {line!r}")
        pid, name, state, parent = match.groups()
        found.append((int(pid), _in_memory(name), state, int(parent)))
    return found


def _processes(early: Sequence[str], late: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the processes in both lists of stat lines: not the short-lived ones."""
    before, after = (
        {
            pid: {"pid": pid, "ppid": parent, "comm": name}
            for pid, name, state, parent in stat_lines(lines)
            if state not in "ZX"
        }
        for lines in (early, late)
    )
    return [after[pid] for pid in sorted(after) if before.get(pid) == after[pid]]


def _states(lines: Sequence[str]) -> dict[str, str]:
    """Returns pid -> state as ps shows it; of a task that runs, it may change at any time."""
    return {str(pid): state for pid, _, state, _ in stat_lines(lines)}


def _zombies(lines: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"pid": pid, "ppid": parent, "comm": name}
        for pid, name, state, parent in stat_lines(lines)
        if state == "Z"
    ]


def _made_symbols(lines: Sequence[str]) -> list[dict[str, str]]:
    """Returns the symbols of code that was made or loaded while the kernel ran."""
    fields = [line.split() for line in lines]
    return [
        {"address": hex(int(line[0], 16)), "name": line[2], "module": line[3].strip("[]")}
        for line in fields
    ]


def _arguments(lines: Sequence[str], names: Mapping[int, str]) -> dict[str, str]:
    found = {}
    for line in lines:
        match = re.match(r"/proc/(\d+)/cmdline:(.*)", line)
        if match and int(match.group(1)) in names:
            found[match.group(1)] = match.group(2).rstrip(" ")
    return found


def _modules(lines: Sequence[str]) -> list[dict[str, Any]]:
    fields = [line.split() for line in lines]
    return [{"name": line[0], "size": int(line[1]), "address": line[5]} for line in fields]


def _mount(line: str) -> dict[str, str]:
    before, after = (part.split() for part in line.split(" - "))
    return {"id": before[0], "path": before[4], "type": after[0], "source": after[1]}


def _maps(lines: Sequence[str]) -> Optional[dict[str, Any]]:
    if not lines:
        return None
    areas = []
    for line in lines[1:]:
        fields = line.split(None, 5)
        start, end = (hex(int(number, 16)) for number in fields[0].split("-"))
        path = fields[5] if len(fields) > 5 else ""
        areas.append({"start": start, "end": end, "flags": fields[1], "path": path})
    return {"pid": int(lines[0]), "areas": areas}


class Panic:
    """What the kernel said when it panicked.

    Attributes:
        message: the reason; None if there was no panic.
        task: cpu, pid and comm of the task that panicked; None if there was no panic.
        trace: the entries of the call trace that the kernel is sure of, with their offsets. Where
            it goes through an exception in kernel code, the interrupted function is among them.
    """

    def __init__(self, console: str) -> None:
        self.message: Optional[str] = None
        self.task: Optional[dict[str, Any]] = None
        self.trace: list[str] = []
        lines = [re.sub(_TIME, "", line) for line in console.replace("\r", "").split("\n")]
        start = "Kernel panic - not syncing: "
        begins = [number for number, line in enumerate(lines) if line.startswith(start)]
        if not begins:
            return
        self.message = lines[begins[0]][len(start) :]
        for line in lines[begins[0] :]:
            task = re.match(
                r"CPU: (\d+) (?:UID: \d+ )?PID: (\d+) Comm: (.*?) (?:Not t|T)ainted", line
            )
            if task and self.task is None:
                cpu, pid, comm = task.groups()
                self.task = {"cpu": int(cpu), "pid": int(pid), "comm": comm}
            entry = re.fullmatch(
                r"(?: |RIP: 0010:|EIP: )([^ ?]\S*\+0x[0-9a-f]+/0x[0-9a-f]+)(?: \[\S+\])?", line
            )
            if entry:
                self.trace.append(entry.group(1))
            if line.startswith("---[ end Kernel panic"):
                return


def _vcpu_tasks(
    vcpus: Sequence[VCPU], pinned: Sequence[str], panic: Panic, names: Mapping[int, str]
) -> list[Optional[dict[str, Any]]]:
    """Returns the current task of each vCPU; None where nobody can be sure."""
    tasks: list[Optional[dict[str, Any]]] = [None] * len(vcpus)
    if panic.task is not None:
        tasks[panic.task["cpu"]] = {"pid": panic.task["pid"], "comm": panic.task["comm"]}
        return tasks
    by_cpu: dict[int, tuple[int, ...]] = {}
    for line in pinned:
        cpu, pid = (int(number) for number in line.split())
        by_cpu[cpu] = (*by_cpu.get(cpu, ()), pid)
    for number, vcpu in enumerate(vcpus):
        running = by_cpu.get(number, ())
        if vcpu.mode == HALTED:
            tasks[number] = {"pid": 0, "comm": f"swapper/{number}"}
        # In kernel mode it might as well be a kernel thread that cut in.
        elif vcpu.mode == USER and len(running) == 1:
            tasks[number] = {"pid": running[0], "comm": names[running[0]]}
    return tasks
