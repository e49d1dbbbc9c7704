"""From a row of an input to a document, the same way for every format.

In: field -> value, as the input has it. Out: `Document`. Values of a wrong type are `UnfitError`s; a missing text is
an empty one. The language is, in this order: the row's, its metadata's, the preset's, the one in the path, the
one of the command line (`auto`: identified document by document); none of them is an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import regex

from titan_speech.corpus.format import ImportOptions, Unit
from titan_speech.corpus.formats.records import UnfitError
from titan_speech.corpus.text.document import UNKNOWN_LICENCE, Document
from titan_speech.corpus.text.identify import identify, letter_share
from titan_speech.corpus.text.languages import tag_of_path, to_tag
from titan_speech.corpus.text.normalize import normalize
from titan_speech.corpus.text.presets import Preset
from titan_speech.corpus.text.strip import strip_markup
from titan_speech.store.samples import is_language

AUTO = "auto"
"""As `--language`: each document is in the language it is taken for."""

UNDETERMINED = "und"
MAX_CHARS_TO_IDENTIFY = 4000

_SOURCE = regex.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_TURN = regex.compile(r"\s*<(human|bot)>:\s*")


@dataclass(frozen=True)
class RowReader:
    """Reads rows of one source."""

    options: ImportOptions
    preset: Preset | None

    def document(self, row: Mapping[str, object], unit: Unit, position: int) -> Document:
        user, text = self._texts(row)
        said = _text(row, "dataset_source") or self.options.dataset_source or self._preset_source()
        source = _checked_source(said)
        licence = _text(row, "licence") or (self.preset.licence if self.preset else UNKNOWN_LICENCE)
        return Document(
            id=_text(row, "sample_id") or f"{source}/{unit.name}/{position}",
            text=text,
            user=user,
            language=self._language(row, unit, text),
            source=source,
            licence=licence,
            signals=self._signals(row),
            position=position,
        )

    def _preset_source(self) -> str:
        if self.preset is None:
            raise UnfitError("no source", "nothing says which source this is; name it with --dataset-source")
        return self.preset.source

    def _texts(self, row: Mapping[str, object]) -> tuple[str | None, str]:
        if "dialogue" in row:
            return split_dialogue(_text(row, "dialogue"))
        return (_text(row, "user") or None), _text(row, "text")

    def _language(self, row: Mapping[str, object], unit: Unit, text: str) -> str:
        said = _text(row, "language") or _language_of_meta(row)
        if not said and self.preset is not None:
            said = self.preset.language or (self.preset.language_in_path and tag_of_path(unit.path)) or ""
        said = said or self.options.language or ""
        if not said:
            hint = " nor in its path" if self.preset and self.preset.language_in_path else ""
            detail = f"names no language{hint}; say it with --language TAG (or auto), or --columns language=NAME"
            raise UnfitError("no language", detail)
        tag = identified(text) if said == AUTO else to_tag(said)
        if not is_language(tag):
            detail = f"unknown language tag {said!r}; expected BCP 47 or ISO 639-3, as 'hi' or 'hin'"
            raise UnfitError("language", detail)
        return tag

    def _signals(self, row: Mapping[str, object]) -> dict[str, float] | None:
        if "quality_signals" not in row:
            return None
        value = row["quality_signals"]
        try:
            content = json.loads(value) if isinstance(value, str) else value
        except ValueError as error:
            raise UnfitError("quality signals", f"quality_signals is not JSON: {error}") from error
        if not isinstance(content, Mapping) or not content:
            detail = f"has no quality signals: found {value!r:.80}, expected name -> [[0, n, value]]"
            raise UnfitError("no quality signals", detail)
        return {
            str(name): float(number) for name, spans in content.items() if (number := _of_document(spans)) is not None
        }


def identified(text: str) -> str:
    """The language a document is taken for once its markup is gone; `und` where there are no letters."""
    plain = normalize(strip_markup(text[:MAX_CHARS_TO_IDENTIFY])[0], UNDETERMINED)
    return identify(plain) if letter_share(plain) else UNDETERMINED


def _checked_source(name: str) -> str:
    if not _SOURCE.fullmatch(name):
        raise UnfitError("source", f"dataset_source {name!r}; expected letters, digits, '-' and '_'")
    return name


def split_dialogue(text: str) -> tuple[str | None, str]:
    """All turns before the last answer, and that answer; without turns all is the text."""
    pieces = _TURN.split(text)
    turns = [
        (who, said.strip()) for who, said in zip(["lead", *pieces[1::2]], pieces[::2], strict=True) if said.strip()
    ]
    while turns and turns[-1][0] == "human":
        turns.pop()
    if not turns or turns[-1][0] != "bot":
        return None, text.strip() if len(pieces) == 1 else ""
    return "\n\n".join(said for _, said in turns[:-1]) or None, turns[-1][1]


def _language_of_meta(row: Mapping[str, object]) -> str:
    value = row.get("meta")
    try:
        content = json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise UnfitError("meta", f"meta is not JSON: {error}") from error
    language = content.get("language") if isinstance(content, Mapping) else None
    return language if isinstance(language, str) else ""


def _of_document(spans: object) -> float | None:
    """The value of a signal that has one for the whole document; None of one with a value a line."""
    if isinstance(spans, (int, float)):
        return float(spans)
    if isinstance(spans, list) and len(spans) == 1 and isinstance(spans[0], list) and len(spans[0]) == 3:
        value = spans[0][2]
        return float(value) if isinstance(value, (int, float)) else None
    return None


def _text(row: Mapping[str, object], field: str) -> str:
    value = row.get(field)
    if value is None:
        return ""
    if isinstance(value, int) and field == "sample_id":
        return str(value)
    if not isinstance(value, str):
        raise UnfitError(f"type of {field}", f"{field} is {type(value).__name__} {value!r:.80}; expected text")
    return value
