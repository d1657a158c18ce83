# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""A report as JSON, for programs. Its schema is in report.schema.json beside this file."""

import json
from typing import BinaryIO

from volatility_guestdump.report import document


def write(report: document.Report, stream: BinaryIO) -> None:
    """Writes a report as JSON.

    Args:
        report: what it says.
        stream: where to.

    Raises:
        OSError: it cannot be written there.
    """
    # In ASCII: a name may have half of a surrogate pair, which UTF-8 cannot say.
    stream.write(json.dumps(report.as_json(), indent=1).encode("ascii"))
