"""Commands that import and export models: `model expand`, `export`, `merge`, `publish`, `convert`."""

from __future__ import annotations

import argparse
from pathlib import Path

from titan_speech.cli.arguments import natural, not_negative
from titan_speech.cli.command import Argument, Command, announce
from titan_speech.errors import PublishError


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
    if args.adapter:
        export_adapter(checkpoint, args.output, EXPORT_DTYPES[args.dtype])
    else:
        export(checkpoint, args.output, EXPORT_DTYPES[args.dtype], args.base)
    print(f"{args.output}: step {checkpoint.step} in {args.dtype}", flush=True)
    if repository is not None:
        print(f"published as {publish(args.output, repository)}")


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
    from titan_speech.tokenization.foreign_layouts import LAYOUTS

    if args.to:
        export_model(args.source, args.output, LAYOUTS[args.layout])
    else:
        import_model(args.source, args.output, LAYOUTS[args.layout], NewRows())
    print(f"{args.output}: {'to' if args.to else 'from'} layout {args.layout}")


_BASE = Argument(
    "--base",
    "what a LoRA checkpoint was trained on: checkpoint, run folder or Hugging Face folder (default: where it was)",
    type=Path,
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
