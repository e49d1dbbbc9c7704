"""One utterance from a trained run: `titan-speech sample --run outputs/demo --text "..." --output sample.wav`.

In: a run folder and a text (or none, for speech without one). Out: a wav file and a line about it. The codec is the one
the run's stores were made with, checked by its hash: codes of another codec would decode to noise.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from titan_speech.codec.base import Codec
from titan_speech.codec.load import load_codec
from titan_speech.errors import CodecError, DataError
from titan_speech.generate.decode import Decoding, generate_codes
from titan_speech.generate.load import TrainedRun, load_run
from titan_speech.generate.outputs import add_output, check_outputs, wav_names, write_speech
from titan_speech.store.manifest import CodecInfo
from titan_speech.store.reader import open_store
from titan_speech.tokenization.prompt_template import Parts, Task


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("--run", type=Path, required=True, help="run folder (job.dump_folder)")
    parser.add_argument("--text", default="", help="text to speak; empty lets the model speak freely")
    add_output(parser, "wav file to write")
    parser.add_argument("--step", type=int, default=None, help="checkpoint step; default: the newest")
    parser.add_argument("--codec", default="embedded", help="codec name or path; default: embedded")
    parser.add_argument(
        "--temperature", type=at_least(0.0), default=0.8, help="0 takes the likeliest token; default: 0.8"
    )
    parser.add_argument("--top-k", type=at_least(1), default=50, help="likeliest tokens chosen from; default: 50")
    parser.add_argument("--min-sec", type=at_least(0.0), default=0.0, help="shortest audio in seconds; default: 0")
    parser.add_argument("--max-sec", type=at_least(0.02), default=6.0, help="longest audio in seconds; default: 6")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice; default: 0")


def at_least(minimum: float) -> Callable[[str], float]:
    """A number of the minimum's own type and no smaller than it, as argparse wants types."""

    def parse(text: str) -> float:
        try:
            value = type(minimum)(text)
        except ValueError:
            value = math.nan
        if not minimum <= value < math.inf:
            raise argparse.ArgumentTypeError(f'"{text}" is no number from {minimum}')
        return value

    return parse


def run(arguments: argparse.Namespace) -> None:
    """Decode one utterance and write it."""
    check_outputs(wav_names(arguments.output), overwrite=arguments.overwrite)
    codec = load_codec(arguments.codec)
    trained = load_run(arguments.run, arguments.step)
    check_codec(codec, trained)
    decoding = Decoding(
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        min_codes=max(1, round(arguments.min_sec * codec.frame_rate_hz)),
        max_codes=max(1, round(arguments.max_sec * codec.frame_rate_hz)),
        seed=arguments.seed,
    )
    task, parts = prompt_parts(trained, arguments.text)
    generated = generate_codes(trained.model, trained.grammar, task, parts, decoding)
    write_speech(arguments.output, codec, generated.codes_F)
    ending = "ended by the model" if generated.stopped else "cut at the limit"
    duration_sec = len(generated.codes_F) / codec.frame_rate_hz
    print(f"{arguments.output}: {duration_sec:.2f} s of audio from step {trained.step}, {ending}")


def prompt_parts(trained: TrainedRun, text: str) -> tuple[Task, Parts]:
    """TTS of the text, or free speech when there is none."""
    if not text:
        return Task.SPEECH, Parts()
    return Task.TTS, Parts(text_ids=np.array(trained.tokenizer.encode(text), np.uint32))


def check_codec(codec: Codec, trained: TrainedRun) -> None:
    """Refuse a codec other than the one the run's codes come from.

    Raises:
        CodecError: names both codecs.
    """
    for info in store_codecs(trained):
        if info.hash != codec.codec_hash:
            raise CodecError(
                f"the run was trained on codes of codec {info.name} ({info.hash}), but {codec.name} has hash "
                f"{codec.codec_hash}; its decoder would make noise of them. Give the run's codec with --codec."
            )


def store_codecs(trained: TrainedRun) -> list[CodecInfo]:
    """Codecs of the run's stores; text stores have none."""
    places = sorted({source.store for source in trained.config.data.source})
    manifests = [open_store(place, trained.config.storage).manifest for place in places]
    codecs = [manifest.codec for manifest in manifests if manifest.codec is not None]
    if not codecs:
        raise DataError("the run was trained on text only; it has no codec to decode with")
    return codecs
