# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Runs the benchmark and prints its document: python -m benchmarks."""

import argparse
import functools
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import NamedTuple, Optional

from benchmarks import guests, processes, symbols
from benchmarks.guests import Subject
from benchmarks.processes import Run

ROOT = pathlib.Path(__file__).parent.parent


class Row(NamedTuple):
    """A plugin to run on a guest.

    Attributes:
        guest: its name.
        plugin: its name, and its options.
        first: whether the cache is empty before every run.
        stock: whether stock Volatility runs it too.
        most: how often at most, for it takes long.
        image: one of `guests.IMAGES`, that both read; empty: we read debug.guest, stock raw memory.
    """

    guest: str
    plugin: str
    first: bool = False
    stock: bool = True
    most: int = 1000
    image: str = ""

    @property
    def subject(self) -> str:
        """The guest, and what of it is read, in words."""
        return f"{self.guest}, {self.image}" if self.image else self.guest


PSLIST, INFO = "linux.pslist", "guestdump.Info"
BOTH = (PSLIST, "linux.lsof", "linux.proc.Maps")
FILES = "linux.pagecache.Files"
FURTHER = tuple(f"linux.{name}" for name in ("sockstat", "psaux", "envars", "elfs"))
BACKTRACE = "guestdump.Backtrace"
ALL_TRACES = f"{BACKTRACE} --tasks"

#: Without registers, the kernel is found by low memory.
IMAGES = tuple(
    Row(guest, PSLIST, most=most, image=image)
    for image in guests.IMAGES
    for guest, most in (("6.12", 1000), ("big", 2))
)

ROWS = (
    Row("6.12", "frameworkinfo.FrameworkInfo"),
    *(Row("6.12", plugin, first=True) for plugin in BOTH[:2]),
    *(Row("6.12", plugin) for plugin in (*BOTH, FILES)),
    Row("6.12", "linux.kallsyms", most=1),
    *(Row("6.12", plugin, stock=False) for plugin in (INFO, BACKTRACE)),
    *(Row("next", plugin) for plugin in BOTH[:2]),
    Row("big", PSLIST, first=True, most=1),
    *(Row("big", plugin, most=2) for plugin in (*BOTH, FILES)),
    *(Row("big", plugin, stock=False) for plugin in (INFO, BACKTRACE)),
    *(Row("busy", plugin, stock=False, most=2) for plugin in (INFO, PSLIST)),
    # Stock takes a minute or two for each.
    Row("large", PSLIST, most=2),
    *(Row("large", plugin, most=1) for plugin in BOTH[1:]),
    *(Row("large", plugin, stock=False, most=1) for plugin in (FILES, *FURTHER)),
    *(Row("large", plugin, stock=False, most=2) for plugin in (INFO, ALL_TRACES)),
    *IMAGES,
)

VCPUS = (2, 16, 128, 768)

#: A guest with more processes is named by how many it has.
_MANY = 500

#: Seconds and megabytes of dwarf2json on the debug package of a Debian kernel, measured once.
DWARF2JSON = (39, 3200)


class Benchmark:
    """One run of the benchmark.

    Args:
        folder: for temporary files.
        runs: of each process.
    """

    def __init__(self, folder: pathlib.Path, runs: int) -> None:
        self._folder = folder
        self._runs = runs
        self._medians: dict[Row, dict[str, Run]] = {}

    @functools.cache  # noqa: B019 # there is one benchmark
    def subject(self, name: str) -> Subject:
        """Returns a guest, prepared once."""
        _progress(f"preparing {name}")
        return guests.prepare(name, self._folder)

    def _empty(self) -> pathlib.Path:
        return pathlib.Path(tempfile.mkdtemp(dir=self._folder))

    def _measure(self, row: Row) -> dict[str, Run]:
        _progress(f"{row.subject}: {row.plugin}, {'first' if row.first else 'later'} runs")
        subject = self.subject(row.guest)

        def ours() -> Sequence[str]:
            cache = self._empty() if row.first else subject.caches[0]
            return subject.ours(cache, row.plugin, row.image)

        def stock() -> Sequence[str]:
            cache = self._empty() if row.first else subject.caches[1]
            return subject.stock(cache, row.plugin, row.image or guests.RAW)

        commands = {"ours": ours, **({"stock": stock} if row.stock else {})}
        return processes.alternate(commands, min(self._runs, row.most), self._folder)

    def whole_processes(self, rows: Sequence[Row]) -> None:
        """Prints what plugins take, by us and by stock Volatility: the tables of docs/speed.md."""
        for row in rows:
            self._medians[row] = self._measure(row)
        print("## Whole processes\n")
        print(
            "Medians in seconds; ours and stock in turn. Stock Volatility reads the same memory as "
            "one raw file, or the image that is named, with the ISF that `guestdump.Isf` wrote, "
            "without this package and without jsonschema, which the tests install (with it, "
            "Volatility checks an ISF on its first run for most of a minute). First run: "
            "Volatility's cache is empty. Peak: pages of the memory file count in it where it is "
            "mapped. Rows: that were printed, ours / stock where they differ.\n"
        )
        lines = []
        for guest, image in dict.fromkeys((row.guest, row.image) for row in rows):
            shown = ", ".join(filter(None, (self._guest(guest), image)))
            of_these = (row.plugin for row in rows if (row.guest, row.image) == (guest, image))
            for plugin in dict.fromkeys(of_these):
                lines.append((shown, f"`{plugin}`", *self._cells(guest, image, plugin)))
                shown = ""
        columns = ("guest", "plugin", "first run (stock)", "later runs (stock)", "stock / ours")
        _table((*columns, "peak, MB (stock)", "stock / ours", "rows"), lines)

    def _guest(self, name: str) -> str:
        """Returns a guest in the words of a table."""
        subject = self.subject(name)
        version = ".".join(re.findall(r"\d+", subject.kernel)[:2])
        words = f"{subject.memory}, Linux {version}"
        processes_of = [
            runs["ours"].rows
            for row, runs in self._medians.items()
            if (row.guest, row.plugin) == (name, PSLIST)
        ]
        # What the name of the guest stands for.
        many = max(processes_of, default=0)
        return f"{words}, {many:,} processes" if many >= _MANY else words

    def _cells(self, guest: str, image: str, plugin: str) -> tuple[str, ...]:
        """Returns what a table says of a plugin on a guest."""
        first = later = None
        for row, runs in self._medians.items():
            if (row.guest, row.image, row.plugin) == (guest, image, plugin):
                first, later = (runs, later) if row.first else (first, runs)
        found = later or first
        assert found is not None
        ours, stock = found["ours"], found.get("stock")
        printed = f"{ours.rows:,}"
        if stock and stock.rows != ours.rows:
            printed += f" / {stock.rows:,}"
        return (
            *(_with_stock(runs, "seconds") for runs in (first, later)),
            f"{stock.seconds / ours.seconds:.1f}" if stock else "",
            _with_stock(found, "megabytes"),
            f"{stock.megabytes / ours.megabytes:.1f}" if stock else "",
            printed,
        )

    def images(self) -> None:
        """Prints what more memory costs where there are no registers."""
        lines = []
        for image in guests.IMAGES:
            of_small = None
            for row in IMAGES:
                if row.image == image:
                    seconds = self._medians[row]["ours"].seconds
                    of_small = of_small or seconds
                    memory = self.subject(row.guest).memory
                    ratio = f"{seconds / of_small:.2f}"
                    lines.append((image, row.guest, memory, f"{seconds:.2f}", ratio))
        print(f"## Images without registers: {PSLIST}\n")
        print("Medians in seconds, ours, later runs; the kernel is found by low memory.\n")
        _table(("image", "guest", "memory", "s", "of the smaller's"), lines)

    def reads(self) -> None:
        """Prints what reads of memory take."""
        _progress("reads")
        subject = self.subject("6.12")
        command = [sys.executable, "-m", "benchmarks.reads", str(subject.guest), str(subject.raw)]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
        print("## Reads\n")
        print(
            "At the same addresses, the layers in turn, each in a process of its own with two "
            "passes; the fastest first and second passes. 8 bytes and 4 KiB at random addresses, "
            "1 MiB from end to end. mmap is a function that returns a slice of the raw file's map."
            "\n"
        )
        for kind, table in json.loads(done.stdout).items():
            for size, layers in table.items():
                _reads_table(f"{kind.capitalize()} memory, {size}", layers)

    def symbol_table(self) -> None:
        """Prints what the symbol table takes, without plugins."""
        subject = self.subject("6.12")
        lines = []
        for step, text in symbols.STEPS.items():
            _progress(f"symbols: {step}")
            command = [sys.executable, "-m", "benchmarks.symbols", step, str(subject.guest)]
            found = processes.alternate({"": command.copy}, self._runs, ROOT)[""]
            lines.append((text, f"{found.seconds:.2f}", f"{found.megabytes:.0f}"))
        lines.append(("dwarf2json [^1]", str(DWARF2JSON[0]), str(DWARF2JSON[1])))
        print(f"## Symbol table of {subject.kernel}\n")
        _table(("whole process", "s", "MB"), lines)
        print(
            "[^1]: On the debug package of such a kernel, measured once on another occasion, and "
            "not by this run.\n"
        )

    def growth(self) -> None:
        """Prints what more vCPUs, memory and processes cost."""
        small = self.subject("6.12")
        found: list[tuple[Subject, Run, Run]] = []
        for count in VCPUS:
            subject = guests.with_vcpus(small, count, self._folder)
            _progress(f"{count} vCPUs")
            commands = {
                plugin: functools.partial(subject.ours, subject.caches[0], plugin)
                for plugin in (INFO, PSLIST)
            }
            runs = processes.alternate(commands, self._runs, self._folder)
            found.append((subject, runs[INFO], runs[PSLIST]))
        for name in ("busy", "large", "big"):
            later = {
                row.plugin: runs["ours"]
                for row, runs in self._medians.items()
                if row.guest == name and not row.first
            }
            found.append((self.subject(name), later[INFO], later[PSLIST]))
        print("## Growth\n")
        print("Medians in seconds, ours, later runs.\n")
        _table(
            ("guest", "kernel", "vCPUs", "memory", "processes", INFO, PSLIST),
            [
                (
                    *(subject.name, subject.kernel, str(len(subject.file.vcpus)), subject.memory),
                    *(str(pslist.rows), f"{info.seconds:.2f}", f"{pslist.seconds:.2f}"),
                )
                for subject, info, pslist in found
            ],
        )


def _with_stock(runs: Optional[dict[str, Run]], field: str) -> str:
    """Returns what ours took, and stock in parentheses; three digits of each."""
    if runs is None:
        return ""
    values = [getattr(runs[name], field) for name in ("ours", "stock") if name in runs]
    words = [f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values]
    return f"{words[0]} ({words[1]})" if len(words) > 1 else words[0]


def _reads_table(title: str, layers: dict[str, tuple[float, float, int, int]]) -> None:
    columns = ("first pass: us per read", "of mmap", "second: us per read", "of mmap", "GB/s")
    rows = []
    for name, (*passes, count, size) in layers.items():
        row = [name]
        for seconds, fastest in zip(passes, layers["mmap"]):
            row += [f"{seconds / count * 1e6:.2f}", f"{seconds / fastest:.1f}"]
        rows.append([*row, f"{size * count / passes[-1] / 1e9:.3g}"])
    _table((title, *columns), rows)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    lines = [columns, ["---"] * len(columns), *rows]
    print("".join(f"| {' | '.join(line)} |\n" for line in lines), flush=True)


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _machine() -> str:
    """Returns what the figures depend on, in a line."""
    return (
        f"{platform.system()} {platform.release()} ({platform.machine()}), {os.cpu_count()} CPUs "
        f"with a load of {os.getloadavg()[0]:.1f} at the start, Python {platform.python_version()}"
    )


def main(arguments: Optional[list[str]] = None) -> int:
    """Runs the command and returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measures the package against stock Volatility."
    )
    parser.add_argument("--runs", type=int, default=3, help="of each process (default: 3)")
    parser.add_argument("--quick", action="store_true", help="a few of the figures, for trying")
    options = parser.parse_args(arguments)
    if options.runs < 1:
        parser.error("at least one run")
    print(f"# Benchmark\n\n{_machine()}; runs of each: {options.runs}, fewer of the slowest.\n")
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        benchmark = Benchmark(pathlib.Path(folder), options.runs)
        quick = [row for row in ROWS if row.guest == "6.12" and row.plugin == PSLIST]
        benchmark.whole_processes(quick if options.quick else ROWS)
        benchmark.reads()
        if not options.quick:
            benchmark.images()
            benchmark.symbol_table()
            benchmark.growth()
    return 0


if __name__ == "__main__":
    sys.exit(main())
