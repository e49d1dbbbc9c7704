"""The result of one checkpoint: exported, its clips spoken and scored.

In: a checkpoint or an exported folder, and an `Evaluation`: pack, decoding, codec, scorers. Out: a `Result`, and the
clips. The export is written into a temporary folder in the weights' own precision for evaluation, float32 on a CPU, and
removed afterwards; it takes two or four bytes of disk per parameter for that long.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import torch

from titan_speech.codec.base import Codec
from titan_speech.evaluate.ceiling import resynthesized
from titan_speech.evaluate.clip import Clip, Sound
from titan_speech.evaluate.packs.pack import Pack, with_sounds
from titan_speech.evaluate.result import Result, ResultKey, make_result
from titan_speech.evaluate.scorers.base import Scorer, score_clips, versions_of
from titan_speech.evaluate.trust import TrustTable
from titan_speech.evaluate.watch.generate_clips import PromptSounds, generate_clips
from titan_speech.generate.sampling import Decoding
from titan_speech.generate.synthesize import SpeechModel
from titan_speech.generate.vllm_speech import VLLMSpeech
from titan_speech.hf.export import WeightsCheckpoint, export
from titan_speech.tokenization.prompt_template import Task

Engine = Literal["transformers", "vllm"]
ENGINES: tuple[Engine, ...] = get_args(Engine)
"""That speak a pack."""


@dataclass(frozen=True)
class Evaluation:
    """What is asked of every checkpoint."""

    pack: Pack
    pack_folder: Path
    set_name: str
    """canary or full."""
    decoding: Decoding
    codec: Codec
    scorers: Sequence[Scorer]
    trust: TrustTable | None = None
    """Which decided over error rates."""
    clones: bool = True
    """Prompts with a voice clone it; else they are spoken without it, and the voice only judges."""
    num_seeds: int = 1
    """Clips of each prompt, from that of the decoding on."""
    engine: Engine = "transformers"
    python: Path | None = None
    """Interpreter that has vLLM; None: this one."""

    @cached_property
    def prompts(self) -> list[PromptSounds]:
        """The prompts with their voices and recordings; those that the pack has as codes are decoded once for all
        checkpoints, as scorers compare with them."""
        decoded: dict[bytes, Sound] = {}

        def with_wav(sound: Sound | None) -> Sound | None:
            if sound is None or sound.wav_T is not None or sound.codes_F is None:
                return sound
            key = sound.codes_F.tobytes()
            if key not in decoded:
                decoded[key] = resynthesized(sound, self.codec)
            return decoded[key]

        prompts = with_sounds(self.pack_folder, self.pack.of_set(self.set_name))
        return [(prompt, with_wav(voice), with_wav(recording)) for prompt, voice, recording in prompts]

    def decodings(self) -> list[Decoding]:
        """One for each seed."""
        return [replace(self.decoding, seed=self.decoding.seed + number) for number in range(self.num_seeds)]

    def key(self, fingerprint: str) -> ResultKey:
        """The key of a checkpoint's result.

        Args:
            fingerprint: of its weights.
        """
        versions = dict(versions_of(self.scorers)) | {"codec": self.codec.codec_hash[:16]}
        decoding: dict[str, float | str] = asdict(self.decoding)
        if not self.clones:
            decoding["task"] = Task.TTS.value
        if self.num_seeds != 1:
            decoding["num_seeds"] = self.num_seeds
        if self.engine != "transformers":
            decoding["engine"] = self.engine
        return ResultKey(fingerprint, f"{self.pack.hash}-{self.set_name}", decoding, versions)


def evaluate_checkpoint(
    checkpoint: WeightsCheckpoint, evaluation: Evaluation, key: ResultKey, work: Path
) -> tuple[Result, list[Clip]]:
    """Export a checkpoint into a temporary folder and evaluate it.

    Raises:
        CheckpointError: it is damaged.
        CodecError: it was trained on codes of another codec.
    """
    with tempfile.TemporaryDirectory(prefix="titan-speech-") as temporary:
        folder = Path(temporary) / "model"
        dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
        export(checkpoint, folder, dtype)
        return evaluate_export(folder, evaluation, key, work, f"step {checkpoint.step}")


def evaluate_export(
    folder: Path, evaluation: Evaluation, key: ResultKey, work: Path, name: str
) -> tuple[Result, list[Clip]]:
    """Speak and score the prompts of an exported folder.

    Args:
        folder: written by `titan-speech model export`.
        evaluation: what is asked.
        key: of the result.
        work: where codes are kept until the result is there.
        name: of the model, for people.

    Raises:
        ModelError: the folder is damaged.
        CodecError: the model was trained on codes of another codec.
    """
    if evaluation.engine == "vllm":
        model = VLLMSpeech.read(folder, evaluation.python)
        record = model.prompts.record
    else:
        model = SpeechModel.load(folder)
        record = model.record
    record.check_codec(evaluation.codec)
    spoken = [
        generate_clips(model, evaluation.prompts, evaluation.codec, decoding, work, name, clones=evaluation.clones)
        for decoding in evaluation.decodings()
    ]
    clips = [clip for one in spoken for clip in one.clips]
    scores = score_clips(clips, evaluation.scorers)
    timed_sec = sum(one.duration_sec for one in spoken)
    notes = {
        "num_codes": float(sum(one.num_codes for one in spoken)),
        "codes_per_sec": round(sum(one.num_timed_codes for one in spoken) / timed_sec, 1) if timed_sec else 0.0,
    }
    trust = evaluation.trust.as_rows() if evaluation.trust is not None else ()
    return make_result(key, clips, scores, step=record.step, name=name, trust=trust, notes=notes), clips
