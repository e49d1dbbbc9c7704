"""Prompts from text: JSONL with a language each, or a plain text file per language.

In: a file. JSONL: `text` and `language`; optional `prompt_id`, `subset`, and paths from the file's folder: `voice`
(with `voice_text`), `recording`. Plain text: one prompt per line; the name is LANGUAGE.txt or LANGUAGE.SUBSET.txt
(`hi.numbers.txt`). Out: drafts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from titan_speech.errors import DataError
from titan_speech.evaluate.prompt_packs.drafts import Draft, checked, read_lines, read_reference
from titan_speech.tokenization.languages import to_tag
from titan_speech.utils.json_text import parse_json

_KEYS = frozenset(("text", "language", "prompt_id", "subset", "voice", "voice_text", "voice_language", "recording"))


def text_drafts(path: Path) -> list[Draft]:
    """The prompts of a file.

    Raises:
        DataError: a line is not as expected.
    """
    return list(_from_json(path) if path.suffix in (".jsonl", ".json") else _from_text(path))


def _from_json(path: Path) -> Iterator[Draft]:
    for number, where, line in read_lines(path):
        try:
            row = parse_json(line)
        except ValueError as error:
            raise DataError(f"{where}: {error}; expected one JSON object per line") from error
        if not isinstance(row, dict) or not all(isinstance(value, str) for value in row.values()):
            raise DataError(f"{where}: expected an object of texts")
        if unknown := row.keys() - _KEYS:
            raise DataError(
                f"{where}: unknown {', '.join(sorted(unknown))}; expected some of {', '.join(sorted(_KEYS))}"
            )
        if "language" not in row:
            raise DataError(f"{where}: no language")
        sounds = {name: read_reference(path.parent, row[name], where) for name in ("voice", "recording") if name in row}
        draft = Draft(
            row.get("prompt_id", f"{path.stem}-{number:05d}"),
            to_tag(row["language"]),
            row.get("text", ""),
            row.get("subset", ""),
            sounds.get("voice"),
            row.get("voice_text", ""),
            row.get("voice_language", ""),
            sounds.get("recording"),
        )
        yield checked(draft, where)


def _from_text(path: Path) -> Iterator[Draft]:
    language, _, subset = path.stem.partition(".")
    for number, where, line in read_lines(path):
        draft = Draft(f"{path.stem}-{number:05d}", to_tag(language), line.strip(), subset)
        yield checked(draft, f"{where} (its name gives the language: hi.txt, hi.numbers.txt)")
