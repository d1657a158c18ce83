# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Whether what plugins show of a live acquisition was so before it, or after it.

Processes that live all through must be in every list, with what does not change of them. Whatever
else is shown must be something that the load of the guest makes: its names, paths and addresses are
known, and its process ids are newer than the list from before.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tests.lab import truth
from tests.live.acquire import Acquisition
from tests.live.plugins import Shown

#: What processes of the load are called: the applets of its commands, and a shell before it execs.
LOAD_NAMES = {
    *("sh", "cat", "wc", "nc", "sleep", "rm", "mount", "busybox", "httpd", "init", "kcore"),
    *("insmod", "modprobe", "rmmod", "sync", "umount"),
    # BusyBox, while it starts itself again as another of its programs.
    "exe",
}

#: Threads of the kernel come and go as well.
_KERNEL_NAMES = re.compile(r"kworker/.*|kthreadd|mount|loop\d+|(u|)mount.*")

#: Arguments of the load; nothing where they cannot be read, or of a thread of the kernel.
_ARGUMENTS = re.compile(
    r"|-|\[.*\]|/bin/sh /init|/init|sh /init|sh -c :|cat( /proc/version| /scratch/x)?|wc -c|"
    r"nc 127\.0\.0\.1 80|sleep [\d.]+|rm /scratch/x /scratch/y|mount -t tmpfs load /www/none|"
    r"busybox umount /www/none|httpd -f -p 80 -h /www|kcore /dev/nvme0n\d+|"
    r"insmod /lab/lime\.ko .*"
)

#: Paths of files that the load opens.
_PATHS = re.compile(
    r"|/dev/(null|console|ttyS1|nvme0n\d+)|/(init|symbols|fifo|pinned|recipe\.sh|finish\.sh)|"
    r" ?/scratch/[xy]( \(deleted\))?|/proc/.*|(socket|pipe|anon_inode):\[.*\]|/bin/(busybox|kcore)|"
    r"/lab/lime\.ko|/www/.*|/proc"
)

_VARIABLES = {
    *("HOME", "TERM", "PWD", "PATH", "SHLVL", "LAB_STEADY", "LAB_LOAD", "BOOT_IMAGE"),
    *("OLDPWD", "QUERY_STRING", "REMOTE_ADDR", "REMOTE_PORT"),
}


class Fault(NamedTuple):
    """Something that is wrong with what a plugin shows."""

    plugin: str
    words: str


class Checker:
    """Holds what plugins show against what the guest said.

    Args:
        acquisition: the image's.
        shown: by plugin, see `plugins.run`.
    """

    def __init__(self, acquisition: Acquisition, shown: Mapping[str, Shown]) -> None:
        self._told = acquisition.sections
        self._shown = shown
        self._before, self._after = (
            {pid: (comm, parent) for pid, comm, state, parent in truth.stat_lines(self._told[name])}
            for name in ("before", "after")
        )
        self._newest = int(self._told["newest"][0])
        self.steady = {
            pid: self._before[pid]
            for pid in self._before.keys() & self._after
            if self._before[pid] == self._after[pid]
        }

    def faults(self) -> Iterator[Fault]:
        """Yields all that is wrong."""
        for plugin, shown in self._shown.items():
            if shown.status or "Traceback" in shown.stderr:
                yield Fault(plugin, f"status {shown.status}: {shown.stderr[-1500:]}")
                continue
            check = getattr(self, "_" + re.sub(r"\W+", "_", plugin.lower()), None)
            if check is not None:
                for words in check(json.loads(shown.stdout)):
                    yield Fault(plugin, words)

    def _process(self, pid: int, comm: str) -> Iterator[str]:
        """Yields what is wrong with a process that is listed."""
        for told in (self._before, self._after):
            if told.get(pid, ("",))[0] == comm:
                return
        if pid in self.steady:
            yield f"{pid} is {self.steady[pid][0]}, not {comm!r}"
        elif comm not in LOAD_NAMES and not _KERNEL_NAMES.fullmatch(comm):
            yield f"{pid} {comm!r} was never there"
        elif pid in self._before and self._before[pid][0] not in LOAD_NAMES:
            yield f"{pid} was {self._before[pid][0]}, not {comm!r}"
        elif pid > self._newest:
            yield f"{pid} {comm!r} is newer than all others"

    def _processes(self, rows: list[dict[str, Any]], name: str) -> Iterator[str]:
        found: dict[int, str] = {}
        for row in rows:
            found.setdefault(row["PID"], row[name])
        for pid, (comm, _) in sorted(self.steady.items()):
            if pid not in found:
                yield f"{pid} {comm} is not listed"
        for pid, comm in found.items():
            yield from self._process(pid, comm)

    def _linux_pslist(self, rows: list[dict[str, Any]]) -> Iterator[str]:
        yield from self._processes(rows, "COMM")
        for row in rows:
            told = self.steady.get(row["PID"])
            if told is not None and row["PPID"] != told[1]:
                yield f"parent of {row['PID']} is {told[1]}, not {row['PPID']}"

    _linux_pslist_threads = _linux_pslist

    def _linux_pstree(self, rows: list[dict[str, Any]]) -> Iterator[str]:
        flat: list[dict[str, Any]] = []
        left = list(rows)
        while left:
            row = left.pop()
            flat.append(row)
            left += row.get("__children") or []
        yield from self._processes(flat, "COMM")

    def _linux_psaux(self, rows: list[dict[str, Any]]) -> Iterator[str]:
        yield from self._processes(rows, "COMM")
        matches = (
            re.fullmatch(r"/proc/(\d+)/cmdline:(.*?) *", each) for each in self._told["arguments"]
        )
        told = {match[1]: match[2] for match in matches if match is not None}
        for row in rows:
            arguments, text = told.get(str(row["PID"])), row["ARGS"] or ""
            if row["PID"] in self.steady and arguments and "sh -c :" not in arguments:
                if text != arguments and row["COMM"] != "init":
                    yield f"arguments of {row['PID']} are {arguments!r}, not {text!r}"
            elif not _ARGUMENTS.fullmatch(text):
                yield f"arguments of {row['PID']}: {text!r}"

    def _linux_lsof(self, rows: list[dict[str, Any]]) -> Iterator[str]:
        lines = [line.split(" ", 2) for line in self._told["steady-files"]]
        steady = int(lines[0][0])
        told = {(int(number), path) for _, number, path in lines}
        found = {(row["FD"], row["Path"]) for row in rows if row["PID"] == steady}
        if found != told:
            yield f"files of {steady} are {sorted(told)}, not {sorted(found)}"
        for row in rows:
            yield from self._process(row["PID"], row["Process"])
            if not _PATHS.fullmatch(row["Path"]):
                yield f"file {row['FD']} of {row['PID']} {row['Process']}: {row['Path']!r}"

    def _linux_proc_maps(self, rows: list[dict[str, Any]]) -> Iterator[str]:
        steady = int(self._told["steady-files"][0].split()[0])
        told = [
            tuple(int(part, 16) for part in line.split()[0].split("-"))
            for line in self._told["steady-maps"]
            if "[vsyscall]" not in line
        ]
        found = [(row["Start"], row["End"]) for row in rows if row["PID"] == steady]
        if found != told:
            yield f"areas of {steady} are {told}, not {found}"
        for row in rows:
            yield from self._process(row["PID"], row["Process"])
            path = row["File Path"] or ""
            if not path.startswith(("[", "Anonymous")) and not _PATHS.fullmatch(path):
                yield f"{row['PID']} maps {path!r}"

    def _linux_sockstat(self, rows: list[dict[str, Any]]) -> Iterator[str]:
        listening = {str(row["Source Port"]) for row in rows if row["State"] == "LISTEN"}
        if not {"80", "8000"} <= listening:
            yield f"the listening sockets are {sorted(listening)}"
        for row in rows:
            yield from self._process(row["PID"], row["Process Name"])

    def _linux_lsmod(self, rows: list[dict[str, Any]]) -> Iterator[str]:
        told = [line.split()[0] for line in self._told["modules"]]
        found = [row["Module Name"] for row in rows if row["Module Name"] != "lime"]
        if found != told:
            yield f"the modules are {told}, not {found}"

    def _linux_mountinfo(self, rows: list[dict[str, Any]]) -> Iterator[str]:
        told = {tuple(line.split()[i] for i in (0, 4)) for line in self._told["mountinfo"]}
        found = {(str(row["MOUNT ID"]), row["MOUNT_POINT"]) for row in rows}
        steady = {each for each in told if each[1] != "/www/none"}
        if not steady <= found:
            yield f"the mounts {sorted(steady - found)} are not listed"
        known = {path for _, path in told} | {"/www/none", "/"}
        for mount_id, path in sorted(found - told):
            if path not in known:
                yield f"mount {mount_id}: {path!r}"

    def _linux_envars(self, rows: list[dict[str, Any]]) -> Iterator[str]:
        steady = int(self._told["steady-files"][0].split()[0])
        if not any(row["PID"] == steady and row["KEY"] == "LAB_STEADY" for row in rows):
            yield f"{steady} has no LAB_STEADY"
        for row in rows:
            yield from self._process(row["PID"], row["COMM"])
            if row["KEY"] not in _VARIABLES:
                yield f"{row['PID']} has {row['KEY']!r}"

    def _linux_kmsg(self, rows: list[dict[str, Any]]) -> Iterator[str]:
        if not any(str(row["line"]).startswith("Linux version") for row in rows):
            yield f"{len(rows)} lines, none of them the first"

    def _guestdump_info(self, rows: list[dict[str, Any]]) -> Iterator[str]:
        text = json.dumps(rows)
        release = self._told["release"][0].strip()
        if release not in text:
            yield f"no {release}"

    def _guestdump_backtrace_tasks(self, rows: list[dict[str, Any]]) -> Iterator[str]:
        found = {row["PID"] for row in rows}
        for pid, (comm, _) in sorted(self.steady.items()):
            if pid not in found:
                yield f"{pid} {comm} is not listed"
