"""Tables and numbers as text, for everything the commands print.

In: rows of cells, or numbers. Out: lines for a terminal. Sizes are decimal, 1 GB = 1e9 bytes, as prices and datasheets
state them.
"""

from __future__ import annotations

from collections.abc import Sequence

from titan_speech.utils.printable import one_line

BAR_WIDTH = 30


def table_lines(rows: Sequence[Sequence[str]], align: str = "<") -> list[str]:
    """One line per row, every column as wide as its longest cell, two spaces between columns.

    Args:
        rows: the cells of each row, all of one length; the header is a row. A cell stays in its line (`one_line`).
        align: `<` (left) or `>` (right) for each column; its last character holds for all further columns.
    """
    rows = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = align.ljust(len(widths), align[-1])
    return [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=False)).rstrip()
        for row in rows
    ]


def size_text(num_bytes: int) -> str:
    """Megabytes below 1 GB, gigabytes from there on."""
    return f"{num_bytes / 1e9:,.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.1f} MB"


def gigabytes(num_bytes: float) -> str:
    """Gigabytes with two decimals, or with two significant digits where those would be 0.00."""
    return f"{num_bytes / 1e9:,.2f} GB" if num_bytes >= 1e7 or not num_bytes else f"{num_bytes / 1e9:.2g} GB"


def large(value: float) -> str:
    """Four significant digits and a letter: 1.855 B, 12.3 M."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g} {letter}"
    return f"{value:.4g}"


def amount(value: float, unit: str = "") -> str:
    """Three significant digits with the unit, `B` for bytes: 110 samples, 12.3 k samples, 4.51 GB."""
    letters = ((1e12, "T"), (1e9, "G" if unit == "B" else "B"), (1e6, "M"), (1e3, "k"))
    size, letter = next((one for one in letters if value >= 0.9995 * one[0]), (1.0, ""))
    unit = unit.removesuffix("s") if value == 1 else unit
    return f"{value / size:.3g} {letter}{unit if unit == 'B' else f' {unit}' if letter else unit}".rstrip()


def counted(number: int, noun: str) -> str:
    """A number with its noun, in the plural unless the number is 1: 1 step, 1,234 steps, 2 processes."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{ending}"


def hours(value: float) -> str:
    """Hours, with a tenth below 100; minutes below one hour."""
    if 0 < value < 1:
        return f"{value * 60:.1f} min"
    return f"{value:,.1f} h" if value < 100 else f"{value:,.0f} h"


def bar(part: float) -> str:
    """A bar whose length is this part, 0 to 1, of `BAR_WIDTH`."""
    return "#" * round(part * BAR_WIDTH)
