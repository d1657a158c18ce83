# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Files that a plugin writes, without leaving half of one behind.

A file handler of Volatility's command line writes to a temporary file in the output folder, and
gives it its name when it is closed, whatever went wrong before. What it is called there and where
is no part of the interface: this is the one place that knows.
"""

import contextlib
import os
import pathlib
from typing import Any, Optional

from volatility3.framework import interfaces


def existing(output: interfaces.plugins.FileHandlerInterface) -> Optional[pathlib.Path]:
    """Returns the file that has the name already under which an output would be kept.

    Args:
        output: an open output.

    Returns:
        The path; None when there is no such file, or the user interface keeps no files.
    """
    handler: Any = output
    try:
        path = pathlib.Path(handler._get_final_filename())
    except AttributeError:
        return None
    # Volatility puts a number behind a name that is taken.
    taken = path.with_name(output.preferred_filename)
    return taken if path != taken else None


def discard(output: interfaces.plugins.FileHandlerInterface) -> None:
    """Closes an output, and forgets what was written to it."""
    handler: Any = output
    file, temporary = getattr(handler, "_file", None), getattr(handler, "_name", None)
    if file is None or temporary is None:
        return
    # A full disk says so once more.
    with contextlib.suppress(OSError):
        file.close()
    with contextlib.suppress(OSError):
        os.unlink(temporary)
