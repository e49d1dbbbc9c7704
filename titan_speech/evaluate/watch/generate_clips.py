"""The prompts of a pack, spoken by an exported model.

In: an exported model, prompts with their sounds as utterances, the codec, decoding parameters, a work folder. Out: a
`Clip` for each prompt, and how fast it went. In transformers, prompts of similar length are decoded together, as many
as fit into `MAX_BATCH_TOKENS`; vLLM makes its own batches (generate/vllm_speech.py). What a prompt sounds like does not
depend on the batch it is in. The codes of each batch are written when it is done, so a process that was killed
continues with the batch it was at. The work folder belongs to one key (checkpoint, pack, decoding) and
is removed by whoever made it.

Shapes: F codes (frames).
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from titan_speech.codec.base import Codec
from titan_speech.errors import DataError, ModelError
from titan_speech.evaluate.clip import Clip, Sound
from titan_speech.evaluate.prompt_packs.prompt_pack import Prompt, clip_of
from titan_speech.generate.sampling import Decoding, Generated
from titan_speech.generate.synthesize import ReferenceVoice, SpeechModel, Utterance
from titan_speech.generate.vllm_speech import VLLMSpeech
from titan_speech.utils.files import write_atomically
from titan_speech.utils.progress import Progress

logger = logging.getLogger(__name__)

MAX_BATCH_TOKENS = 16_384
"""Prompt and codes of all utterances of a batch, at the most codes."""


@dataclass(frozen=True)
class SpokenPack:
    """The clips of a pack, in its order."""

    clips: list[Clip]
    num_codes: int
    duration_sec: float
    """Of decoding, without loading the model and without what an earlier start had decoded."""
    num_timed_codes: int


PromptSounds = tuple[Prompt, Sound | None, Sound | None]
"""A prompt, its voice and its recording (prompt_packs/prompt_pack.py)."""


def generate_clips(
    model: SpeechModel | VLLMSpeech,
    prompts: Sequence[PromptSounds],
    utterances: Sequence[Utterance],
    codec: Codec,
    decoding: Decoding,
    work: Path,
    made_by: str,
) -> SpokenPack:
    """Speak all prompts.

    Args:
        model: the export.
        prompts: with their sounds.
        utterances: what is spoken for each (`utterance_of`).
        codec: that of the model.
        decoding: sampling parameters.
        work: folder in which codes are kept until the end.
        made_by: what generates, for people.

    Raises:
        DataError: the work folder cannot be written.
    """
    with Progress(f"{made_by}: generate {len(prompts)} prompts", len(prompts), "prompts") as progress:
        if isinstance(model, VLLMSpeech):
            journal = work / f"{_batch_name(prompts, range(len(prompts)), decoding)}.jsonl"
            found, num_timed_codes, spent_sec = model.synthesize(utterances, decoding, journal, progress.add)
        else:
            found, num_timed_codes, spent_sec = _in_batches(model, prompts, utterances, decoding, work, progress)
    clips = [
        replace(clip_of(*prompt, _decoded(spoken, codec)), seed=decoding.seed, stopped=spoken.stopped, made_by=made_by)
        for prompt, spoken in zip(prompts, found, strict=True)
    ]
    return SpokenPack(clips, sum(len(one.codes_F) for one in found), spent_sec, num_timed_codes)


def _in_batches(
    model: SpeechModel,
    prompts: Sequence[PromptSounds],
    utterances: Sequence[Utterance],
    decoding: Decoding,
    work: Path,
    progress: Progress,
) -> tuple[list[Generated], int, float]:
    """What was generated, how many codes this start decoded, and in how many seconds."""
    found: dict[int, Generated] = {}
    num_timed_codes, spent_sec = 0, 0.0
    for batch in _batches(model, utterances, decoding):
        path = work / f"{_batch_name(prompts, batch, decoding)}.npz"
        spoken = _read(path, len(batch))
        if spoken is None:
            began = time.monotonic()
            spoken = _decode(model, [utterances[number] for number in batch], decoding)
            spent_sec += time.monotonic() - began
            num_timed_codes += sum(len(one.codes_F) for one in spoken)
            _write(path, spoken)
        found.update(zip(batch, spoken, strict=True))
        progress.add(len(batch))
    return [found[number] for number in range(len(utterances))], num_timed_codes, spent_sec


def utterance_of(prompt: Prompt, voice: Sound | None, codec: Codec) -> Utterance:
    """What is spoken for a prompt.

    Args:
        prompt: text and transcript of the voice.
        voice: to clone; None: the text is spoken without one.
        codec: that encodes a voice without codes.

    Raises:
        DataError: a prompt for cloning has no transcript of its voice.
    """
    seed = int.from_bytes(hashlib.blake2b(prompt.prompt_id.encode(), digest_size=6).digest(), "big")
    if voice is None:
        return Utterance(prompt.text, None, seed)
    if not prompt.voice_text.strip():
        raise DataError(f"prompt {prompt.prompt_id!r} has a voice without a transcript; cloning needs voice_text")
    codes_F = voice.codes_F if voice.codes_F is not None else codec.encode(_required(voice.wav_T, prompt))
    return Utterance(prompt.text, ReferenceVoice(codes_F, prompt.voice_text), seed)


def _required(wav_T: np.ndarray | None, prompt: Prompt) -> np.ndarray:
    if wav_T is None:
        raise DataError(f"prompt {prompt.prompt_id!r} has a voice without a sound; make the pack again")
    return wav_T


def _batches(model: SpeechModel, utterances: Sequence[Utterance], decoding: Decoding) -> Iterator[list[int]]:
    """Numbers of utterances, the longest prompts first: what does not fit into memory shows at once."""
    lengths = [len(model.prefix(utterance)) + decoding.max_codes for utterance in utterances]
    batch: list[int] = []
    for number in sorted(range(len(utterances)), key=lambda number: -lengths[number]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > MAX_BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def _decode(model: SpeechModel, utterances: list[Utterance], decoding: Decoding) -> list[Generated]:
    """Decode a batch; one that does not fit into the memory of the device is halved."""
    try:
        return model.synthesize(utterances, decoding)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        if len(utterances) == 1:
            raise ModelError(
                f"one utterance of {decoding.max_codes} codes does not fit into memory: {error}"
            ) from error
    half = len(utterances) // 2
    logger.warning("%d utterances do not fit into memory; they are decoded in two parts", len(utterances))
    return _decode(model, utterances[:half], decoding) + _decode(model, utterances[half:], decoding)


def is_out_of_memory(error: MemoryError | RuntimeError) -> bool:
    """Whether an error is torch.OutOfMemoryError, the CPU allocator's own message or Python's."""
    return isinstance(error, MemoryError) or "memory" in str(error).lower()


def _batch_name(prompts: Sequence[PromptSounds], batch: Sequence[int], decoding: Decoding) -> str:
    ids = [prompts[number][0].prompt_id for number in batch]
    return hashlib.sha256(json.dumps([ids, repr(decoding)]).encode()).hexdigest()[:16]


def _read(path: Path, count: int) -> list[Generated] | None:
    """A batch that an earlier start decoded; None if there is no complete one."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return [Generated(file[f"codes_{i}"], bool(file["stopped"][i])) for i in range(count)]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, IndexError, BadZipFile) as error:
        logger.warning("%s cannot be read (%s); its prompts are spoken again", path, error)
        return None


def _write(path: Path, spoken: Sequence[Generated]) -> None:
    buffer = BytesIO()
    arrays: dict[str, Any] = {f"codes_{number}": one.codes_F for number, one in enumerate(spoken)}
    np.savez(buffer, stopped=np.array([one.stopped for one in spoken]), **arrays)
    try:
        write_atomically(path, buffer.getvalue())
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error}; give another --work") from error


def _decoded(spoken: Generated, codec: Codec) -> Sound:
    wav_T = codec.decode(spoken.codes_F) if len(spoken.codes_F) else np.zeros(0, np.float32)
    return Sound(wav_T, spoken.codes_F)
