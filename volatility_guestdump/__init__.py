# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Memory images of guests for Volatility 3: no symbol file, no option, no scan.

Volatility knows the package's stackers, layers and automagic when it has imported the plugins, as
it does at its start, or when a program has imported `volatility_guestdump.framework`. Everything
else of the package works without Volatility.
"""

from volatility_guestdump.version import __version__ as __version__
