# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The headlines of guestdump.Report, of guests that ended in all the ways there are."""

import json
import pathlib
import re
from typing import Any

import pytest

from tests.conftest import Vol
from tests.helpers import guests, real_guest

#: Guest -> kind of its headline, and its text; <...> stands for what the guest itself told.
HEADLINES = {
    "hole-pti": ("panic", r"Kernel panic - .*: <message>\. <task>, in sysrq_handle_crash\+\w+, .*"),
    "nmi": ("panic", r"Kernel panic - .*: <message>\. <task>, within an NMI, in unknown_nmi_.*"),
    "module": (
        "panic",
        r"Kernel panic - .*: <message>\. <task>, within an interrupt, in softdog_fire\+.*",
    ),
    "oom": ("panic", r"Kernel panic - .*: <message>\. <task>, in out_of_memory\.cold\+.*"),
    "wild-6.1": (
        "panic",
        r"Kernel panic - .*: Fatal exception \(BUG: unable to handle page fault for address:"
        r" 0000004141414100\)\. Task lab_wild \(pid \d+\) on vCPU \d, in 0x4141414100, called by"
        r" th_wild\+0x\w+ \[crashme\], .*",
    ),
    "kdump": (
        "panic",
        r"Kernel panic - .*: sysrq .*\. Another kernel, as kdump .* has taken over.*",
    ),
    "kdump-one-vcpu": (
        "kdump",
        r"The kernel that kdump started when Linux \S+ had panicked runs\. This report is of it\.",
    ),
    "idle-mix": ("running", r"No panic\. .*vCPU 1 ran task sh \(pid \d+\) in user mode, vCPU 2 .*"),
    "user-mode": (
        "user mode",
        r"No panic\. .*vCPU 0 ran task sh \(pid \d+\) in user mode, vCPU 1.*",
    ),
    "offline": ("idle", r"No panic\. All vCPUs were idle or off .* after boot\."),
    "hung": (
        "hung",
        r"Task lab_hung \(pid <hung>\) hangs in uninterruptible sleep in th_hung\+\w+ \[crashme\],"
        r" for \d+ s at least\. Task lab_hung:<hung> blocked for more than \d+ seconds"
        r" \(kernel log, \d+\.\d+\)\. No panic is known\.",
    ),
    "soft-lockup": (
        "soft lockup",
        r"Soft lockup - CPU#\d stuck for \d+s! \[lab_lockup:\d+\] \(kernel log, \d+\.\d+\)\."
        r" No panic is known\.",
    ),
    "i686-pae": ("unknown", r"The kernel does not tell whether it panicked\. .*"),
}


@pytest.mark.parametrize("name", guests(*HEADLINES))
def test_headline(vol: Vol, tmp_path: pathlib.Path, name: str) -> None:
    """It says how the guest ended, and who ended it."""
    guest = real_guest(name)
    options = ("-o", tmp_path, "-f", guest.guest_path)
    done = vol(*options, "guestdump.Report", "--format", "json")
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stdout + done.stderr
    (written,) = tmp_path.iterdir()
    report: dict[str, Any] = json.loads(written.read_text())
    kind, pattern = HEADLINES[name]
    truth = guest.expected
    if "<task>" in pattern:
        who = truth["panic_task"]
        task = f"Task {who['comm']} (pid {who['pid']}) on vCPU {who['cpu']}"
        pattern = pattern.replace("<task>", re.escape(task))
        pattern = pattern.replace("<message>", re.escape(truth["panic_message"]))
    hung = [pid for pid, state in truth["states"].items() if state == "D"]
    pattern = pattern.replace("<hung>", "|".join(hung))
    assert report["headline"]["kind"] == kind
    assert re.fullmatch(pattern, report["headline"]["text"]), report["headline"]["text"]
    assert not [problem for problem in report["problems"] if name != "i686-pae"]
