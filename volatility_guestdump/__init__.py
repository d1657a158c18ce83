"""debug.guest and debug.vmem, the memory dumps of VMware ESXi, for Volatility 3.

Volatility finds stackers, layers and automagic as subclasses of its own, so importing
`volatility_guestdump.automagic` is all that registers them; the plugins do.
"""

__version__ = "1.0.0"
