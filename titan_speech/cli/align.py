"""`titan-speech align pairs` and `align grpo`: pairs of what a model answers, and training on rewards of it."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from titan_speech.cli.arguments import (
    ENDPOINT_URL,
    MIN_SEC,
    SCORERS,
    SEED,
    TOP_K,
    choice_of,
    decoding_of,
    local_folder,
    local_folder_or_s3,
    max_sec,
    natural,
    not_negative,
    number,
    positive,
    several,
    storage_of,
)
from titan_speech.cli.command import Argument, Command, announce
from titan_speech.errors import CodecError, ModelError

if TYPE_CHECKING:
    from titan_speech.align.answers import Policy
    from titan_speech.align.prompts import StorePrompt, StorePrompts
    from titan_speech.align.rewards import Term
    from titan_speech.align.scorers import AnswerScorer
    from titan_speech.align.trl_training import GRPOSettings
    from titan_speech.config.schema_data import StorageConfig
    from titan_speech.store.manifest import Manifest
    from titan_speech.tokenization.prompt_template import Grammar
    from titan_speech.tokenization.text_tokenizer import TextTokenizer

DEFAULT_REWARD = ("loop=-1", "length_ratio@1=-1", "ngram_repeats=-1")


def pairs(args: argparse.Namespace) -> None:
    """Answer the prompts of a store, score the answers and write a preference store."""
    if (args.model is None) == (args.run is None):
        raise ModelError("give one of --model (an exported folder) and --run (a run folder)")
    announce(f"align pairs: loading the model of {args.model or args.run}")
    from titan_speech.align.pairs import PairSettings, make_pairs

    storage = storage_of(args, args.prompts)
    policy = _policy(args)
    prompts = _prompts(args, policy.tokenizer, policy.max_positions if args.task == "clone" else None, storage)
    with _scorer(args, policy.grammar, prompts.manifest) as scorer:
        decoding, terms = decoding_of(args, _codes_per_sec(prompts)), _terms(args)
        settings = PairSettings(args.output, args.answers, decoding, terms, args.margin, args.transcript, args.task)
        result = make_pairs(policy, prompts, scorer, settings)
    print("\n".join([f"{args.output}: {result.lines()[0]}", *result.lines()[1:]]))
    print(f"answers and scores stay in {settings.journal}: another --reward or --margin picks again from them")


@contextmanager
def _scorer(args: argparse.Namespace, grammar: Grammar, manifest: Manifest) -> Iterator[AnswerScorer]:
    """A program, the evaluator where there is a codec, or the measures of codes."""
    from titan_speech.align.scorers import CommandScorer, EvaluatorScorer, MeasuresScorer

    if args.scorer:
        program = CommandScorer(args.scorer, args.scorer_timeout)
        try:
            yield program
        finally:
            program.close()
        return
    measures = MeasuresScorer(grammar)
    if not args.codec:
        yield measures
        return
    from titan_speech.codec.load import load_codec
    from titan_speech.evaluate.scorer_choice import open_scorers

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
    from titan_speech.checkpoint.commit import checkpoint_path
    from titan_speech.checkpoint.lora_base import weights_fingerprint
    from titan_speech.generate.load import load_run

    trained = load_run(args.run, args.step)
    checkpoint = checkpoint_path(args.run / trained.config.checkpoint.folder, trained.step)
    return RunPolicy(trained, args.run, weights_fingerprint(checkpoint))


def _prompts(
    args: argparse.Namespace, tokenizer: TextTokenizer, max_positions: int | None, storage: StorageConfig
) -> StorePrompts:
    from titan_speech.align.prompts import PromptFilter, read_prompts

    wanted = PromptFilter(args.transcript, tuple(args.language), tuple(args.held_out), args.limit, max_positions)
    return read_prompts(args.prompts, wanted, tokenizer, storage)


def _codes_per_sec(prompts: StorePrompts) -> float:
    return prompts.manifest.codec.codes_per_sec if prompts.manifest.codec is not None else 1.0


def _terms(args: argparse.Namespace) -> tuple[Term, ...]:
    return tuple(args.reward) or tuple(map(_term, DEFAULT_REWARD))


def grpo(args: argparse.Namespace) -> None:
    """Train an exported model on the rewards of its own answers."""
    from titan_speech.align.grpo import max_positions, train_grpo
    from titan_speech.align.trl_training import GRPOSettings, require_trl

    require_trl()
    announce(f"align grpo: loading TRL and the model of {args.model}")
    from titan_speech.hf.model_card import read_record
    from titan_speech.tokenization.prompt_template import Grammar
    from titan_speech.tokenization.text_tokenizer import TextTokenizer

    storage = storage_of(args, args.prompts)
    record, tokenizer = read_record(args.model), TextTokenizer.load(args.model)
    grammar = Grammar(tokenizer.vocabulary())
    if (grammar.vocabulary.fingerprint, grammar.fingerprint) != (record.vocabulary, record.grammar):
        raise ModelError(f"{args.model} was exported with another vocabulary or grammar; export it again")
    prompts = _prompts(args, tokenizer, max_positions(args.model) if args.task == "clone" else None, storage)
    settings = GRPOSettings(
        model=args.model,
        output=args.output,
        num_steps=args.steps,
        num_answers=args.answers,
        prompts_per_step=args.prompts_per_step,
        lr=args.lr,
        beta=args.beta,
        temperature=args.temperature,
        top_k=args.top_k,
        max_codes=max(1, round(args.max_sec * _codes_per_sec(prompts))),
        save_every=args.save_every,
        seed=args.seed,
        terms=_terms(args),
        stop=dict(args.stop),
        stop_below=dict(args.stop_below),
        transcript=args.transcript,
        max_breaches=args.max_breaches,
        task=args.task,
        ratio=args.ratio,
    )
    if args.estimate:
        _estimate(args.estimate, settings, grammar, prompts.prompts)
        return
    with _scorer(args, grammar, prompts.manifest) as scorer:
        done = train_grpo(prompts, tokenizer, scorer, settings)
    apart = ", ".join(f"{way} {one['greatest']:.1e}" for way, one in done["parity"]["apart"].items())
    print(f"log-probabilities before step 1, at most from the trainer's in nats: {apart}")
    first, last = (done["steps"][i]["reward"] for i in (0, -1))
    print(f"{args.output}: reward {first:.4g} at step 1, {last:.4g} at step {settings.num_steps}")
    print(f'a stage continues from it: [model] initial = {str(args.output)!r}, flavor = "initial"')


def _estimate(device: str, settings: GRPOSettings, grammar: Grammar, prompts: Sequence[StorePrompt]) -> None:
    from titan_speech.estimate.devices import DEVICES
    from titan_speech.estimate.rollout_cost import RolloutSizes, rollout_cost
    from titan_speech.hf.model_folder import HFFolder

    sizes = RolloutSizes(
        num_answers=settings.num_answers * settings.prompts_per_step,
        answers_per_pass=settings.num_answers,
        prompt_tokens=max(prompt.num_prefix_tokens(grammar) for prompt in prompts),
        answer_tokens=settings.max_codes + 1,
        has_reference=settings.beta > 0,
    )
    folder = HFFolder.open(settings.model)
    print("\n".join(rollout_cost(folder.shape, folder.num_rows, sizes, DEVICES[device]).lines()))


def _bound(text: str) -> tuple[str, float]:
    name, is_bound, value = text.partition("=")
    try:
        if not (is_bound and name and math.isfinite(bound := float(value))):
            raise ValueError
        return name, bound
    except ValueError:
        raise argparse.ArgumentTypeError(f'found "{text}", expected NAME=NUMBER, such as repeats=0.5') from None


def _term(text: str) -> Term:
    from titan_speech.align.rewards import Term

    try:
        return Term.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


_PROMPTS = (
    Argument(
        "--prompts",
        "token store whose transcripts are answered: a folder, or s3://bucket/prefix",
        type=local_folder_or_s3,
        required=True,
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
)
_REWARD = (
    Argument(
        "--reward",
        "a term of the reward, NAME=WEIGHT or NAME@TARGET=WEIGHT (weight times the distance from a target: "
        "length_ratio@1=-1); may be given several times (default: " + " ".join(DEFAULT_REWARD) + ")",
        action="append",
        type=_term,
        default=[],
    ),
    Argument(
        "--scorer",
        "program that scores answers, in place of the measures of their codes: lines of JSON on stdin and stdout, see "
        "Pairs from a model in the documentation",
        default="",
    ),
    Argument(
        "--scorer-timeout",
        "seconds it may take for the answers to one prompt (default: 600)",
        type=number(0.1),
        default=600.0,
    ),
    Argument(
        "--codec",
        "score the sound too, decoded once per answer: embedded, a .safetensors file, XCodec2 as a folder or a name on "
        "the Hub; with the models below (default: only the codes are scored)",
        default="",
    ),
    *SCORERS,
)
_TASK = Argument(
    "--task",
    "tts: transcripts; clone: each after another recording of its speaker, in whose voice it is to be answered "
    "(default: tts)",
    choices=("tts", "clone"),
    default="tts",
)
_ANSWERS = Argument("--answers", "answers per prompt, at least 2 (default: 8)", type=several, default=8)
_TEMPERATURE = Argument("--temperature", "sampling temperature (default: 1)", type=number(0.01), default=1.0)
_MAX_SEC = max_sec(20.0)


def _bounds(flag: str, what: str) -> Argument:
    text = f"{what} bound of the mean of a score over a step, NAME=NUMBER; may be given several times"
    return Argument(flag, text, action="append", type=_bound, default=[])


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
            *_PROMPTS,
            _TASK,
            Argument("--output", "token store to write", type=local_folder, required=True),
            _ANSWERS,
            *_REWARD,
            Argument(
                "--margin",
                "rewards of a pair are at least so far apart (default: 0.05)",
                type=not_negative,
                default=0.05,
            ),
            _TEMPERATURE,
            TOP_K,
            MIN_SEC,
            _MAX_SEC,
            SEED,
            ENDPOINT_URL,
        ),
    ),
    Command(
        "align",
        "grpo",
        "Train an exported model on the rewards of its own answers (GRPO), by TRL 1.16, and write an exported model; "
        "a job that was killed continues.",
        "titan-speech align grpo --model models/sft --prompts stores/prompts --output models/grpo --steps 200 "
        "--stop repeats=0.5",
        grpo,
        (
            Argument("--model", "folder written by titan-speech model export", type=Path, required=True),
            *_PROMPTS,
            Argument("--output", "exported folder to write", type=local_folder, required=True),
            _TASK,
            Argument("--steps", "optimizer steps (default: 200)", type=positive, default=200),
            _ANSWERS,
            Argument("--prompts-per-step", "prompts per step (default: 4)", type=positive, default=4),
            Argument("--lr", "learning rate (default: 1e-6)", type=number(0), default=1e-6),
            Argument(
                "--beta",
                "weight of the divergence from the model as it was; 0: none, and no second model in memory (default: "
                "0.04)",
                type=not_negative,
                default=0.04,
            ),
            *_REWARD,
            _bounds("--stop", "upper"),
            _bounds("--stop-below", "lower"),
            Argument(
                "--max-breaches",
                "breaches of a bound after which training goes back to the last checkpoint within the bounds and "
                "continues with half the rate; the next one ends the job (default: 0)",
                type=natural,
                default=0,
            ),
            Argument(
                "--ratio",
                "importance ratio per token (GRPO) or per sequence (GSPO) (default: token)",
                choices=("token", "sequence"),
                default="token",
            ),
            Argument(
                "--estimate",
                "print memory and time of a step on this GPU, and end",
                default="",
                choices=("a100", "h100", "h200", "b200", "l40s"),
            ),
            Argument("--save-every", "steps between checkpoints (default: 20)", type=positive, default=20),
            _TEMPERATURE,
            TOP_K,
            _MAX_SEC,
            SEED,
            ENDPOINT_URL,
        ),
    ),
)
