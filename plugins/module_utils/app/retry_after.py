"""When who answered that it is asked too often (429) wants to be asked again."""

from __future__ import annotations

import contextlib
import email.utils
import time


def seconds(header: str | None) -> float:
    """Of a Retry-After, which holds seconds or a date; 0 for none, for the past, and for what makes no sense."""
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        if header and header.strip().isdecimal():
            return float(header)
        return max(0.0, email.utils.parsedate_to_datetime(header or "").timestamp() - time.time())
    return 0.0
