"""debug.guest and debug.vmem, the guest dumps of VMware ESXi, for Volatility 3.

Importing the package makes Volatility know its stackers, layers and automagic, which it finds as
subclasses of its own.
"""

__version__ = "1.0.0"

from volatility_guestdump import automagic as automagic
