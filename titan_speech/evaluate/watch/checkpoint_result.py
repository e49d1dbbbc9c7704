"""The result of one checkpoint: exported, its clips spoken and scored.

In: a checkpoint or an exported folder, and an `Evaluation`: pack, decoding, codec, scorers. Out: a `Result`, and the
clips. The export is written into a temporary folder in the weights' own precision for evaluation, float32 on a CPU, and
removed afterwards; it takes two or four bytes of disk per parameter for that long.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from titan_speech.codec.base import Codec
from titan_speech.evaluate.clip import Clip
from titan_speech.evaluate.packs.pack import Pack, with_sounds
from titan_speech.evaluate.result import Result, ResultKey, make_result
from titan_speech.evaluate.scorers.base import Scorer, score_clips, versions_of
from titan_speech.evaluate.trust import TrustTable
from titan_speech.evaluate.watch.generate_clips import generate_clips
from titan_speech.generate.sampling import Decoding
from titan_speech.generate.synthesize import SpeechModel
from titan_speech.hf.export import WeightsCheckpoint, export


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

    def key(self, fingerprint: str) -> ResultKey:
        """The key of a checkpoint's result.

        Args:
            fingerprint: of its weights.
        """
        versions = dict(versions_of(self.scorers)) | {"codec": self.codec.codec_hash[:16]}
        return ResultKey(fingerprint, f"{self.pack.hash}-{self.set_name}", asdict(self.decoding), versions)


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
    model = SpeechModel.load(folder)
    model.record.check_codec(evaluation.codec)
    prompts = with_sounds(evaluation.pack_folder, evaluation.pack.of_set(evaluation.set_name))
    spoken = generate_clips(model, prompts, evaluation.codec, evaluation.decoding, work, name)
    scores = score_clips(spoken.clips, evaluation.scorers)
    notes = {"num_codes": float(spoken.num_codes), "codes_per_sec": round(spoken.codes_per_sec, 1)}
    trust = evaluation.trust.as_rows() if evaluation.trust is not None else ()
    result = make_result(key, spoken.clips, scores, step=model.record.step, name=name, trust=trust, notes=notes)
    return result, spoken.clips
