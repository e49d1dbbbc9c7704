"""Data and prompts of a model that learns 32 sentences by heart, for benchmarks/damaged_models.py.

    python -m benchmarks.learned_by_heart --steps 300 --folder heart
    titan-speech train heart/overfit.toml --job.dump_folder heart/run --model.flavor debug_head32
    titan-speech model export --checkpoint heart/run --output heart/model --dtype float32

In: the bundled store. Out: a folder with a store of 32 English recordings of four words and more, the configuration
that overfits it, and a prompt pack of their texts, each with its recording and with the next recording as the voice
that similarity compares with. The model reads plain texts and clones no voice: evaluate it with --without-cloning. A
model of 500 steps gives back every code and withstands small damage; of 300 steps it sounds as good, and damage shows.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.slow.test_overfit import Sample, english_samples, write_config
from titan_speech.evaluate.clip import Sound
from titan_speech.evaluate.prompt_packs.build import build_pack
from titan_speech.evaluate.prompt_packs.drafts import Draft
from titan_speech.store.reader import open_store

NUM_SAMPLES, MIN_WORDS, NUM_CANARIES = 32, 4, 8


def learned_samples() -> list[Sample]:
    """The sentences, those of the slow test of overfitting."""
    enough = english_samples(80, min_codes=75, max_codes=170)
    return [one for one in enough if len(one.transcript.split()) >= MIN_WORDS][:NUM_SAMPLES]


def drafts(samples: list[Sample]) -> list[Draft]:
    """A prompt for each sample, with the next one as the voice."""
    return [
        Draft(
            sample.row.sample_id,
            "en",
            sample.transcript,
            voice=Sound(codes_F=other.codes_F),
            voice_text=other.transcript,
            recording=Sound(codes_F=sample.codes_F),
        )
        for sample, other in zip(samples, samples[1:] + samples[:1], strict=True)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="of training (default: 300)")
    parser.add_argument("--folder", type=Path, required=True, help="to write: store, overfit.toml, pack")
    args = parser.parse_args()
    samples, codec = learned_samples(), open_store(Path("demo_data")).manifest.codec
    assert codec is not None
    args.folder.mkdir(parents=True)
    config = write_config(args.folder.resolve(), samples, steps=args.steps, packs=4, seq_len=256, lr=4e-3)
    pack = build_pack(
        drafts(samples),
        args.folder / "pack",
        num_canaries=NUM_CANARIES,
        codec_hash=codec.hash,
        licence="as in demo_data",
        made_from="32 English recordings of demo_data",
    )
    print(f"{config}; pack {pack.hash}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
