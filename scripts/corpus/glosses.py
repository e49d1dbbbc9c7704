"""In: the unpacked wordnet-base package. Out: English documents of dictionary entries.

One entry is short, and the text rules drop documents under 128 characters: entries that stand together in the
file (one branch of meaning) are joined to documents of about 700 characters.
"""

from __future__ import annotations

from pathlib import Path

DOCUMENT_CHARS = 700
FILES = ("data.noun", "data.verb", "data.adj", "data.adv")


def read_documents(folder: Path) -> list[tuple[str, str]]:
    """(document id, text) in file order."""
    return [document for name in FILES for document in _documents(folder / "usr/share/wordnet" / name)]


def _documents(path: Path) -> list[tuple[str, str]]:
    documents: list[tuple[str, str]] = []
    entries: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("  ") or " | " not in line:  # the licence header
            continue
        entries.append(_entry(line))
        if sum(map(len, entries)) >= DOCUMENT_CHARS:
            documents.append((f"wordnet/{path.suffix[1:]}/{line.split()[0]}", "\n".join(entries)))
            entries = []
    return documents


def _entry(line: str) -> str:
    fields, gloss = line.split(" | ", 1)
    return f"{fields.split()[4].split('(')[0].replace('_', ' ')}: {gloss.strip()}."
