"""`titan-speech generate` and `titan-speech sample`: text to wav files.

`generate` takes an exported model, texts and perhaps a voice to clone, and writes one wav file per text. Next to each
it writes a JSON file with the text, the voice, the decoding parameters, the model and the codec, so that any file can
be made again. `sample` takes a run folder and writes one wav file. Both refuse an output that cannot be written, and
the wrong codec, before they decode: decoding takes minutes.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from titan_speech.cli.arguments import CODEC, MIN_SEC, TOP_K, decoding_of, max_sec, not_negative
from titan_speech.cli.command import Argument, Command, announce
from titan_speech.errors import ModelError
from titan_speech.utils.text_table import counted

if TYPE_CHECKING:
    from titan_speech.codec.base import Codec
    from titan_speech.generate.synthesize import ReferenceVoice


def generate(args: argparse.Namespace) -> None:
    """Synthesize every text; whatever can be refused is refused before the model is loaded."""
    if find_spec("transformers") is None:
        raise ModelError("generation needs transformers: pip install 'titan-speech[hf]'")
    announce(f"generate: loading the model of {args.model}")
    from titan_speech.codec.load import load_codec
    from titan_speech.generate.synthesize import SpeechModel, Utterance
    from titan_speech.generate.write_speech import check_outputs, wav_names, write_record, write_speech
    from titan_speech.hf.model_card import read_record

    texts = _texts(args)
    outputs = wav_names(args.output, len(texts))
    if args.min_sec > args.max_sec:
        raise ModelError(f"--min-sec {args.min_sec:g} is more than --max-sec {args.max_sec:g}")
    check_outputs([file for path in outputs for file in (path, _record_path(path))], overwrite=args.overwrite)
    record = read_record(args.model)
    codec = load_codec(args.codec)
    record.check_codec(codec)
    voice = _reference(args, codec)
    decoding = decoding_of(args, codec.frame_rate_hz)
    how = {
        "model": str(args.model),
        "step": record.step,
        "codec": {"name": codec.name, "hash": codec.codec_hash},
        "reference": None if voice is None else {"wav": str(args.reference), "text": voice.transcript},
        "decoding": asdict(decoding),
    }
    utterances = [Utterance(text, voice, seed) for seed, text in enumerate(texts)]
    announce("generate: torch is loaded, reading the weights")
    model = SpeechModel.load(args.model)
    announce(f"generate: synthesizing {counted(len(texts), 'text')}, at most {args.max_sec:g} s each")
    generated = model.synthesize(utterances, decoding)
    for i, (path, text, speech) in enumerate(zip(outputs, texts, generated, strict=True)):
        write_speech(path, codec, speech.codes_F)
        result = {"num_codes": len(speech.codes_F), "stopped": speech.stopped, "index": i}
        write_record(_record_path(path), {"text": text, **how, **result})
        print(f"{path}: {_duration(len(speech.codes_F), codec)}, {_ending(speech.stopped)}")


def sample(args: argparse.Namespace) -> None:
    """Synthesize one text with the weights of a run's checkpoint."""
    which = "the newest checkpoint" if args.step is None else f"the checkpoint of step {args.step}"
    announce(f"sample: loading {which} of {args.run}")
    from titan_speech.codec.load import load_codec
    from titan_speech.generate.load import load_run
    from titan_speech.generate.sampling import check_codec, generate_codes, prompt_parts
    from titan_speech.generate.write_speech import check_outputs, wav_names, write_speech

    check_outputs(wav_names(args.output), overwrite=args.overwrite)
    announce("sample: torch is loaded, reading the weights")
    codec = load_codec(args.codec)
    trained = load_run(args.run, args.step)
    check_codec(codec, trained)
    announce(f"sample: generating with the weights of step {trained.step:,}, at most {args.max_sec:g} s of audio")
    task, parts = prompt_parts(trained, args.text)
    generated = generate_codes(trained.model, trained.grammar, task, parts, decoding_of(args, codec.frame_rate_hz))
    write_speech(args.output, codec, generated.codes_F)
    duration = _duration(len(generated.codes_F), codec)
    print(f"{args.output}: {duration} from step {trained.step}, {_ending(generated.stopped)}")


def _duration(num_codes: int, codec: Codec) -> str:
    return f"{num_codes / codec.frame_rate_hz:.2f} s of audio"


def _ending(stopped: bool) -> str:
    return "ended by the model" if stopped else "cut at the limit"


def _texts(args: argparse.Namespace) -> list[str]:
    texts = list(args.text)
    if args.texts is not None:
        try:
            texts += [line for line in args.texts.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"--texts {args.texts} cannot be read: {error}") from error
    if not texts or not all(text.strip() for text in texts):
        raise ModelError("there is no text to synthesize: give characters in --text, or lines in --texts")
    return texts


def _reference(args: argparse.Namespace, codec: Codec) -> ReferenceVoice | None:
    """The voice to clone, None without --reference."""
    from titan_speech.codec.wav import read_audio
    from titan_speech.generate.synthesize import ReferenceVoice

    if bool(args.reference) != bool(args.reference_text.strip()):
        raise ModelError("cloning needs both --reference and its transcript, --reference-text")
    if args.reference is None:
        return None
    return ReferenceVoice(codec.encode(read_audio(args.reference, codec.sample_rate)), args.reference_text)


def _record_path(path: Path) -> Path:
    return path.with_suffix(".json")


_OVERWRITE = Argument("--overwrite", "replace existing files (default: refuse)", action="store_true")
_TEMPERATURE = Argument(
    "--temperature", "sampling temperature; 0 = greedy decoding (default: 0.8)", type=not_negative, default=0.8
)
_SEED = Argument("--seed", "random seed of the sampling (default: 0)", type=int, default=0)

COMMANDS = (
    Command(
        None,
        "generate",
        "Synthesize texts with an exported model, in its own voice or a cloned one, and write wav files.",
        'titan-speech generate --model outputs/demo-hf --text "please hold the line" --output outputs/line.wav',
        generate,
        (
            Argument("--model", "folder written by titan-speech model export", type=Path, required=True),
            Argument("--text", "text to synthesize; may be given several times", action="append", default=[]),
            Argument("--texts", "file with one text per line, synthesized after those of --text", type=Path),
            Argument("--reference", "recording of the voice to clone", type=Path),
            Argument("--reference-text", "transcript of the recording", default=""),
            Argument(
                "--output",
                "wav file to write (NAME-0.wav, NAME-1.wav, ... for several texts), each with a .json that records how "
                "it was made",
                type=Path,
                required=True,
            ),
            _OVERWRITE,
            CODEC,
            _TEMPERATURE,
            TOP_K,
            MIN_SEC,
            max_sec(40.0),
            _SEED,
        ),
    ),
    Command(
        None,
        "sample",
        "Synthesize one text with a run's checkpoint and write a wav file.",
        'titan-speech sample --run outputs/demo --text "please hold the line" --output outputs/demo/sample.wav',
        sample,
        (
            Argument("--run", "run folder (job.dump_folder)", type=Path, required=True),
            Argument("--text", "text to synthesize; empty = unconditional generation", default=""),
            Argument("--output", "wav file to write", type=Path, required=True),
            _OVERWRITE,
            Argument("--step", "step of the checkpoint (default: the newest)", type=int),
            CODEC,
            _TEMPERATURE,
            TOP_K,
            MIN_SEC,
            max_sec(6.0),
            _SEED,
        ),
    ),
)
