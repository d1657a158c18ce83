"""All that knows Volatility: layers, stackers, automagic and symbol tables.

Importing this package makes Volatility know them, which finds them as subclasses of its own.
"""

import pathlib

from volatility3.framework import constants
from volatility3.framework.layers import resources

from volatility_guestdump.files import gzip_index, location
from volatility_guestdump.framework import automagic as automagic
from volatility_guestdump.framework import qemu_elf as qemu_elf
from volatility_guestdump.framework import reasons as reasons
from volatility_guestdump.framework import unsupported as unsupported
from volatility_guestdump.framework import vmware_state as vmware_state

# Files of other places than this machine come as Volatility gets them, and indexes lie where it
# keeps what --clear-cache deletes.
location.set_opener(lambda url: resources.ResourceAccessor().open(url))
gzip_index.set_cache_folder(lambda: pathlib.Path(constants.CACHE_PATH))
