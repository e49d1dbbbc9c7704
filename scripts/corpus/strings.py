"""In: an unpacked libreoffice-l10n package. Out: (English message, Indic sentence) pairs that can be read aloud.

The English message is the prompt key: the same message in another language is the same prompt.
"""

from __future__ import annotations

import gettext
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .sentences import clean, is_readable_sentence, is_speakable


@dataclass(frozen=True)
class CatalogueString:
    english: str
    language: str
    text: str
    catalogue: str


def read_strings(folder: Path, language: str) -> list[CatalogueString]:
    """Sentences in catalogue order; each English message and each translation once."""
    seen: set[str] = set()
    found = []
    for row in _messages(folder, language):
        if row.english in seen or row.text in seen or not is_readable_sentence(row.text, language):
            continue
        seen |= {row.english, row.text}
        found.append(row)
    return found


def read_short_strings(folder: Path, language: str) -> list[CatalogueString]:
    """What is too short or too long to read aloud, but is clean text: material for the text corpus."""
    rows = [row for row in _messages(folder, language) if is_speakable(row.text, language)]
    return [row for row in rows if len(row.text) >= 12 and not is_readable_sentence(row.text, language)]


def _messages(folder: Path, language: str) -> Iterator[CatalogueString]:
    for path in sorted(folder.glob("usr/lib/libreoffice/program/resource/*/LC_MESSAGES/*.mo")):
        with path.open("rb") as file:
            catalog: dict[object, str] = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
        for message, text in catalog.items():
            if isinstance(message, str) and message and text:
                yield CatalogueString(clean(message.split("\x04")[-1]), language, clean(text), path.stem)
