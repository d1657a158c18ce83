# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""All that knows Volatility: layers, stackers, automagic and symbol tables.

Importing this package makes Volatility know them, which finds them as subclasses of its own. From
the file that a user names to the first row of a plugin they take turns:

    stackers      asked in the order of `stacking.Order`, put the layer of a machine's memory on
                  that of the file (`formats`), and on it that of the kernel that `kernels` finds
                  (`stackers`)
    automagic     gives the kernel its symbol table, unless an installed ISF has its banner
    symbol table  makes types and symbols when a plugin asks for them (`symbol_table`), and objects
                  of them by `templates`
    layers        read through `intel`, for small reads straight from the machine's memory
"""

import pathlib
from typing import BinaryIO

from volatility3 import framework
from volatility3.framework import constants, exceptions
from volatility3.framework.layers import resources

from volatility_guestdump.files import gzip_index, location
from volatility_guestdump.version import OLDEST_VOLATILITY

#: The version of the Volatility that is here.
VOLATILITY = framework.interface_version()

if VOLATILITY < OLDEST_VOLATILITY:
    # Before the first class of ours is one that Volatility finds.
    raise ImportError(
        f"Volatility {'.'.join(map(str, VOLATILITY))} is older than "
        f"{'.'.join(map(str, OLDEST_VOLATILITY))}, the oldest that this package works with"
    )

from volatility_guestdump.framework import automagic as automagic  # noqa: E402
from volatility_guestdump.framework import formats as formats  # noqa: E402
from volatility_guestdump.framework import reasons as reasons  # noqa: E402
from volatility_guestdump.framework import stackers as stackers  # noqa: E402


def _open(url: str) -> BinaryIO:
    """Opens a URL as Volatility does, with the errors that files have."""
    try:
        opened: BinaryIO = resources.ResourceAccessor().open(url)
        return opened
    except exceptions.VolatilityException as error:
        # It was told to stay offline.
        raise OSError(str(error)) from error


# Files of other places than this machine come as Volatility gets them, and indexes lie where it
# keeps what --clear-cache deletes.
location.set_opener(_open)
gzip_index.set_cache_folder(lambda: pathlib.Path(constants.CACHE_PATH))
