"""`titan-speech generate`: texts to wav files, with a record of how each was made.

In: an exported model folder, texts, and perhaps a voice. Out: one wav a text and, beside it, a JSON file with the text,
the voice, the decoding parameters, the model and the codec, so that a file that is heard later can be made again.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from titan_speech.codec.base import Codec
from titan_speech.codec.load import load_codec
from titan_speech.codec.wav import read_audio
from titan_speech.errors import CodecError, ModelError
from titan_speech.generate.decode import Decoding
from titan_speech.generate.outputs import add_output, check_outputs, wav_names, write_record, write_speech
from titan_speech.generate.sample import at_least
from titan_speech.generate.synthesize import Reference, SpeechModel
from titan_speech.hf.model_card import ModelRecord, read_record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("--model", type=Path, required=True, help="folder written by `titan-speech model export`")
    parser.add_argument("--text", action="append", default=[], help="text to speak; may be given several times")
    parser.add_argument("--texts", type=Path, help="file with one text a line, spoken after those of --text")
    parser.add_argument("--reference", type=Path, help="recording of the voice to clone")
    parser.add_argument("--reference-text", default="", help="what is said in it")
    add_output(
        parser, "wav file; of several texts NAME-0.wav, NAME-1.wav; a .json with how it was made goes beside each"
    )
    parser.add_argument("--codec", default="embedded", help="codec name or path; default: embedded")
    parser.add_argument("--temperature", type=at_least(0.0), default=0.8, help="0 takes the likeliest; default: 0.8")
    parser.add_argument("--top-k", type=at_least(1), default=50, help="likeliest tokens chosen from; default: 50")
    parser.add_argument("--min-sec", type=at_least(0.0), default=0.0, help="shortest audio in seconds; default: 0")
    parser.add_argument("--max-sec", type=at_least(0.02), default=40.0, help="longest audio in seconds; default: 40")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice; default: 0")


def run(arguments: argparse.Namespace) -> None:
    """Speak every text and write it; whatever can be refused is refused before the model is loaded."""
    texts = _texts(arguments)
    outputs = wav_names(arguments.output, len(texts))
    if arguments.min_sec > arguments.max_sec:
        raise ModelError(f"--min-sec {arguments.min_sec:g} is more than --max-sec {arguments.max_sec:g}")
    check_outputs([file for path in outputs for file in (path, _record_path(path))], overwrite=arguments.overwrite)
    record = read_record(arguments.model)
    codec = load_codec(arguments.codec)
    _check_codec(codec, record)
    voice = _reference(arguments, codec)
    decoding = Decoding(
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        min_codes=max(1, round(arguments.min_sec * codec.frame_rate_hz)),
        max_codes=max(1, round(arguments.max_sec * codec.frame_rate_hz)),
        seed=arguments.seed,
    )
    how = {
        "model": str(arguments.model),
        "step": record.step,
        "codec": {"name": codec.name, "hash": codec.codec_hash},
        "reference": None if voice is None else {"wav": str(arguments.reference), "text": voice.transcript},
        "decoding": asdict(decoding),
    }
    generated = SpeechModel.load(arguments.model).speak(texts, decoding, voice)
    for i, (path, text, speech) in enumerate(zip(outputs, texts, generated, strict=True)):
        write_speech(path, codec, speech.codes_F)
        said = {"num_codes": len(speech.codes_F), "stopped": speech.stopped, "batch": {"index": i, "size": len(texts)}}
        write_record(_record_path(path), {"text": text, **how, **said})
        ending = "ended by the model" if speech.stopped else "cut at the limit"
        print(f"{path}: {len(speech.codes_F) / codec.frame_rate_hz:.2f} s of audio, {ending}")


def _texts(arguments: argparse.Namespace) -> list[str]:
    texts = list(arguments.text)
    if arguments.texts is not None:
        try:
            texts += [line for line in arguments.texts.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"--texts {arguments.texts} cannot be read: {error}") from error
    if not texts or not all(text.strip() for text in texts):
        raise ModelError("there is no text to speak: give characters in --text, or lines in --texts")
    return texts


def _reference(arguments: argparse.Namespace, codec: Codec) -> Reference | None:
    if bool(arguments.reference) != bool(arguments.reference_text.strip()):
        raise ModelError("cloning needs both --reference and --reference-text, what is said in it")
    if arguments.reference is None:
        return None
    return Reference(codec.encode(read_audio(arguments.reference, codec.sample_rate)), arguments.reference_text)


def _check_codec(codec: Codec, record: ModelRecord) -> None:
    if record.codecs and codec.codec_hash not in record.codecs:
        raise CodecError(
            f"the model was trained on codes of codec {', '.join(record.codecs)}, but {codec.name} has hash "
            f"{codec.codec_hash}; its decoder would make noise of them. Give the model's codec with --codec."
        )


def _record_path(path: Path) -> Path:
    return path.with_suffix(".json")
