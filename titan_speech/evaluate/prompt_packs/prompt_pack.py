"""A prompt pack: what every checkpoint is asked to say, frozen and named by its hash.

In: a folder with pack.json and the audio or codes that its prompts refer to. Out: `PromptPack`, checked against its
hash. A pack is never edited: another prompt, another reference or another order is another pack and begins another
series of results. Codes are kept in the pack as uint16 .npy files, audio as 16 kHz wav; their sha256 is part of the
hash.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from titan_speech.codec.wav import read_audio, wav_bytes
from titan_speech.errors import DataError
from titan_speech.evaluate.clip import SAMPLE_RATE, Clip, Sound
from titan_speech.utils.files import write_atomically
from titan_speech.utils.json_text import read_json_file, read_small_file
from titan_speech.utils.record_types import check_types
from titan_speech.utils.safe_path import UnsafePathError, path_inside, relative_path

PACK_NAME, PACK_VERSION = "pack.json", 1
MAX_SOUND_SEC = 60.0
MAX_SOUND_CODES = int(MAX_SOUND_SEC * 50)
"""At 50 codes per second."""
SETS = ("canary", "full")


@dataclass(frozen=True)
class SoundFiles:
    """Where a sound of the pack is: paths in the pack's folder, with the sha256 of each."""

    wav: str | None = None
    codes: str | None = None
    sha256: tuple[str, ...] = ()
    """Of the wav and of the codes, as far as there are any."""


@dataclass(frozen=True)
class Prompt:
    """One utterance that a model is asked for."""

    prompt_id: str
    language: str
    text: str
    subset: str = ""
    """long_form, numbers, punctuation, cross_lingual, code_mixed, short, ...; "" is ordinary text."""
    sets: tuple[str, ...] = ("full",)
    """Of `SETS`."""
    voice: SoundFiles | None = None
    """Reference speech, for cloning."""
    voice_text: str = ""
    """Its transcript."""
    voice_language: str = ""
    """Its language; "" is that of the prompt."""
    recording: SoundFiles | None = None
    """The text as it was recorded."""


@dataclass(frozen=True)
class PromptPack:
    """A set of prompts, in order."""

    name: str
    prompts: tuple[Prompt, ...]
    codec_hash: str = ""
    """Of the codec that made the codes; "" without codes."""
    licence: str = ""
    made_from: str = ""
    """What it was made from, for people."""
    version: int = PACK_VERSION

    @property
    def hash(self) -> str:
        """16 hex digits of everything but name, licence and origin."""
        content = asdict(replace(self, name="", licence="", made_from=""))
        return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]

    def check_codec(self, codec_hash: str | None, folder: Path) -> None:
        """Check that a codec is the one that the pack's codes are of; a pack without codes takes any.

        Args:
            codec_hash: of the codec; None without a codec.
            folder: of the pack, for the message.

        Raises:
            DataError: it is another one, whose decoder would make noise of the codes.
        """
        if self.codec_hash and codec_hash != self.codec_hash:
            found = "none" if codec_hash is None else repr(codec_hash)
            raise DataError(
                f"the sounds of {folder} are codes of codec {self.codec_hash!r}, found {found}: give it by --codec"
            )

    def of_set(self, name: str) -> tuple[Prompt, ...]:
        """The prompts of the canary or the full set."""
        return tuple(prompt for prompt in self.prompts if name in prompt.sets)

    def counts(self) -> list[tuple[str, str, int, int]]:
        """Language, subset, prompts of the canary set and of the full set."""
        canary = Counter((p.language, p.subset) for p in self.of_set("canary"))
        full = Counter((p.language, p.subset) for p in self.of_set("full"))
        return [(*key, canary[key], full[key]) for key in sorted(canary | full)]


def write_sound(folder: Path, name: str, sound: Sound) -> SoundFiles:
    """Write a sound of a pack.

    Args:
        folder: of the pack.
        name: path of the files, without an extension.
        sound: with a waveform, codes or both.
    """
    wav = codes = None
    sums = []
    if sound.wav_T is not None:
        wav, content = f"{name}.wav", wav_bytes(sound.wav_T, SAMPLE_RATE)
        write_atomically(folder / relative_path(wav), content)
        sums.append(hashlib.sha256(content).hexdigest())
    if sound.codes_F is not None:
        codes, buffer = f"{name}.npy", BytesIO()
        np.save(buffer, sound.codes_F.astype(np.uint16), allow_pickle=False)
        write_atomically(folder / relative_path(codes), buffer.getvalue())
        sums.append(hashlib.sha256(buffer.getvalue()).hexdigest())
    return SoundFiles(wav, codes, tuple(sums))


def read_sound(folder: Path, files: SoundFiles) -> Sound:
    """Read a sound of a pack and compare its checksums.

    Raises:
        DataError: a file is missing, is another one than the pack was made with, or is no sound.
    """
    wav_T = codes_F = None
    sums = list(files.sha256)
    try:
        if files.wav is not None:
            path = path_inside(folder, files.wav)
            _check(path, sums.pop(0))
            wav_T = read_audio(path, SAMPLE_RATE, MAX_SOUND_SEC)
        if files.codes is not None:
            path = path_inside(folder, files.codes)
            codes_F = _codes(path, _check(path, sums.pop(0)))
    except (OSError, IndexError) as error:
        raise DataError(f"a sound of the pack {folder} cannot be read: {error}; copy the pack again") from error
    return Sound(wav_T, codes_F)


def _codes(path: Path, content: bytes) -> NDArray[np.uint16]:
    """Codes in a .npy file, whose header is compared with what follows it before anything of its size is made."""
    file = BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, _, dtype = read_header[version](file)
    except (ValueError, KeyError, TypeError, EOFError, OverflowError) as error:
        raise DataError(f"{path} is no array of codes ({error}); make the pack again") from error
    if dtype != np.uint16 or len(shape) != 1 or not 0 <= shape[0] <= MAX_SOUND_CODES:
        raise DataError(f"{path} holds {dtype} of shape {shape}, expected a row of at most {MAX_SOUND_CODES:,} uint16")
    if len(content) - file.tell() != 2 * shape[0]:
        raise DataError(f"{path} announces {shape[0]:,} codes and has {len(content) - file.tell():,} bytes of them")
    return np.frombuffer(content, dtype, offset=file.tell()).astype(np.uint16)


def _check(path: Path, expected: str) -> bytes:
    try:
        content = read_small_file(path)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    if hashlib.sha256(content).hexdigest() != expected:
        raise DataError(f"{path} is not the file that the pack was made with; a pack is frozen: copy it again")
    return content


def write_pack(folder: Path, pack: PromptPack) -> None:
    """Write pack.json into the folder that already holds the sounds.

    Raises:
        DataError: the folder has a pack already, or a prompt is not as it should be.
    """
    if (folder / PACK_NAME).exists():
        raise DataError(f"{folder} holds a pack already; a pack is frozen: give another --output")
    check_pack(pack)
    content = {"hash": pack.hash} | asdict(pack)
    write_atomically(folder / PACK_NAME, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def check_pack(pack: PromptPack) -> None:
    """Raises DataError where prompts share an id, have no text, or name an unknown set."""
    ids = Counter(prompt.prompt_id for prompt in pack.prompts)
    twice = [one for one, count in ids.items() if count > 1]
    if not pack.prompts:
        raise DataError("the pack has no prompt: give sources with at least one")
    if twice:
        raise DataError(f"{len(twice)} ids stand for several prompts, first {twice[0]!r}: give each its own")
    for prompt in pack.prompts:
        if not prompt.text.strip():
            raise DataError(f"prompt {prompt.prompt_id!r} has no text")
        if not prompt.sets or not set(prompt.sets) <= set(SETS):
            raise DataError(f"prompt {prompt.prompt_id!r} is of sets {prompt.sets!r}; expected some of {SETS}")


def read_pack(folder: Path) -> PromptPack:
    """Read a pack; its sounds are read when they are asked for.

    Raises:
        DataError: the file is missing, damaged or edited, or it was written by a newer version.
    """
    path = folder / PACK_NAME
    try:
        content = read_json_file(path)
        if content["version"] != PACK_VERSION:
            raise DataError(f"{path} has version {content['version']!r}, this titan_speech reads {PACK_VERSION}")
        stated = content.pop("hash")
        pack = PromptPack(**content | {"prompts": tuple(map(_prompt, content["prompts"]))})
        check_types(pack)
        for files in (f for p in pack.prompts for f in (p.voice, p.recording) if f is not None):
            for name in filter(None, (files.wav, files.codes)):
                relative_path(name)
    except OSError as error:
        raise DataError(f"no prompt pack at {folder}: {error}; titan-speech evaluate pack makes one") from error
    except UnsafePathError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is damaged ({error!r}); copy the pack again") from error
    if stated != pack.hash:
        raise DataError(f"{path} was edited: its hash is {stated!r}, its content gives {pack.hash}; make a new pack")
    check_pack(pack)
    return pack


def _prompt(content: dict[str, Any]) -> Prompt:
    voice, recording = (content[name] and _files(content[name]) for name in ("voice", "recording"))
    return replace(Prompt(**content), voice=voice, recording=recording, sets=tuple(content["sets"]))


def _files(content: dict[str, Any]) -> SoundFiles:
    return SoundFiles(content["wav"], content["codes"], tuple(content["sha256"]))


def clip_of(prompt: Prompt, voice: Sound | None, recording: Sound | None, sound: Sound) -> Clip:
    """A clip that was made for a prompt.

    Args:
        prompt: of the pack.
        voice, recording: its sounds.
        sound: of the clip.
    """
    return Clip(
        prompt_id=prompt.prompt_id,
        language=prompt.language,
        text=prompt.text,
        sound=sound,
        subset=prompt.subset,
        voice=voice,
        recording=recording,
    )


def with_sounds(folder: Path, prompts: Sequence[Prompt]) -> list[tuple[Prompt, Sound | None, Sound | None]]:
    """Each prompt with its voice and its recording, read and checked."""
    return [
        (one, one.voice and read_sound(folder, one.voice), one.recording and read_sound(folder, one.recording))
        for one in prompts
    ]
