# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Why a plugin cannot run, said behind what Volatility says of it.

Volatility's command line ends with "Unsatisfied requirement ..." and advice of its own, above which
our warning that has the reason is lost. So it comes once more, as the last line.
"""

import atexit
import logging
import re
import sys
from collections import deque
from collections.abc import Sequence

from volatility3.framework import constants, interfaces

from volatility_guestdump.dumps import raw
from volatility_guestdump.files.location import display_name

#: Before the name of a file in a warning of it, where the name does not come first.
_BEFORE_NAME = r"(?:Not a usable [\w ]+: |No guest dump: |No state of a VMware machine: )?"
#: Behind the name. It tells the name from a word in the sentence: a file may be called "mem".
_BEHIND_NAME = r"(?=[:,]| has | is | does | may )"

#: More would not be read.
_MAXIMUM_REASONS = 8


class _Warnings(logging.Handler):
    """Keeps the warnings of this package.

    Attributes:
        messages: without repetitions, the latest ones.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: deque[str] = deque(maxlen=_MAXIMUM_REASONS)

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps a message."""
        self.keep(record.getMessage())

    def keep(self, message: str) -> None:
        """Keeps a message, once."""
        if message not in self.messages:
            self.messages.append(message)


_warnings = _Warnings()
logging.getLogger(__package__.partition(".")[0]).addHandler(_warnings)


def said() -> Sequence[str]:
    """Returns the warnings of this run of a plugin, without repetitions, the latest ones."""
    return tuple(_warnings.messages)


def no_linux_kernel(location: str) -> None:
    """Keeps that a search was in vain: no warning, since other plugins do without a kernel.

    Nothing is kept where a warning names the file already: that says why it cannot be read.

    Args:
        location: URL of what was searched.
    """
    name = display_name(location)
    warning = re.compile(f"{_BEFORE_NAME}{re.escape(name)}{_BEHIND_NAME}")
    if any(map(warning.match, _warnings.messages)):
        return
    _warnings.keep(raw.no_linux_kernel(location))


class GuestDumpReasons(interfaces.automagic.AutomagicInterface):
    """Says at the end of the program why a plugin's requirements are not satisfied."""

    # Behind all others; KernelModule, the last of Volatility's, has 100.
    priority = 1000

    def __call__(
        self,
        context: interfaces.context.ContextInterface,
        config_path: str,
        requirement: interfaces.configuration.RequirementInterface,
        progress_callback: constants.ProgressCallback = None,
    ) -> None:
        """Runs the automagic over the configurable."""
        reasons = list(_warnings.messages)
        _warnings.messages.clear()
        # Other programs have logs, and go on.
        is_command_line = "volatility3.cli" in sys.modules
        if reasons and is_command_line and requirement.unsatisfied(context, config_path):
            atexit.register(_say, reasons)


def _say(reasons: Sequence[str]) -> None:
    for reason in reasons:
        print(f"volatility_guestdump: {reason}", file=sys.stderr)
