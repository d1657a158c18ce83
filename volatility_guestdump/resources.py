# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Where the data files of symbols/ are that are read at run time."""

import functools
import json
import pathlib
from typing import Any

_PACKAGE = pathlib.Path(__file__).resolve().parent


@functools.cache
def folder() -> pathlib.Path:
    """Returns the folder of the data files.

    They are a subpackage where the package is installed. In a checkout they lie beside the package,
    with what the package is built from; a folder of that name beside an installed package is
    somebody else's.

    Raises:
        FileNotFoundError: they lie at neither place.
    """
    installed = _PACKAGE / "symbols"
    if installed.is_dir():
        return installed
    root = _PACKAGE.parent
    if not all((root / name).is_file() for name in ("setup.py", "pyproject.toml", "MANIFEST.in")):
        raise FileNotFoundError(f"{installed} is missing: install volatility_guestdump again")
    return root / "symbols"


@functools.cache
def read_json(name: str) -> Any:
    """Returns the contents of a data file; callers share it and must not change it."""
    return json.loads((folder() / name).read_text(encoding="utf-8"))
