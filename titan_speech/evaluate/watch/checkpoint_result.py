"""The result of one checkpoint: exported, its clips generated and scored.

In: a checkpoint or an exported folder, and an `Evaluation`: pack, decoding, codec, scorers. Out: a `Result`, and the
clips. The export is written into a temporary folder in the weights' own precision for evaluation, float32 on a CPU, and
removed afterwards; it takes two or four bytes of disk per parameter for that long.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from titan_speech.codec.base import Codec
from titan_speech.errors import CodecError
from titan_speech.evaluate.clip import Clip, Score, Sound, resynthesized
from titan_speech.evaluate.prompt_packs.prompt_pack import PromptPack, with_sounds
from titan_speech.evaluate.result import Result, ResultKey, make_result
from titan_speech.evaluate.scorers.base import Scorer, check_scorers, score_clips, unusable, versions_of
from titan_speech.evaluate.trust import TrustTable
from titan_speech.evaluate.watch import likelihood
from titan_speech.evaluate.watch.generate_clips import PromptSounds, generate_clips, utterance_of
from titan_speech.evaluate.watch.likelihood import NO_RECORDING, likelihood_scores
from titan_speech.generate.sampling import Decoding
from titan_speech.generate.synthesize import SpeechModel, Utterance
from titan_speech.generate.vllm_speech import VLLMSpeech
from titan_speech.hf.export import WeightsCheckpoint, export
from titan_speech.tokenization.prompt_template import Task
from titan_speech.utils.printable import one_line

Engine = Literal["transformers", "vllm"]
ENGINES: tuple[Engine, ...] = get_args(Engine)
"""That generate a pack."""
NOT_BY_VLLM = "not measured: vLLM is asked for samples alone; --engine transformers gives it"


@dataclass(frozen=True)
class Evaluation:
    """What is asked of every checkpoint."""

    pack: PromptPack
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

    @cached_property
    def utterances(self) -> list[Utterance]:
        """What is spoken for each prompt; voices without codes are encoded once for all checkpoints."""
        return [utterance_of(prompt, voice if self.clones else None, self.codec) for prompt, voice, _ in self.prompts]

    @cached_property
    def recorded_codes(self) -> list[NDArray[np.uint16] | str]:
        """The codes of each prompt's recording, or why they are missing; encoded once for all checkpoints."""
        return [self._codes(recording) for _, _, recording in self.prompts]

    def _codes(self, recording: Sound | None) -> NDArray[np.uint16] | str:
        if recording is None:
            return NO_RECORDING
        if recording.codes_F is not None:
            return recording.codes_F
        if reason := unusable(recording):
            return f"the recording: {reason}"
        try:
            assert recording.wav_T is not None
            return self.codec.encode(recording.wav_T)
        except CodecError as error:
            return f"the recording cannot be encoded: {one_line(str(error))[:200]}"

    def decodings(self) -> list[Decoding]:
        """One for each seed."""
        return [replace(self.decoding, seed=self.decoding.seed + number) for number in range(self.num_seeds)]

    def key(self, fingerprint: str) -> ResultKey:
        """The key of a checkpoint's result.

        Args:
            fingerprint: of its weights.
        """
        versions = dict(versions_of(self.scorers)) | {
            "codec": self.codec.codec_hash[:16],
            "likelihood": likelihood.VERSION,
        }
        decoding: dict[str, float | str] = asdict(self.decoding)
        if not self.clones:
            decoding["task"] = Task.TTS.value
        if self.num_seeds != 1:
            decoding["num_seeds"] = self.num_seeds
        if self.engine != "transformers":
            decoding["engine"] = self.engine
        return ResultKey(fingerprint, f"{self.pack.hash}-{self.set_name}", decoding, versions)


def evaluate_checkpoint(
    opened: AbstractContextManager[WeightsCheckpoint], evaluation: Evaluation, key: ResultKey, work: Path
) -> tuple[Result, list[Clip]]:
    """Export a checkpoint into a temporary folder and evaluate it.

    Args:
        opened: the checkpoint, which is open during the export alone: retention may remove it afterwards.
        evaluation: what is asked.
        key: of the result.
        work: where codes are kept until the result is there.

    Raises:
        CheckpointError: it is damaged, or was removed before it was exported.
        CodecError: it was trained on codes of another codec.
        ScorersFailedError: a scorer failed on every clip.
    """
    with tempfile.TemporaryDirectory(prefix="titan-speech-") as temporary:
        folder = Path(temporary) / "model"
        dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
        with opened as checkpoint:
            step = checkpoint.step
            export(checkpoint, folder, dtype)
        return evaluate_export(folder, evaluation, key, work, f"step {step}")


def evaluate_export(
    folder: Path, evaluation: Evaluation, key: ResultKey, work: Path, name: str
) -> tuple[Result, list[Clip]]:
    """Generate and score the prompts of an exported folder.

    Args:
        folder: written by `titan-speech model export`.
        evaluation: what is asked.
        key: of the result.
        work: where codes are kept until the result is there.
        name: of the model, for people.

    Raises:
        ModelError: the folder is damaged.
        CodecError: the model was trained on codes of another codec.
        ScorersFailedError: a scorer failed on every clip; the codes stay in the work folder.
    """
    if evaluation.engine == "vllm":
        model = VLLMSpeech.read(folder, evaluation.python)
        record = model.prompts.record
    else:
        model = SpeechModel.load(folder)
        record = model.record
    record.check_codec(evaluation.codec)
    spoken = [
        generate_clips(model, evaluation.prompts, evaluation.utterances, evaluation.codec, decoding, work, name)
        for decoding in evaluation.decodings()
    ]
    clips = [clip for one in spoken for clip in one.clips]
    scores = score_clips(clips, evaluation.scorers)
    check_scorers(clips, scores, evaluation.scorers)
    likelihoods = _likelihoods(model, evaluation) * evaluation.num_seeds
    scores = [{**found, likelihood.METRIC: one} for found, one in zip(scores, likelihoods, strict=True)]
    timed_sec = sum(one.duration_sec for one in spoken)
    notes = {
        "num_codes": float(sum(one.num_codes for one in spoken)),
        "codes_per_sec": round(sum(one.num_timed_codes for one in spoken) / timed_sec, 1) if timed_sec else 0.0,
    }
    trust = evaluation.trust.as_rows() if evaluation.trust is not None else ()
    return make_result(key, clips, scores, step=record.step, name=name, trust=trust, notes=notes), clips


def _likelihoods(model: SpeechModel | VLLMSpeech, evaluation: Evaluation) -> list[Score]:
    if isinstance(model, VLLMSpeech):
        return [Score.missing(NOT_BY_VLLM)] * len(evaluation.prompts)
    return likelihood_scores(model, evaluation.utterances, evaluation.recorded_codes)
