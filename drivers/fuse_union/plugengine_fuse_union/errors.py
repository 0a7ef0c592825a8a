"""Make the `OSError` that becomes a request's answer."""

from __future__ import annotations

import os


def refused(number: int) -> OSError:
    """Return the exception for one errno; raised by the union, answered by the transport."""
    return OSError(number, os.strerror(number))
