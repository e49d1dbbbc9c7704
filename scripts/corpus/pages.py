"""In: the unpacked gnome-user-docs package. Out: help pages, each the paragraphs of one topic in reading order.

Untranslated paragraphs stay English in the package; those of an Indic page with Latin letters in them are
left out. English has 267 usable pages, Tamil 181, Marathi 177, Gujarati 169, Assamese 154, Telugu 59, Hindi
3.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

from .sentences import clean, is_speakable

PARAGRAPH = "{http://projectmallard.org/1.0/}p"
PAGE_LANGUAGES = ("hi", "ta", "te", "mr", "gu", "as")
MIN_PARAGRAPH_CHARS = 40


@dataclass(frozen=True)
class Page:
    key: str  # the topic, the same in every language
    language: str
    paragraphs: tuple[str, ...]


def read_pages(folder: Path, language: str) -> list[Page]:
    locale = "C" if language == "en" else language
    paths = sorted((folder / f"usr/share/help/{locale}/gnome-help").glob("*.page"))
    pages = [Page(f"gnome-help/{path.stem}", language, _paragraphs(path, language)) for path in paths]
    return [page for page in pages if page.paragraphs]


def _paragraphs(path: Path, language: str) -> tuple[str, ...]:
    elements = ElementTree.parse(path).getroot().iter(PARAGRAPH)
    texts = [clean("".join(element.itertext())) for element in elements]
    keep = [t for t in texts if len(t) >= MIN_PARAGRAPH_CHARS and (language == "en" or is_speakable(t, language))]
    return tuple(dict.fromkeys(keep))
