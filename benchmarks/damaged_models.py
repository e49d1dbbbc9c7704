"""How much damage to a model its evaluation sees, and how near the model is to the ceiling of its codec.

    python -m benchmarks.damaged_models --model heart/model --pack heart/pack --num-seeds 4 --work damaged \\
        --asr whisper-tiny.en --trust trust.json --voice resemblyzer --opinion dnsmos --json damaged_models.json

In: an exported model and a pack of what it has learned (benchmarks/learned_by_heart.py). Out: a JSON file: the model
against the recordings (the ceiling of the codec), how alike other speakers are; and copies of the model with normal
noise on each tensor, of a share of its root mean square, each compared with the model, paired by prompt: which metrics
tell them apart, and the least noise that each metric sees. Codes and results are kept in the work folder, so that a
later start, also with more scorers, speaks nothing again. Models hear a sound once: most clips of such a model are
equal to the last code.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from benchmarks.machine import load, this_machine, write_results
from titan_speech.cli.arguments import SCORERS, choice_of
from titan_speech.codec.load import load_codec
from titan_speech.evaluate.clip import Clip, Sound
from titan_speech.evaluate.confidence import LEVEL
from titan_speech.evaluate.models.base import Answer, Failure
from titan_speech.evaluate.models.isolation import RunningModel, Waveform
from titan_speech.evaluate.prompt_packs.prompt_pack import read_pack
from titan_speech.evaluate.recorded_clips import pack_clips
from titan_speech.evaluate.result import Result, make_result, read_result
from titan_speech.evaluate.scorer_choice import open_scorers
from titan_speech.evaluate.scorers.base import Scorer, score_clips
from titan_speech.evaluate.scorers.opinion import OpinionScorer
from titan_speech.evaluate.scorers.voice import VoiceScorer
from titan_speech.evaluate.scorers.words import WordScorer
from titan_speech.evaluate.statistics import Comparison, compare, intervals
from titan_speech.evaluate.watch import likelihood
from titan_speech.evaluate.watch.checkpoint_result import Evaluation, evaluate_export
from titan_speech.generate.sampling import Decoding
from titan_speech.hf.model_card import read_record
from titan_speech.store.reader import open_store

DEMO = Path("demo_data")
DECODING = Decoding(temperature=0.8, max_codes=250)
OTHER_VOICES = ("asterisk.fr.speech", "asterisk.it.speech", "asterisk.ru.speech")


def damaged(model: Path, folder: Path, share: float, seed: int = 0) -> Path:
    """A copy of a model folder with noise on each tensor, of a share of its root mean square."""
    shutil.copytree(model, folder)
    random = torch.Generator().manual_seed(seed)
    for file in sorted(folder.glob("*.safetensors")):
        tensors = {}
        for name, tensor in load_file(file).items():
            noise = torch.randn(tensor.shape, generator=random) * tensor.float().square().mean().sqrt()
            tensors[name] = (tensor.float() + share * noise).to(tensor.dtype)
        save_file(tensors, file, metadata={"format": "pt"})
    return folder


class Remembered:
    """A model that hears each sound once; its answers depend on nothing else."""

    def __init__(self, running: RunningModel) -> None:
        self.running, self.model = running, running.model
        self._known: dict[tuple[bytes, str], Answer | Failure] = {}

    def __call__(self, waveforms: Sequence[Waveform]) -> list[Answer | Failure]:
        keys = [(wav_T.tobytes(), language) for wav_T, language in waveforms]
        new = {key: one for key, one in zip(keys, waveforms, strict=True) if key not in self._known}
        self._known |= dict(zip(new, self.running(list(new.values())), strict=True))
        return [self._known[key] for key in keys]

    def close(self) -> None:
        self.running.close()


def remember(scorers: Sequence[Scorer]) -> None:
    """Let the models of scorers hear each sound once."""
    for scorer in scorers:
        if isinstance(scorer, WordScorer):
            scorer.recognizers = {name: Remembered(one) for name, one in scorer.recognizers.items()}
        elif isinstance(scorer, VoiceScorer):
            scorer.encoder = Remembered(scorer.encoder)
        elif isinstance(scorer, OpinionScorer):
            scorer.predictor = Remembered(scorer.predictor)


def ceiling(clips: Sequence[Clip], scorers: Sequence[Scorer], like: Result) -> Result:
    """The scores of recordings through the codec as those of a model, so that both are paired."""
    seeds = sorted({clip.seed for clip in like.clips})
    scores = score_clips(clips, scorers)
    every = [replace(clip, seed=seed) for seed in seeds for clip in clips]
    return make_result(replace(like.key, model="codec"), every, scores * len(seeds))


def other_speaker(clips: Sequence[Clip], scorer: VoiceScorer, codec: Any) -> dict[str, float]:
    """The similarity of clips to recordings of three other people."""
    parts = [part for part in open_store(DEMO).parts if part.name in OTHER_VOICES]
    voices = [Sound(codec.decode(np.array(part.codes(int(np.argmax(part.code_len_N > 150)))))) for part in parts]
    compared = [replace(clip, voice=voices[number % len(voices)]) for number, clip in enumerate(clips)]
    values = [one["similarity"].value for one in scorer.score(compared)]
    known = [value for value in values if value is not None]
    return {"mean": round(float(np.mean(known)), 4), "greatest": round(max(known), 4), "num_clips": len(known)}


def means(result: Result) -> dict[str, list[float | None]]:
    """Mean and interval of each metric over all prompts."""
    found = (one for one in intervals(result) if one.language == "" and one.subset == "*")
    return {
        one.metric: [rounded(one.mean), rounded(one.low), rounded(one.high)] for one in found if one.mean is not None
    }


def differences(pairs: Sequence[Comparison]) -> dict[str, dict[str, float | None]]:
    """What is known of each metric that was compared."""
    names = ("first", "second", "difference", "low", "high", "p", "p_corrected", "effect", "detectable")
    return {
        one.metric: {name: rounded(getattr(one, name)) for name in names}
        for one in pairs
        if one.language == "" and one.subset == "*" and one.p is not None
    }


def num_changed(first: Result, second: Result) -> int:
    """Clips that sound different: other codes have another score of at least one metric of codes or sound."""
    heard = [name for name in first.metrics if name != likelihood.METRIC]
    others = {(clip.prompt_id, clip.seed): clip for clip in second.clips}
    pairs = [(clip, others[clip.prompt_id, clip.seed]) for clip in first.clips]
    return sum(any(one.scores[name] != other.scores[name] for name in heard) for one, other in pairs)


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)


def scored(model: Path, level: float, evaluation: Evaluation, work: Path) -> Result:
    """The result of a model with noise; one that is in the work folder is read."""
    name = f"noise {level:g}"
    key = evaluation.key(f"{read_record(model).weights} {name}")
    path = work / f"{key.id}.json"
    if not path.is_file():
        with tempfile.TemporaryDirectory() as folder:
            copy = damaged(model, Path(folder) / "model", level)
            evaluate_export(copy, evaluation, key, work / f"{name}, seeds {evaluation.num_seeds}", name)[0].write(path)
    return read_result(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder written by titan-speech model export")
    parser.add_argument("--pack", type=Path, required=True, help="prompt pack with recordings")
    parser.add_argument("--levels", type=float, nargs="+", default=[0.1, 0.05, 0.02], help="noise, of the rms")
    parser.add_argument("--num-seeds", type=int, default=4, help="clips of each prompt (default: 4)")
    parser.add_argument("--work", type=Path, required=True, help="folder of results, kept between starts")
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    for argument in SCORERS:
        argument.add_to(parser)
    args = parser.parse_args()
    before, codec, pack = load(), load_codec("embedded"), read_pack(args.pack)
    with open_scorers(choice_of(args)) as (scorers, table):
        remember(scorers)
        evaluation = Evaluation(
            pack, args.pack, "full", DECODING, codec, scorers, table, clones=False, num_seeds=args.num_seeds
        )
        sound = scored(args.model, 0.0, evaluation, args.work)
        clips = pack_clips(args.pack, pack, "full", None, codec)
        recordings = ceiling(clips, scorers, sound)
        found: dict[str, Any] = {
            "decoding": sound.key.decoding,
            "num_prompts": len(pack.of_set("full")),
            "scorers": sound.key.scorers,
            "notes": sound.notes,
            "ceiling": means(recordings),
            "model": means(sound),
            "model_minus_ceiling": differences(compare(recordings, sound)),
            "noise": {},
        }
        voice = next((one for one in scorers if isinstance(one, VoiceScorer)), None)
        if voice is not None:
            found["similarity_to_other_speakers"] = other_speaker(clips, voice, codec)
        least: dict[str, float] = {}
        for level in sorted(args.levels, reverse=True):
            worse = scored(args.model, level, evaluation, args.work)
            paired = differences(compare(sound, worse))
            told = [metric for metric, one in paired.items() if (one["p_corrected"] or 0) < LEVEL]
            found["noise"][f"{level:g}"] = {
                "num_clips": len(worse.clips),
                "num_clips_that_sound_different": num_changed(sound, worse),
                "means": means(worse),
                "against_the_model": paired,
                "told_apart_by": told,
            }
            print(f"noise of {level:.0%}: told apart by {', '.join(told) or 'nothing'}", flush=True)
            for metric in told:
                least[metric] = level
            found["smallest_told_apart"] = least
            write_results(args.json, {"machine": asdict(this_machine(before)), **found})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
