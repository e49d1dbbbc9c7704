"""What a section of the page is made of: tiles, charts, tables, facts, text, sound.

In: nothing. Out: plain records, which templates/blocks.html.j2 writes; a section needs no HTML of its own. Every text
in them may come from outside: the template escapes all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from titan_speech.report.chart import Chart

Tone = Literal["", "good", "warn", "bad", "soft"]


@dataclass(frozen=True)
class Cell:
    """One cell of a table."""

    text: str
    tone: Tone = ""
    share: float | None = None
    """0 to 1: a bar behind the text."""
    color: str = ""
    """Class of page.css: a dot in the color of a run before the text."""
    title: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells; a text is a cell without a tone."""

    heads: tuple[str, ...]
    rows: Sequence[Sequence[Cell | str]]
    caption: str = ""
    num_words: int = 1
    """Columns from the left that hold words, and are aligned left."""
    last_is_words: bool = False
    is_folded: bool = False
    """Opens on a click on its caption."""


@dataclass(frozen=True)
class Tile:
    """A number that stands for the run."""

    name: str
    value: str
    note: str = ""
    tone: Tone = ""


@dataclass(frozen=True)
class Tiles:
    tiles: Sequence[Tile]


@dataclass(frozen=True)
class Charts:
    """Charts side by side; those without a point are left out."""

    charts: Sequence[Chart]
    title: str = ""

    @property
    def shown(self) -> list[Chart]:
        return [chart for chart in self.charts if chart.has_points]


@dataclass(frozen=True)
class StackPart:
    """A part of a whole."""

    name: str
    value: str
    share: float
    """0 to 1."""
    color: str
    """Class of page.css."""


@dataclass(frozen=True)
class Stack:
    """Parts of one whole as one bar."""

    title: str
    parts: Sequence[StackPart]


@dataclass(frozen=True)
class Facts:
    """Names and values."""

    facts: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Paragraph:
    text: str
    tone: Tone = ""


@dataclass(frozen=True)
class Details:
    """Text of many lines that opens on a click."""

    summary: str
    text: str


@dataclass(frozen=True)
class SoundClip:
    """One sound of a prompt."""

    label: str
    """Such as the step it was generated at."""
    sound: str
    """A data URI; empty if it cannot be heard."""
    note: str = ""
    tone: Tone = ""


@dataclass(frozen=True)
class SoundPrompt:
    """A prompt and what was generated from it, in the order of the steps."""

    title: str
    text: str
    language: str
    clips: Sequence[SoundClip]


@dataclass(frozen=True)
class SoundPrompts:
    prompts: Sequence[SoundPrompt]


Block: TypeAlias = Tiles | Charts | Table | Stack | Facts | Paragraph | Details | SoundPrompts


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    anchor: str
    title: str
    lead: str
    """One or two sentences under the title."""
    blocks: Sequence[Block]

    @property
    def kinds(self) -> list[tuple[str, Block]]:
        """The blocks with the names of their macros."""
        return [(type(block).__name__.lower(), block) for block in self.blocks]
