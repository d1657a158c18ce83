# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""`python -m volatility_guestdump`: is Volatility able to find the plugins, and if not, how."""

import importlib.metadata
import importlib.util
import json
import pathlib
import sys
from typing import Optional

from volatility_guestdump import version

_PACKAGE = pathlib.Path(__file__).resolve().parent
_DISTRIBUTION = "volatility3-guestdump"


def _is_editable() -> bool:
    """Returns whether the package was installed with `pip install -e`."""
    for distribution in importlib.metadata.distributions(name=_DISTRIBUTION):
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
        if origin.get("dir_info", {}).get("editable"):
            return True
    return False


def _registration_error() -> Optional[Exception]:
    """Returns what goes wrong when Volatility is made to know the package, or None."""
    try:
        importlib.import_module(f"{__package__}.framework")
    except Exception as error:
        # A Volatility that is older or newer may raise anything.
        return error
    return None


def _obstacle(volatility: pathlib.Path, error: Optional[Exception]) -> str:
    """Returns why a plain `vol` does not show the plugins, and what to do; "" when it does.

    Args:
        volatility: folder of the package of Volatility.
        error: what goes wrong when Volatility is made to know the package, or None.
    """
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("volatility"):
        return f"it needs {error.name}: pip install {error.name}"
    if error is not None:
        versions = ">={}.{}.{},<{}.{}".format(
            *version.OLDEST_VOLATILITY, *version.UNTESTED_VOLATILITY[:2]
        )
        return f'{error}: pip install "volatility3{versions}"'
    # Volatility imports the files that it finds in its folders, not what could be imported.
    if (volatility / "plugins" / "guestdump.py").is_file():
        return ""
    if _is_editable():
        return (
            "an editable install puts nothing into Volatility's folders: install without -e "
            f'(pip install "{_PACKAGE.parent}"), or use -p'
        )
    return f"{volatility / 'plugins'} has no guestdump.py: pip install the package, or use -p"


def _newer() -> str:
    """Returns words for a Volatility that is newer than those that were tested, else ""."""
    here: tuple[int, int, int] = importlib.import_module(
        "volatility3.framework"
    ).interface_version()
    if here < version.UNTESTED_VOLATILITY:
        return ""
    return f": {'.'.join(map(str, here))} is newer than what was tested"


def main() -> int:
    """Prints version and place of the plugins, of Volatility, and whether they come together.

    Returns:
        0 when a plain `vol` finds the plugins, else 1.
    """
    print(f"volatility_guestdump {version.__version__} at {_PACKAGE}")
    found = importlib.util.find_spec("volatility3")
    if found is None or found.origin is None:
        obstacle = f"Volatility 3 is not installed for this Python, {sys.executable}"
    else:
        volatility = pathlib.Path(found.origin).parent
        error = _registration_error()
        print(f"Volatility 3 at {volatility}{'' if error else _newer()}")
        obstacle = _obstacle(volatility, error)
    print(f"vol finds the plugins: {f'no, {obstacle}' if obstacle else 'yes'}")
    print(f'A Volatility that is installed elsewhere finds them with: -p "{_PACKAGE / "plugins"}"')
    return 1 if obstacle else 0


if __name__ == "__main__":
    sys.exit(main())
