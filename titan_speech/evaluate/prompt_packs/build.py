"""Writing a pack: drafts become a folder that is never changed again.

In: drafts of any sources. Out: the folder of a pack. Canaries, which are generated at every checkpoint, are the same
number of prompts of each language and subset, chosen by a hash of their ids, so that adding a source does not change
which prompts of the others are canaries. All prompts are in the full set.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from titan_speech.errors import DataError
from titan_speech.evaluate.clip import Sound
from titan_speech.evaluate.prompt_packs.drafts import Draft
from titan_speech.evaluate.prompt_packs.prompt_pack import (
    Prompt,
    PromptPack,
    SoundFiles,
    check_pack,
    write_pack,
    write_sound,
)

NUM_CANARIES = 4
"""Of each language and subset."""


def build_pack(
    drafts: Sequence[Draft],
    folder: Path,
    *,
    name: str = "",
    num_canaries: int = NUM_CANARIES,
    codec_hash: str = "",
    licence: str = "",
    made_from: str = "",
) -> PromptPack:
    """Write a pack.

    Args:
        drafts: the prompts, in order.
        folder: to write; must not exist. Nothing is left of it if the pack cannot be made.
        name: for people; the folder's name by default.
        num_canaries: prompts of each language and subset that are generated at every checkpoint.
        codec_hash: of the codec that made the codes of the drafts.
        licence: of the texts and sounds.
        made_from: what it is made from.

    Raises:
        DataError: the folder exists, or a prompt is not as it should be.
    """
    if folder.exists():
        raise DataError(f"{folder} exists; a pack is frozen: give the name of a new folder")
    prompts = tuple(_prompts(drafts, num_canaries, None))
    check_pack(PromptPack(name or folder.name, prompts))
    temporary = folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        prompts = tuple(_prompts(drafts, num_canaries, temporary))
        pack = PromptPack(name or folder.name, prompts, codec_hash, licence, made_from)
        write_pack(temporary, pack)
        temporary.rename(folder)
    except OSError as error:
        raise DataError(f"the pack cannot be written to {folder}: {error}; give another folder") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return pack


def _prompts(drafts: Sequence[Draft], num_canaries: int, folder: Path | None) -> Iterable[Prompt]:
    canaries = _canaries(drafts, num_canaries)
    written: dict[bytes, SoundFiles] = {}
    for draft in drafts:
        sounds = {
            kind: None if sound is None or folder is None else _write(folder, sound, written)
            for kind, sound in (("voice", draft.voice), ("recording", draft.recording))
        }
        yield Prompt(
            draft.prompt_id,
            draft.language,
            draft.text,
            draft.subset,
            ("canary", "full") if draft.prompt_id in canaries else ("full",),
            sounds["voice"],
            draft.voice_text,
            draft.voice_language,
            sounds["recording"],
        )


def _write(folder: Path, sound: Sound, written: dict[bytes, SoundFiles]) -> SoundFiles:
    """The files of a sound; one that several prompts share is written once."""
    arrays = [one for one in (sound.wav_T, sound.codes_F) if one is not None]
    key = hashlib.sha256(b"".join(one.tobytes() + one.dtype.str.encode() for one in arrays)).digest()
    if key not in written:
        written[key] = write_sound(folder, f"sounds/{len(written):05d}", sound)
    return written[key]


def _canaries(drafts: Sequence[Draft], count: int) -> set[str]:
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for draft in drafts:
        groups[draft.language, draft.subset].append(draft.prompt_id)
    return {one for ids in groups.values() for one in sorted(ids, key=_rank)[:count]}


def _rank(prompt_id: str) -> str:
    return hashlib.sha256(prompt_id.encode()).hexdigest()
