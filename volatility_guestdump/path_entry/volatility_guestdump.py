# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Puts the package around this folder where `import volatility_guestdump` finds this module."""

import importlib.util
import pathlib
import sys

_NAME = "volatility_guestdump"
_FOLDER = pathlib.Path(__file__).resolve().parents[1]

_spec = importlib.util.spec_from_file_location(
    _NAME, _FOLDER / "__init__.py", submodule_search_locations=[str(_FOLDER)]
)
assert _spec is not None and _spec.loader is not None
_package = importlib.util.module_from_spec(_spec)
# An import statement gives what stands here when the module has run, not the module itself.
sys.modules[_NAME] = _package
_spec.loader.exec_module(_package)
