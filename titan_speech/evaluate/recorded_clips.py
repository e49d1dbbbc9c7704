"""Clips from files: recordings, or what any model has spoken.

In: a JSONL listing of wavs with their texts; or a pack, alone (its recordings) or with a folder of wavs named by
prompt. Out: clips. A file that cannot be read gives a clip without sound, which every scorer then says; a listing
that is wrong is refused whole.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from titan_speech.codec.base import Codec
from titan_speech.codec.wav import read_resampled
from titan_speech.errors import CodecError, DataError
from titan_speech.evaluate.clip import SAMPLE_RATE, Clip, Sound, resynthesized
from titan_speech.evaluate.prompt_packs.drafts import Draft, checked, read_lines
from titan_speech.evaluate.prompt_packs.prompt_pack import PromptPack, clip_of, with_sounds
from titan_speech.evaluate.scorers.base import MAX_SEC
from titan_speech.tokenization.languages import to_tag
from titan_speech.utils.json_text import parse_json
from titan_speech.utils.printable import one_line
from titan_speech.utils.safe_path import path_inside, referenced_file

logger = logging.getLogger(__name__)
_KEYS = frozenset(("wav", "text", "language", "prompt_id", "subset", "voice", "recording", "seed"))


def listed_clips(path: Path, made_by: str = "") -> list[Clip]:
    """The clips of a JSONL listing.

    Args:
        path: one object per line: `wav`, `text`, `language`; optional `prompt_id`, `subset`, `seed`, and `voice` and
            `recording`, further wavs. Paths are relative to the listing and stay in its folder.
        made_by: for people.

    Raises:
        DataError: a line is not as expected, or the file has no line.
    """
    clips: list[Clip] = []
    lines_of: dict[tuple[str, int], int] = {}
    for number, where, line in read_lines(path):
        try:
            row = parse_json(line)
        except ValueError as error:
            raise DataError(f"{where}: {error}; expected one JSON object per line") from error
        if not isinstance(row, dict) or not isinstance(row.get("wav"), str) or row.keys() - _KEYS:
            raise DataError(f"{where}: expected an object with wav, text and language; optional are {sorted(_KEYS)}")
        seed = row.get("seed", 0)
        if type(seed) is not int or not 0 <= seed < 1 << 63:
            raise DataError(f"{where}: found the seed {str(seed)[:80]!r}, expected a whole number from 0 below 2**63")
        draft = Draft(
            str(row.get("prompt_id", row["wav"])),
            to_tag(str(row.get("language", ""))),
            str(row.get("text", "")),
            str(row.get("subset", "")),
        )
        checked(draft, where)
        if (before := lines_of.setdefault((draft.prompt_id, seed), number)) != number:
            raise DataError(
                f"{where}: prompt {draft.prompt_id!r:.80} with seed {seed} is that of line {before}, too; give each of "
                "its clips another seed"
            )
        sounds = {
            name: _sound(referenced_file(path.parent, str(row[name])))
            for name in ("wav", "voice", "recording")
            if name in row
        }
        clips.append(
            Clip(
                prompt_id=draft.prompt_id,
                language=draft.language,
                text=draft.text,
                subset=draft.subset,
                sound=sounds["wav"],
                voice=sounds.get("voice"),
                recording=sounds.get("recording"),
                seed=seed,
                made_by=made_by,
            )
        )
    if not clips:
        raise DataError(f"{path} lists no clip")
    return clips


def pack_clips(folder: Path, pack: PromptPack, set_name: str, wavs: Path | None, codec: Codec | None) -> list[Clip]:
    """The recordings of a pack, or what was spoken for its prompts.

    Args:
        folder: of the pack.
        pack: read from it.
        set_name: canary or full.
        wavs: folder of PROMPT_ID.wav; None: the recordings of the pack.
        codec: that decodes sounds that the pack has as codes; must be the pack's.

    Raises:
        DataError: sounds are codes and no codec, or another one, is given.
    """
    pack.check_codec(None if codec is None else codec.codec_hash, folder)
    clips = []
    for prompt, voice, recording in with_sounds(folder, pack.of_set(set_name)):
        voice, recording = (_decoded(sound, codec) for sound in (voice, recording))
        if wavs is not None:
            spoken = _sound(path_inside(wavs, f"{prompt.prompt_id}.wav"))
            clips.append(replace(clip_of(prompt, voice, recording, spoken), made_by=wavs.name))
        elif recording is not None:
            clips.append(replace(clip_of(prompt, voice, recording, recording), made_by="recording"))
    if not clips:
        raise DataError(f"{folder} has no recording in its {set_name} set: give what was spoken with --wavs")
    return clips


def _decoded(sound: Sound | None, codec: Codec | None) -> Sound | None:
    if sound is None or sound.wav_T is not None or codec is None:
        return sound
    return resynthesized(sound, codec)


def _sound(path: Path) -> Sound:
    try:
        return Sound(read_resampled(path, SAMPLE_RATE, MAX_SEC)[0])
    except (CodecError, OSError) as error:
        logger.warning(f"{error}")
        return Sound(problem=one_line(str(error).replace(str(path), "the file")))
