"""Parse the header Retry-After."""

from __future__ import annotations

import contextlib
import email.utils
import time

LONGEST = 86400.0  # seconds; longer times are of no use, and too long ones can't be passed to the kernel


def seconds(header: str | None) -> float:
    """Return the seconds of a Retry-After, which has seconds or a date; at most `LONGEST`.

    0 without the header, for a date in the past, and for an invalid value.
    """
    with contextlib.suppress(ValueError, TypeError, OverflowError, IndexError):
        if header and header.strip().isdecimal():
            return min(float(header), LONGEST)
        there = email.utils.parsedate_to_datetime(header or "").timestamp() - time.time()
        return min(max(0.0, there), LONGEST)
    return 0.0
