"""Rows of text in columns, and sizes, for what is listed.

Numbers as a page shows them.

In: numbers. Out: text: 1 GB is 1e9 bytes, as prices and datasheets have it.
"""

from __future__ import annotations

from collections.abc import Sequence


def table_lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """One line a row, each column as wide as its longest cell."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def size_text(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.1f} MB"


BAR_WIDTH = 30


def gigabytes(num_bytes: float) -> str:
    """Two decimals, or two digits of what would be 0.00."""
    return f"{num_bytes / 1e9:,.2f} GB" if num_bytes >= 1e7 or not num_bytes else f"{num_bytes / 1e9:.2g} GB"


def large(value: float) -> str:
    """1.855 B, 12.3 G: four digits and a letter."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g} {letter}"
    return f"{value:.4g}"


def hours(value: float) -> str:
    """To a tenth below 100, in minutes below 1."""
    if 0 < value < 1:
        return f"{value * 60:.1f} min"
    return f"{value:,.1f} h" if value < 100 else f"{value:,.0f} h"


def bar(part: float) -> str:
    """A bar of that part of the full width."""
    return "#" * round(part * BAR_WIDTH)


def aligned_columns(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Columns aligned: the first `left` and a last one of words to the left, numbers to the right."""
    width = max(len(row) for row in rows)
    padded = [[*row, *[""] * (width - len(row))] for row in rows]
    widths = [max(len(row[column]) for row in padded) for column in range(width)]
    return [
        "  ".join(
            cell.ljust(size) if column < left or _is_words(padded, column) else cell.rjust(size)
            for column, (cell, size) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in padded
    ]


def _is_words(rows: Sequence[Sequence[str]], column: int) -> bool:
    """A last column that is no number in its last row."""
    last = rows[-1][column]
    return column == len(rows[0]) - 1 and not last[:1].isdigit() and last != "?"
