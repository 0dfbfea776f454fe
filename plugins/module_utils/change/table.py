"""Tables and times for the terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ..host import untrusted


def utc(moment: float) -> str:
    """Format a time (seconds since the epoch) in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(moment))


def aligned(rows: Sequence[Sequence[str]], left: int | None = None) -> str:
    """Format rows of equal length as aligned columns. Cells may be untrusted: they get no line breaks.

    The first `left` columns (by default all) are aligned left, the others right, for numbers.
    """
    rows = [[untrusted.line(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    left = len(widths) if left is None else left
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
