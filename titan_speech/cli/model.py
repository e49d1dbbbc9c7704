"""Commands that import and export models: `model expand`, `export`, `compare`, `merge`, `publish`, `convert`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from titan_speech.cli.arguments import natural, not_negative
from titan_speech.cli.command import Argument, Command, announce
from titan_speech.errors import ModelError, PublishError
from titan_speech.exit_codes import EXIT_DONE, EXIT_FOUND_WRONG
from titan_speech.utils.files import write_atomically

if TYPE_CHECKING:
    from titan_speech.hf.export import WeightsCheckpoint


def model_expand(args: argparse.Namespace) -> None:
    announce(f"model expand: extending the vocabulary of {args.source}")
    from titan_speech.hf.expand import expand
    from titan_speech.hf.row_initialization import NewRows

    record = expand(args.source, args.output, NewRows(args.new_rows, args.scale, args.seed))
    print(f"{args.output}: {record.num_base:,} rows extended to {record.num_rows:,}, vocabulary {record.vocabulary}")


def model_export(args: argparse.Namespace) -> None:
    announce(f"model export: exporting {args.checkpoint}")
    from titan_speech.hf.export import EXPORT_DTYPES, WeightsCheckpoint, export
    from titan_speech.hf.peft_folder import export_adapter
    from titan_speech.hf.publish import Repository, publish

    if args.public and not args.publish:
        raise PublishError("--public has no effect without --publish ORG/NAME; give both, or neither")
    if args.adapter and (args.publish or args.base):
        raise PublishError("--adapter goes with neither --publish nor --base: only merged models are published")
    repository = Repository.named(args.publish, is_public=args.public) if args.publish else None
    checkpoint = WeightsCheckpoint.open(args.checkpoint)
    announce(f"model export: torch is loaded, converting the weights of step {checkpoint.step:,}")
    if args.adapter:
        export_adapter(checkpoint, args.output, EXPORT_DTYPES[args.dtype])
    else:
        export(checkpoint, args.output, EXPORT_DTYPES[args.dtype], args.base, _export_check(args, checkpoint))
    print(f"{args.output}: step {checkpoint.step} in {args.dtype}", flush=True)
    if repository is not None:
        print(f"published as {publish(args.output, repository)}")


def _export_check(args: argparse.Namespace, checkpoint: WeightsCheckpoint) -> Callable[[Path], str]:
    """The last step of an export: it is compared with its checkpoint, or the card says why it was not."""
    from titan_speech.evaluate.engines import ask_process
    from titan_speech.evaluate.parity import compare, needed_bytes
    from titan_speech.hf.export import EXPORT_DTYPES
    from titan_speech.hf.model_card import UNPROVED
    from titan_speech.utils.machine_limits import available_bytes

    def check(folder: Path) -> str:
        needed, available = needed_bytes(checkpoint), available_bytes()
        if args.no_check:
            why = "it was exported with --no-check"
        elif find_spec("transformers") is None:
            why = "transformers is not installed (pip install 'titan-speech[hf]')"
        elif available is not None and needed > available:
            why = f"a comparison needs {needed / 1e9:.1f} GB of memory, {available / 1e9:.1f} GB were free"
        else:
            announce(
                f"model export: comparing the folder with the checkpoint, in transformers ({needed / 1e9:.1f} GB of "
                "memory; --no-check leaves it out)"
            )
            report = compare(
                checkpoint,
                folder,
                lambda documents: ask_process("transformers", folder, documents, "float32"),
                EXPORT_DTYPES[args.dtype],
                base=args.base,
            )
            if report.problems:
                raise ModelError(
                    f"the export differs from the model that was trained: {'; '.join(report.problems)}. Nothing was "
                    "written. --no-check writes the folder all the same; please report this as a defect"
                )
            print("\n".join(report.lines()), flush=True)
            return "\n".join(f"- {line}" for line in report.lines())
        print(f"the export is unproved: {why}", flush=True)
        return f"{UNPROVED} ({why})"

    return check


def model_compare(args: argparse.Namespace) -> int:
    announce(f"model compare: comparing {args.model} with {args.checkpoint}")
    from titan_speech.evaluate.engines import ENGINES, ask_process, ask_server
    from titan_speech.evaluate.parity import compare
    from titan_speech.hf.export import WeightsCheckpoint
    from titan_speech.hf.model_folder import HFFolder

    engine: str = getattr(args, "with")
    is_server = "://" in engine
    if not is_server and engine not in ENGINES:
        raise ModelError(f"--with {engine}: no such engine; expected {', '.join(ENGINES)} or the address of a server")
    checkpoint = WeightsCheckpoint.open(args.checkpoint)
    report = compare(
        checkpoint,
        args.model,
        lambda documents: (
            ask_server(engine, documents)
            if is_server
            else ask_process(engine, args.model, documents, args.dtype, args.python)
        ),
        HFFolder.open(args.model).dtype,
        args.dtype,
        args.base,
    )
    print("\n".join(report.lines()))
    if args.output is not None:
        write_atomically(args.output, json.dumps(asdict(report), indent=1) + "\n")
    return EXIT_FOUND_WRONG if report.problems else EXIT_DONE


def model_merge(args: argparse.Namespace) -> None:
    announce(f"model merge: merging {args.checkpoint} with its base")
    from titan_speech.hf.export import WeightsCheckpoint
    from titan_speech.hf.merge import merge

    checkpoint = WeightsCheckpoint.open(args.checkpoint)
    merge(checkpoint, args.output, args.base)
    print(f"{args.output}: step {checkpoint.step}, adapter and base in one")


def model_publish(args: argparse.Namespace) -> None:
    announce(f"model publish: checking {args.source}")
    from titan_speech.hf.publish import Repository, publish

    print(f"published as {publish(args.source, Repository.named(args.to, is_public=args.public))}")


def model_convert(args: argparse.Namespace) -> None:
    announce(f"model convert: converting {args.source}")
    from titan_speech.hf.convert import export_model, import_model
    from titan_speech.hf.row_initialization import NewRows
    from titan_speech.tokenization.foreign_layouts import FOREIGN_LAYOUTS

    if args.to:
        export_model(args.source, args.output, FOREIGN_LAYOUTS[args.layout])
    else:
        import_model(args.source, args.output, FOREIGN_LAYOUTS[args.layout], NewRows())
    print(f"{args.output}: {'to' if args.to else 'from'} layout {args.layout}")


_BASE = Argument(
    "--base",
    "what a LoRA checkpoint was trained on: checkpoint, run folder or Hugging Face folder (default: where it was)",
    type=Path,
)
_NO_CHECK = Argument(
    "--no-check", "do not compare the folder with the checkpoint in transformers; its card says so", action="store_true"
)
_PUBLIC = Argument("--public", "make the repository public (default: private)", action="store_true")

COMMANDS = (
    Command(
        "model",
        "expand",
        "Extend a backbone's vocabulary with speech tokens (resize embeddings).",
        "titan-speech model expand --from models/Llama-3.2-1B --output models/Llama-3.2-1B-speech",
        model_expand,
        (
            Argument(
                "--from", "folder with config.json, safetensors and tokenizer", type=Path, required=True, dest="source"
            ),
            Argument("--output", "folder to write; must not exist", type=Path, required=True),
            Argument(
                "--new-rows",
                "how embeddings of new tokens are initialized (default: mean_cov, mean and covariance of the others)",
                default="mean_cov",
                choices=("mean_cov", "mean", "normal"),
            ),
            Argument("--scale", "factor applied to the covariance (default: 0.01)", type=not_negative, default=0.01),
            Argument("--seed", "random seed of the new rows (default: 0)", type=natural, default=0),
        ),
    ),
    Command(
        "model",
        "export",
        "Export a checkpoint as a Hugging Face model folder that transformers loads.",
        "titan-speech model export --checkpoint outputs/demo --output outputs/demo-hf",
        model_export,
        (
            Argument(
                "--checkpoint",
                "checkpoint (.../step-N), or a run folder for its newest checkpoint",
                type=Path,
                required=True,
            ),
            Argument("--output", "folder to write; must not exist", type=Path, required=True),
            Argument(
                "--dtype",
                "data type of the weights (default: bfloat16)",
                default="bfloat16",
                choices=("bfloat16", "float16", "float32"),
            ),
            _BASE,
            _NO_CHECK,
            Argument("--adapter", "export the adapter alone, as a folder that peft loads", action="store_true"),
            Argument("--publish", "also push the folder to this repository on the Hugging Face Hub: ORG/NAME"),
            _PUBLIC,
        ),
    ),
    Command(
        "model",
        "merge",
        "Merge a LoRA checkpoint with its base: a run folder that holds the whole model.",
        "titan-speech model merge --checkpoint outputs/voice --output outputs/voice-merged",
        model_merge,
        (
            Argument(
                "--checkpoint",
                "LoRA checkpoint (.../step-N), or a run folder for its newest checkpoint",
                type=Path,
                required=True,
            ),
            Argument("--output", "run folder to write; must not exist", type=Path, required=True),
            _BASE,
        ),
    ),
    Command(
        "model",
        "compare",
        "Compare an exported folder, in another engine, with the checkpoint it was exported from.",
        "titan-speech model compare --model outputs/demo-hf --checkpoint outputs/demo --with transformers",
        model_compare,
        (
            Argument("--model", "folder written by `model export`", type=Path, required=True),
            Argument(
                "--checkpoint", "what it was exported from (.../step-N, or a run folder)", type=Path, required=True
            ),
            Argument(
                "--with",
                "transformers, ctranslate2, vllm, or the address of a server (http://127.0.0.1:8000/v1; default: "
                "transformers)",
                default="transformers",
            ),
            Argument("--python", "interpreter of the environment that has the engine (default: this one)", type=Path),
            Argument(
                "--dtype",
                "that the engine computes in; the bounds are wider in bfloat16 (default: float32)",
                default="float32",
                choices=("float32", "bfloat16"),
            ),
            _BASE,
            Argument("--output", "write the report as JSON", type=Path),
        ),
    ),
    Command(
        "model",
        "publish",
        "Push an exported folder to a repository on the Hugging Face Hub, private by default.",
        "titan-speech model publish --from outputs/demo-hf --to ORG/NAME",
        model_publish,
        (
            Argument("--from", "folder written by `model export`", type=Path, required=True, dest="source"),
            Argument("--to", "repository: ORG/NAME", required=True),
            _PUBLIC,
        ),
    ),
    Command(
        "model",
        "convert",
        "Convert a model of another speech trainer to this vocabulary, or a model of this trainer to theirs.",
        "titan-speech model convert --from models/Llasa-1B --layout llasa --output models/Llasa-1B-here",
        model_convert,
        (
            Argument("--from", "Hugging Face folder", type=Path, required=True, dest="source"),
            Argument("--layout", "token layout of the other trainer", required=True, choices=("inworld", "llasa")),
            Argument(
                "--to", "convert from this vocabulary to the layout, instead of from the layout", action="store_true"
            ),
            Argument("--output", "folder to write; must not exist", type=Path, required=True),
        ),
    ),
)
