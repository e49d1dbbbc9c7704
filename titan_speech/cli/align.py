"""`titan-speech align pairs`: preference pairs from what a model answers."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from titan_speech.cli.arguments import (
    ENDPOINT_URL,
    SEED,
    local_folder,
    local_folder_or_s3,
    not_negative,
    number,
    positive,
    storage_of,
)
from titan_speech.cli.command import Argument, Command, announce
from titan_speech.cli.scorer_arguments import SCORERS, choice_of
from titan_speech.errors import CodecError, ModelError

if TYPE_CHECKING:
    from titan_speech.align.answers import Policy
    from titan_speech.align.rewards import Term
    from titan_speech.align.scorers import Scorer
    from titan_speech.generate.sampling import Decoding
    from titan_speech.store.manifest import Manifest

DEFAULT_REWARD = ("loop=-1", "length_ratio@1=-1", "ngram_repeats=-1")


def pairs(args: argparse.Namespace) -> None:
    """Answer the prompts of a store, score the answers and write a preference store."""
    if (args.model is None) == (args.run is None):
        raise ModelError("give one of --model (an exported folder) and --run (a run folder)")
    if args.answers < 2:
        raise ModelError(f"--answers {args.answers}: a pair needs at least 2")
    announce(f"align pairs: loading the model of {args.model or args.run}")
    from titan_speech.utils.logging import silence_library_warnings

    silence_library_warnings()
    from titan_speech.align.pairs import PairSettings, make_pairs
    from titan_speech.align.prompts import PromptFilter, read_prompts

    storage = storage_of(args, args.prompts)
    terms = tuple(args.reward) or tuple(map(_term, DEFAULT_REWARD))
    policy = _policy(args)
    wanted = PromptFilter(args.transcript, tuple(args.language), tuple(args.held_out), args.limit)
    prompts = read_prompts(args.prompts, wanted, policy.tokenizer, storage)
    with _scorer(args, policy, prompts.manifest) as scorer:
        rate = prompts.manifest.codec.codes_per_sec if prompts.manifest.codec is not None else 1.0
        settings = PairSettings(args.output, args.answers, _decoding(args, rate), terms, args.margin, args.transcript)
        result = make_pairs(policy, prompts, scorer, settings)
    print("\n".join([f"{args.output}: {result.lines()[0]}", *result.lines()[1:]]))
    print(f"answers and scores stay in {settings.journal}: another --reward or --margin picks again from them")


@contextmanager
def _scorer(args: argparse.Namespace, policy: Policy, manifest: Manifest) -> Iterator[Scorer]:
    """A program, the evaluator where there is a codec, or the measures of codes."""
    from titan_speech.align.scorers import CommandScorer, EvaluatorScorer, MeasuresScorer

    if args.scorer:
        program = CommandScorer(args.scorer, args.scorer_timeout)
        try:
            yield program
        finally:
            program.close()
        return
    measures = MeasuresScorer(policy.grammar)
    if not args.codec:
        yield measures
        return
    from titan_speech.codec.load import load_codec
    from titan_speech.evaluate.choice import open_scorers

    codec = load_codec(args.codec)
    if manifest.codec is not None and manifest.codec.hash != codec.codec_hash:
        raise CodecError(
            f"the prompts' store has codes of codec {manifest.codec.name} ({manifest.codec.hash}), but {codec.name} "
            f"has hash {codec.codec_hash}; its decoder would make noise of them. Give the store's codec with --codec"
        )
    with open_scorers(choice_of(args)) as (scorers, _):
        yield EvaluatorScorer(scorers, codec, measures)


def _policy(args: argparse.Namespace) -> Policy:
    from titan_speech.align.answers import ExportedPolicy, RunPolicy

    if args.model is not None:
        from titan_speech.generate.synthesize import SpeechModel

        return ExportedPolicy(SpeechModel.load(args.model), args.model)
    from titan_speech.checkpoint.base import weights_fingerprint
    from titan_speech.checkpoint.commit import checkpoint_path
    from titan_speech.generate.load import load_run

    trained = load_run(args.run, args.step)
    checkpoint = checkpoint_path(args.run / trained.config.checkpoint.folder, trained.step)
    return RunPolicy(trained, args.run, weights_fingerprint(checkpoint))


def _decoding(args: argparse.Namespace, codes_per_sec: float) -> Decoding:
    from titan_speech.generate.sampling import Decoding

    return Decoding(
        temperature=args.temperature,
        top_k=args.top_k,
        min_codes=max(1, round(args.min_sec * codes_per_sec)),
        max_codes=max(1, round(args.max_sec * codes_per_sec)),
        seed=args.seed,
    )


def _term(text: str) -> Term:
    from titan_speech.align.rewards import Term

    try:
        return Term.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


COMMANDS = (
    Command(
        "align",
        "pairs",
        "Sample several answers to each prompt of a store, score them, and write a store of preference pairs "
        "(chosen and rejected answer) for [preference] training.",
        "titan-speech align pairs --model outputs/sft-hf --prompts stores/prompts --output stores/pairs --answers 8",
        pairs,
        (
            Argument("--model", "folder written by titan-speech model export", type=Path),
            Argument("--run", "in place of --model: run folder of a small model, decoded without a cache", type=Path),
            Argument("--step", "of --run: step of the checkpoint (default: the newest)", type=int),
            Argument(
                "--prompts",
                "token store whose transcripts are answered: a folder, or s3://bucket/prefix",
                type=local_folder_or_s3,
                required=True,
            ),
            Argument("--output", "token store to write", type=local_folder, required=True),
            Argument("--answers", "answers per prompt, at least 2 (default: 8)", type=positive, default=8),
            Argument(
                "--reward",
                "a term of the reward, NAME=WEIGHT or NAME@TARGET=WEIGHT (minus the distance from a target: "
                "length_ratio@1=-1); may be given several times (default: " + " ".join(DEFAULT_REWARD) + ")",
                action="append",
                type=_term,
                default=[],
            ),
            Argument(
                "--margin",
                "rewards of a pair are at least so far apart (default: 0.05)",
                type=not_negative,
                default=0.05,
            ),
            Argument(
                "--scorer",
                "program that scores answers, in place of the measures of their codes: lines of JSON on stdin and "
                "stdout, see Alignment in the documentation",
                default="",
            ),
            Argument(
                "--codec",
                "score the sound too, decoded once per answer: embedded, a .safetensors file, XCodec2 as a folder or a "
                "name on the Hub; with the models below (default: only the codes are scored)",
                default="",
            ),
            *SCORERS,
            Argument(
                "--scorer-timeout",
                "seconds it may take for the answers to one prompt (default: 600)",
                type=number(0.1),
                default=600.0,
            ),
            Argument("--transcript", "transcript variant that is the prompt (default: native)", default="native"),
            Argument("--language", "only this language; may be given several times", action="append", default=[]),
            Argument(
                "--held-out",
                "held-out set whose samples are no prompts; may be given several times",
                action="append",
                default=[],
            ),
            Argument("--limit", "at most this many prompts, languages in turn (default: all)", type=positive),
            Argument("--temperature", "sampling temperature (default: 1)", type=number(0.01), default=1.0),
            Argument("--top-k", "sample from this many most likely tokens (default: 50)", type=positive, default=50),
            Argument("--min-sec", "minimum duration in seconds (default: 0)", type=not_negative, default=0.0),
            Argument("--max-sec", "maximum duration in seconds (default: 20)", type=number(0.02), default=20.0),
            SEED,
            ENDPOINT_URL,
        ),
    ),
)
