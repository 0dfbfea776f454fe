"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], left: int | None = None) -> str:
    """Rows of equally many cells as lines of columns; the first `left` columns hold words, the others figures.

    Without `left` all columns hold words.
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    words = len(widths) if left is None else left
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < words else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
