"""A prompt before it is in a pack, and the sounds it refers to.

In: what a reader of some layout found. Out: `Draft`s, which prompt_packs/build.py writes. Paths of a listing stay in
its folder; audio is resampled to 16 kHz and never cut: a reference of more than `MAX_SOUND_SEC` is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from titan_speech.codec.wav import read_resampled
from titan_speech.errors import CodecError, DataError
from titan_speech.evaluate.clip import SAMPLE_RATE, Sound
from titan_speech.evaluate.prompt_packs.prompt_pack import MAX_SOUND_SEC
from titan_speech.store.sample import is_language
from titan_speech.utils.json_text import read_small_file
from titan_speech.utils.safe_path import referenced_file

MAX_LIST_BYTES = 256 << 20
SUBSET = re.compile(r"[a-z0-9_]*")
SURROGATE = re.compile(r"[\ud800-\udfff]")
"""JSON can spell one; no file takes it."""


@dataclass(frozen=True, eq=False)
class Draft:
    """One utterance to ask for."""

    prompt_id: str
    language: str
    text: str
    subset: str = ""
    voice: Sound | None = None
    voice_text: str = ""
    voice_language: str = ""
    recording: Sound | None = None


def read_lines(path: Path) -> Iterator[tuple[int, str, str]]:
    """The lines of a listing that are not blank: number, file and line for messages, and text.

    Only line ends end a line, since JSON may hold other separators (U+2028) as they are.

    Raises:
        DataError: it cannot be read as UTF-8, or is too large.
    """
    try:
        text = read_small_file(path, MAX_LIST_BYTES).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(f"no prompts can be read from {path}: {error}; expected UTF-8 text") from error
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        if line.strip():
            yield number, f"{path}, line {number}", line


def read_reference(folder: Path, name: str, where: str) -> Sound:
    """The audio that a listing names.

    Args:
        folder: of the listing.
        name: of the file, as the listing has it.
        where: file and line, for messages.

    Raises:
        DataError: it cannot be read, is too long, or is outside the folder.
    """
    try:
        return Sound(read_resampled(referenced_file(folder, name), SAMPLE_RATE, MAX_SOUND_SEC)[0])
    except (CodecError, OSError) as error:
        raise DataError(f"{where}: {error}") from error


def checked(draft: Draft, where: str) -> Draft:
    """The draft, once its language, its subset and its text are as they should be.

    Raises:
        DataError: they are not.
    """
    if not is_language(draft.language):
        raise DataError(f"{where}: found the language {draft.language!r}, expected a BCP 47 tag such as hi")
    if not SUBSET.fullmatch(draft.subset):
        raise DataError(f"{where}: found the subset {draft.subset!r}, expected small letters, digits and _")
    if not draft.text.strip():
        raise DataError(f"{where}: there is no text")
    for text in (draft.prompt_id, draft.text, draft.voice_text, draft.voice_language):
        if SURROGATE.search(text):
            raise DataError(f"{where}: found {text[:80]!r}, which is no text: it has half of a surrogate pair")
    return draft


def subset_name(text: str) -> str:
    """A category of another set as the name of a subset."""
    return re.sub(r"[^a-z0-9]+", "_", text.strip().lower()).strip("_")
