"""How much damage to a model its evaluation sees, and how near the model is to the ceiling of its codec.

    MODELS="--asr whisper-tiny.en --trust trust.json --voice resemblyzer --opinion dnsmos"
    titan-speech evaluate clips --pack heart/pack $MODELS --output ceiling.json
    titan-speech evaluate run --model heart/model --pack heart/pack --set full --without-cloning --num-seeds 3 \\
        $MODELS --output scored
    python -m benchmarks.damaged_models --model heart/model --pack heart/pack $MODELS \\
        --result scored/results/KEY.json --ceiling ceiling.json --work damaged --json damaged_models.json

In: an exported model (benchmarks/learned_by_heart.py), its result and that of its pack's recordings, all by the same
scorers. Out: a JSON file: the model against the recordings (the ceiling of the codec), how alike other speakers are;
and copies of the model with normal noise on each tensor, of a share of its root mean square, each compared with the
model, paired by prompt: which metrics tell them apart, and the least noise that each metric sees. What was spoken is
kept in the work folder.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from benchmarks.machine import load, this_machine
from titan_speech.cli.scorer_arguments import SCORERS, choice_of
from titan_speech.codec.load import load_codec
from titan_speech.evaluate.choice import open_scorers
from titan_speech.evaluate.clip import Clip, Sound
from titan_speech.evaluate.packs.pack import read_pack
from titan_speech.evaluate.recorded_clips import pack_clips
from titan_speech.evaluate.result import Result, read_result
from titan_speech.evaluate.scorers.voice import VoiceScorer
from titan_speech.evaluate.statistics import LEVEL, Comparison, compare, intervals
from titan_speech.evaluate.watch.checkpoint_result import Evaluation, evaluate_export
from titan_speech.generate.sampling import Decoding
from titan_speech.hf.model_card import read_record
from titan_speech.store.reader import open_store

DEMO = Path("demo_data")
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


def as_model(recordings: Result, like: Result) -> Result:
    """The scores of recordings as those of a model, so that both are paired."""
    if recordings.key.pack != like.key.pack or not recordings.key.scorers.items() <= like.key.scorers.items():
        raise SystemExit("the ceiling was scored with another pack or other scorers than the model")
    seeds = sorted({clip.seed for clip in like.clips})
    clips = tuple(replace(clip, seed=seed) for seed in seeds for clip in recordings.clips)
    return replace(recordings, key=replace(like.key, model="codec"), clips=clips)


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


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder written by titan-speech model export")
    parser.add_argument("--pack", type=Path, required=True, help="prompt pack with recordings")
    parser.add_argument("--result", type=Path, required=True, help="of the model, by titan-speech evaluate run")
    parser.add_argument("--ceiling", type=Path, required=True, help="of the recordings, by titan-speech evaluate clips")
    parser.add_argument("--levels", type=float, nargs="+", default=[0.1, 0.05, 0.02], help="noise, of the rms")
    parser.add_argument("--work", type=Path, required=True, help="folder of results, kept between starts")
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    for argument in SCORERS:
        argument.add_to(parser)
    args = parser.parse_args()
    before, codec, pack = load(), load_codec("embedded"), read_pack(args.pack)
    sound, recordings = read_result(args.result), read_result(args.ceiling)
    settings = dict(sound.key.decoding)
    num_seeds, clones = int(settings.pop("num_seeds", 1)), "task" not in settings
    decoding = Decoding(**{name: value for name, value in settings.items() if name != "task"})  # type: ignore[arg-type]
    recordings = as_model(recordings, sound)
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
    with open_scorers(choice_of(args)) as (scorers, table):
        voice = next((one for one in scorers if isinstance(one, VoiceScorer)), None)
        if voice is not None:
            clips = pack_clips(args.pack, pack, "full", None, codec)
            found["similarity_to_other_speakers"] = other_speaker(clips, voice, codec)
        evaluation = Evaluation(
            pack, args.pack, "full", decoding, codec, scorers, table, clones=clones, num_seeds=num_seeds
        )
        for level in args.levels:
            name = f"noise {level:g}"
            path = args.work / f"{name}.json"
            if not path.is_file():
                with tempfile.TemporaryDirectory() as folder:
                    copy = damaged(args.model, Path(folder) / "model", level)
                    key = evaluation.key(f"{read_record(copy).weights} {name}")
                    evaluate_export(copy, evaluation, key, args.work / name, name)[0].write(path)
            worse = read_result(path)
            paired = differences(compare(sound, worse))
            told = [metric for metric, one in paired.items() if (one["p_corrected"] or 0) < LEVEL]
            found["noise"][f"{level:g}"] = {"means": means(worse), "against_the_model": paired, "told_apart_by": told}
            print(f"noise of {level:.0%}: told apart by {', '.join(told) or 'nothing'}", flush=True)
            by_metric: dict[str, float] = {}
            for other, one in sorted(found["noise"].items(), key=lambda item: -float(item[0])):
                by_metric |= dict.fromkeys(one["told_apart_by"], float(other))
            found["smallest_told_apart"] = by_metric
            args.json.write_text(json.dumps({"machine": asdict(this_machine(before)), **found}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
