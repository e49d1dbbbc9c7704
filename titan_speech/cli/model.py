"""Verbs on Hugging Face folders: backbones in, checkpoints out."""

from __future__ import annotations

import argparse
from pathlib import Path

from titan_speech.cli.arguments import natural, not_negative
from titan_speech.cli.command import EXIT_DONE, Argument, Command
from titan_speech.errors import PublishError


def model_expand(args: argparse.Namespace, words: list[str]) -> int:
    from titan_speech.hf.expand import NewRows, expand

    record = expand(args.source, args.output, NewRows(args.new_rows, args.scale, args.seed))
    print(f"{args.output}: {record.num_base:,} rows grown to {record.num_rows:,}, vocabulary {record.vocabulary}")
    return EXIT_DONE


def model_export(args: argparse.Namespace, words: list[str]) -> int:
    from titan_speech.hf.export import EXPORT_DTYPES, WeightsCheckpoint, export
    from titan_speech.hf.publish import Repository, publish

    if args.public and not args.publish:
        raise PublishError("--public says who may read the repository of --publish, which is missing")
    repository = Repository.named(args.publish, is_public=args.public) if args.publish else None
    checkpoint = WeightsCheckpoint.open(args.checkpoint)
    export(checkpoint, args.output, EXPORT_DTYPES[args.dtype])
    print(f"{args.output}: step {checkpoint.step} in {args.dtype}", flush=True)
    if repository is not None:
        print(f"published as {publish(args.output, repository)}")
    return EXIT_DONE


def model_publish(args: argparse.Namespace, words: list[str]) -> int:
    from titan_speech.hf.publish import Repository, publish

    print(f"published as {publish(args.source, Repository.named(args.to, is_public=args.public))}")
    return EXIT_DONE


def model_convert(args: argparse.Namespace, words: list[str]) -> int:
    from titan_speech.hf.convert import export_model, import_model
    from titan_speech.hf.expand import NewRows
    from titan_speech.tokenization.foreign_layouts import LAYOUTS

    if args.to:
        export_model(args.source, args.output, LAYOUTS[args.layout])
    else:
        import_model(args.source, args.output, LAYOUTS[args.layout], NewRows())
    print(f"{args.output}: {'to' if args.to else 'from'} layout {args.layout}")
    return EXIT_DONE


_PUBLIC = Argument("--public", "everyone may read the repository (default: it is private)", is_switch=True)

COMMANDS = (
    Command(
        "model",
        "expand",
        "Grow a backbone's Hugging Face folder by the speech vocabulary.",
        "titan-speech model expand --from models/Llama-3.2-1B --output models/Llama-3.2-1B-speech",
        model_expand,
        (
            Argument(
                "--from", "folder with config.json, safetensors and tokenizer", type=Path, required=True, dest="source"
            ),
            Argument("--output", "folder to write; must not exist", type=Path, required=True),
            Argument(
                "--new-rows",
                "where new rows come from (default: mean_cov, mean and covariance of the old)",
                default="mean_cov",
                choices=("mean_cov", "mean", "normal"),
            ),
            Argument("--scale", "factor of the covariance (default: 0.01)", type=not_negative, default=0.01),
            Argument("--seed", "seed of the new rows (default: 0)", type=natural, default=0),
        ),
    ),
    Command(
        "model",
        "export",
        "Write a checkpoint as a Hugging Face folder that transformers loads.",
        "titan-speech model export --checkpoint outputs/demo --output outputs/demo-hf",
        model_export,
        (
            Argument("--checkpoint", "run folder (its newest) or .../step-N", type=Path, required=True),
            Argument("--output", "folder to write; must not exist", type=Path, required=True),
            Argument(
                "--dtype",
                "type of the weights (default: bfloat16)",
                default="bfloat16",
                choices=("bfloat16", "float16", "float32"),
            ),
            Argument("--publish", "push the folder to this repository of the Hugging Face Hub: ORG/NAME"),
            _PUBLIC,
        ),
    ),
    Command(
        "model",
        "publish",
        "Push an exported folder to a repository of the Hugging Face Hub, private unless said otherwise.",
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
        "Bring a model of another speech trainer into this vocabulary, or one of ours into theirs.",
        "titan-speech model convert --from models/Llasa-1B --layout llasa --output models/Llasa-1B-here",
        model_convert,
        (
            Argument("--from", "Hugging Face folder", type=Path, required=True, dest="source"),
            Argument("--layout", "token layout of the other side", required=True, choices=("inworld", "llasa")),
            Argument("--to", "convert one of ours to the layout, instead of from it", is_switch=True),
            Argument("--output", "folder to write; must not exist", type=Path, required=True),
        ),
    ),
)
