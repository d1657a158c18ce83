# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""From the path of a file to the machine in it: which format, which other files, what to say.

    with open_dump("debug.guest") as dump:
        for warning in dump.warnings: ...
        dump.machine or dump.advice

Each format is a module with a class that follows `format.Format`, and a row of `table.FORMATS`:
whoever opens files asks the rows in order. Volatility is not needed; `framework` puts its layers
on the same table.
"""

from volatility_guestdump.dumps.opening import Dump as Dump
from volatility_guestdump.dumps.opening import open_dump as open_dump
from volatility_guestdump.dumps.session import Session as Session
