# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Memory images of guests for Volatility 3: no symbol file, no option, no scan.

Importing the package makes Volatility know its stackers, layers and automagic. Without Volatility
it can still be imported, and `python -m volatility_guestdump` says what is missing.
"""

import importlib.util
from typing import Optional

__version__ = "1.0.0"

#: The versions of Volatility that the tests have passed with: from the first to below the second.
OLDEST_VOLATILITY = (2, 28, 2)
UNTESTED_VOLATILITY = (2, 29, 0)

#: Why Volatility does not know the package; None when it does, or is not installed for this Python.
registration_error: Optional[Exception] = None

if importlib.util.find_spec("volatility3") is not None:
    try:
        from volatility_guestdump import framework as framework
    except Exception as error:
        # A Volatility that is older or newer may raise anything. It goes on without this package.
        registration_error = error
