"""`python -m volatility_guestdump`: is Volatility able to find the plugins, and if not, how."""

import importlib.util
import pathlib
import sys

from volatility_guestdump import __version__


def main() -> int:
    """Prints version and place of the plugins.

    Returns:
        0 when a plain `vol` finds the plugins, else 1.
    """
    print(f"volatility_guestdump {__version__}")
    found = importlib.util.find_spec("volatility3") is not None
    plugin = importlib.util.find_spec("volatility3.plugins.guestdump") if found else None
    if plugin is not None:
        print(f"vol finds the plugins: yes, at {plugin.origin}")
    elif found:
        print("vol finds the plugins: no, give it the folder below")
    else:
        print("vol finds the plugins: no, Volatility 3 is not installed for this Python")
    folder = pathlib.Path(__file__).resolve().parent / "plugins"
    print(f'A Volatility that is installed elsewhere finds them with: -p "{folder}"')
    return 0 if plugin is not None else 1


if __name__ == "__main__":
    sys.exit(main())
