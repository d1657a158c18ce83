"""Memory images of guests for Volatility 3: no symbol file, no option, no scan.

Importing the package makes Volatility know its stackers, layers and automagic. Without Volatility
it can still be imported, and `python -m volatility_guestdump` says what is missing.
"""

import importlib.util

__version__ = "1.0.0"

if importlib.util.find_spec("volatility3") is not None:
    try:
        from volatility_guestdump import framework as framework
    except ImportError as error:  # An older Volatility, or one without pefile.
        #: Why Volatility does not know the package; empty when it does.
        registration_error = str(error)
    else:
        registration_error = ""
else:
    registration_error = "Volatility 3 is not installed for this Python"
