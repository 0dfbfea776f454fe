"""When who answered that it is asked too often (429) wants to be asked again."""

from __future__ import annotations

import contextlib
import email.utils
import time

LONGEST = 86400.0  # seconds; nobody waits longer, and the kernel couldn't wait for some of what can be written


def seconds(header: str | None) -> float:
    """Of a Retry-After, which holds seconds or a date; 0 for none, for the past, and for what makes no sense.

    A longer time than `LONGEST` is that.
    """
    with contextlib.suppress(ValueError, TypeError, OverflowError, IndexError):
        if header and header.strip().isdecimal():
            return min(float(header), LONGEST)
        there = email.utils.parsedate_to_datetime(header or "").timestamp() - time.time()
        return min(max(0.0, there), LONGEST)
    return 0.0
