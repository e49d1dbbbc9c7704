"""Commands that score speech: `evaluate pack`, `clips`, `trust`, `compare`, `contamination`, `reward-server`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from titan_speech.cli.arguments import (
    ENDPOINT_URL,
    RECOGNIZERS,
    SCORERS,
    STORES,
    choice_of,
    list_argument,
    local_folder,
    natural,
    number,
    positive,
    storage_of,
)
from titan_speech.cli.command import Argument, Command, announce, requires_extra
from titan_speech.errors import DataError
from titan_speech.exit_codes import EXIT_DONE, EXIT_FOUND_WRONG

if TYPE_CHECKING:
    from titan_speech.evaluate.clip import Clip
    from titan_speech.evaluate.result import Result

MAX_FAILED_NAMED = 10


def evaluate_pack(args: argparse.Namespace) -> None:
    announce(f"evaluate pack: making {args.output}")
    with requires_extra("text"):
        from titan_speech.evaluate.prompt_packs.build import build_pack
        from titan_speech.evaluate.prompt_packs.held_out import held_out_drafts
        from titan_speech.evaluate.prompt_packs.public_sets import LAYOUTS
        from titan_speech.evaluate.prompt_packs.text_files import text_drafts

    drafts, codec_hash, sources = [], "", []
    if args.held_out:
        storage = storage_of(args, args.held_out)
        drafts, codec_hash = held_out_drafts(args.held_out, storage, args.cross_lingual)
        sources.append(f"held-out set {args.held_out}")
    for path in args.text:
        drafts += text_drafts(Path(path))
        sources.append(Path(path).name)
    if args.layout:
        if args.source is None:
            raise DataError(f"--layout {args.layout} without --from: give the file or folder of the set")
        drafts += LAYOUTS[args.layout](args.source, args.language)
        sources.append(f"{args.layout} {args.source.name}")
    if not drafts:
        raise DataError("no source of prompts: give --held-out, --text, or --layout with --from")
    pack = build_pack(
        drafts,
        args.output,
        num_canaries=args.canaries,
        codec_hash=codec_hash,
        licence=args.licence,
        made_from=", ".join(sources),
    )
    _print_table(("language", "subset", "canary", "full"), [tuple(map(str, row)) for row in pack.counts()])
    print(f"{args.output}: {len(pack.prompts):,} prompts, hash {pack.hash}")


def evaluate_contamination(args: argparse.Namespace) -> int:
    with requires_extra("text"):
        from titan_speech.evaluate.prompt_packs.contamination import contamination
    from titan_speech.evaluate.prompt_packs.prompt_pack import read_pack
    from titan_speech.store.held_out_set import read_held_out_set
    from titan_speech.store.reader import open_store

    storage = storage_of(args, *args.stores, *args.held_out)
    kept_out = [one for place in args.held_out for one in read_held_out_set(place, storage).held_out.all]
    stores = [open_store(place, storage) for place in args.stores]
    found = contamination(read_pack(args.pack), args.pack, stores, kept_out)
    print("\n".join(found.lines()))
    return EXIT_DONE if found.is_clean else EXIT_FOUND_WRONG


def evaluate_clips(args: argparse.Namespace) -> int:
    announce("evaluate clips: reading the clips")
    with requires_extra("text"):
        from titan_speech.evaluate.scorer_choice import open_scorers
    from titan_speech.evaluate.result import ResultKey, make_result
    from titan_speech.evaluate.scorers.base import score_clips, versions_of

    clips, pack_hash, name = _clips(args)
    with requires_extra("eval"), open_scorers(choice_of(args)) as (scorers, table):
        key = ResultKey(args.name or name, pack_hash, {}, dict(versions_of(scorers)))
        print(f"scoring {len(clips):,} clips with {', '.join(one.name for one in scorers)}", flush=True)
        scores = score_clips(clips, scorers)
        result = make_result(key, clips, scores, name=args.name or name, trust=() if table is None else table.as_rows())
    if args.output is not None:
        result.write(args.output)
    _print_result(result)
    return EXIT_FOUND_WRONG if result.failures() else EXIT_DONE


def evaluate_trust(args: argparse.Namespace) -> None:
    announce("evaluate trust: reading the recordings")
    with requires_extra("text"):
        from titan_speech.evaluate.trust import TrustBounds, measure_trust
    from titan_speech.codec.load import load_codec
    from titan_speech.evaluate.clip import through_codec

    clips, _, name = _clips(args)
    choice = choice_of(args)
    if not choice.asr:
        raise DataError("no recognizer to measure: give --asr")
    decoded = through_codec(clips, load_codec(args.codec)) if args.codec else ()
    bounds = TrustBounds(args.max_cer, args.min_script, args.min_coverage, args.min_prompts)
    with requires_extra("eval"):
        recognizers = choice.recognizers()
        try:
            spellings = choice.read_spellings()
            table = measure_trust(clips, recognizers, decoded, bounds, choice.rules, spellings, name)
        finally:
            for one in recognizers:
                one.close()
    table.write(args.output)
    print("\n".join(table.lines()))


def evaluate_compare(args: argparse.Namespace) -> None:
    from titan_speech.evaluate.best_checkpoint import BestRule, best
    from titan_speech.evaluate.confidence import LEVEL
    from titan_speech.evaluate.result import read_result
    from titan_speech.evaluate.statistics import check_series, compare

    results = [read_result(path) for path in args.results]
    if len(results) < 2:
        raise DataError("one result has nothing to be compared with; give two or more")
    check_series(results)
    if len(results) > 2 or args.best:
        rule = BestRule(args.metric, args.higher is False, args.then)
        chosen, why = best(results, rule)
        print(f"best: {args.results[results.index(chosen)]} ({why})")
        return
    pairs = compare(results[0], results[1], by_subset=args.by_subset)
    header = (
        "metric", "language", "subset", "prompts", "first", "second", "difference", "95 % interval", "p", "effect",
        "detectable", f"p < {LEVEL:g}",
    )  # fmt: skip
    rows = [
        (
            one.metric, one.language or "all", one.subset, str(one.num_prompts), *map(_number, (one.first, one.second)),
            _number(one.difference), f"{_number(one.low)} to {_number(one.high)}", _number(one.p_corrected),
            _number(one.effect), _number(one.detectable), "yes" if one.is_significant else "no",
        )
        for one in pairs
        if one.num_prompts
    ]  # fmt: skip
    _print_table(header, rows)
    print("second minus first; p corrected by Holm; detectable: smallest difference found with a power of 80 %")


def evaluate_reward_server(args: argparse.Namespace) -> None:
    announce("evaluate reward-server: loading the codec")
    with requires_extra("text"):
        from titan_speech.evaluate.scorer_choice import open_scorers
    from titan_speech.codec.load import load_codec
    from titan_speech.evaluate.reward import RewardFunction, RewardWeights
    from titan_speech.evaluate.reward_server import RewardServer

    weights = RewardWeights(args.weight_content, args.weight_similarity, args.weight_mos)
    codec = load_codec(args.codec)
    with (
        requires_extra("eval"),
        open_scorers(choice_of(args)) as (scorers, _),
        RewardServer(RewardFunction(codec, scorers, weights), args.port) as server,
    ):
        print(f"{server.url}/score scores completions; Ctrl-C ends it", flush=True)
        server.serve_forever()


def _clips(args: argparse.Namespace) -> tuple[list[Clip], str, str]:
    """Clips, the hash of what they are made for, and a name."""
    import hashlib

    from titan_speech.codec.load import load_codec
    from titan_speech.evaluate.prompt_packs.prompt_pack import read_pack
    from titan_speech.evaluate.recorded_clips import listed_clips, pack_clips

    if (args.listing is None) == (args.pack is None):
        raise DataError("give a listing of wavs (JSONL), or --pack with or without --wavs")
    if args.pack is not None:
        pack = read_pack(args.pack)
        codec = load_codec(args.codec) if args.codec else None
        name = args.pack.name if args.wavs is None else args.wavs.name
        return pack_clips(args.pack, pack, args.set, args.wavs, codec), f"{pack.hash}-{args.set}", name
    clips = listed_clips(Path(args.listing))
    digest = hashlib.sha256()
    for one in clips:
        digest.update(f"{one.prompt_id}\t{one.language}\t{one.text}\n".encode())
        for sound in (one.voice, one.recording):  # what similarity and the ratio of durations compare with
            digest.update(b"" if sound is None or sound.wav_T is None else sound.wav_T.tobytes())
    return clips, digest.hexdigest()[:16], Path(args.listing).stem


def _print_result(result: Result) -> None:
    from titan_speech.evaluate.statistics import intervals

    rows = [
        (
            one.metric, one.language or "all", str(one.num_prompts), str(one.num_missing), _number(one.mean),
            "-" if one.low is None else f"{_number(one.low)} to {_number(one.high)}", _number(one.detectable),
        )
        for one in intervals(result)
        if one.subset == "*"
    ]  # fmt: skip
    _print_table(("metric", "language", "prompts", "missing", "mean", "95 % interval", "detectable"), rows)
    for metric, reasons in result.missing().items():
        for reason, count in sorted(reasons.items(), key=lambda item: -item[1])[:3]:
            print(f"{metric}: {count:,} without a value: {reason}")
    failures = result.failures()
    for prompt_id, reasons in list(failures.items())[:MAX_FAILED_NAMED]:
        print(f"failed: {prompt_id}: {'; '.join(sorted(reasons))}")
    if failures:
        print(f"{len(failures):,} of {len(result.clips):,} clips failed in at least one metric")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from titan_speech.utils.text_table import table_lines

    print("\n".join(table_lines([header, *rows], "<<>")))


_LISTING = Argument(
    "listing", "JSONL of wavs: wav, text, language; voice, recording, subset, prompt_id", nargs="?", type=Path
)
_PACK = Argument("--pack", "score the recordings of this pack, or --wavs for it", type=Path)
_WAVS = Argument("--wavs", "folder of PROMPT_ID.wav, generated for the pack", type=Path)
_SET = Argument("--set", "prompts of the pack (default: full)", choices=("canary", "full"), default="full")

COMMANDS = (
    Command(
        "evaluate",
        "pack",
        "Make a frozen prompt pack from a held-out set, text files and public test sets.",
        "titan-speech evaluate pack --held-out held_out --text hi.numbers.txt --output packs/v1",
        evaluate_pack,
        (
            Argument("--output", "folder to write; must not exist", type=local_folder, required=True),
            Argument("--held-out", "set made by `store held-out`: folder, or s3://bucket/prefix", default=""),
            Argument("--cross-lingual", "also so many texts with a voice of another language", type=natural, default=0),
            list_argument("--text", "JSONL, or LANGUAGE.SUBSET.txt with one prompt per line", type=Path),
            Argument("--layout", "of a public set, given with --from", choices=("seed-tts", "minimax", "emergent")),
            Argument("--from", "file or folder of the public set", type=Path, dest="source"),
            Argument("--language", "of the public set, where it does not say", default=""),
            Argument("--canaries", "of each language and subset (default: 4)", type=positive, default=4),
            Argument("--licence", "of texts and sounds", default=""),
            ENDPOINT_URL,
        ),
    ),
    Command(
        "evaluate",
        "contamination",
        "Report prompts of a pack that training data also has, in text or sound (exit code 1).",
        "titan-speech evaluate contamination stores/train --pack packs/v1 --held-out held_out",
        evaluate_contamination,
        (
            STORES,
            Argument("--pack", "folder of the pack", type=Path, required=True),
            list_argument("--held-out", "sets that training does not read"),
            ENDPOINT_URL,
        ),
    ),
    Command(
        "evaluate",
        "trust",
        "Measure on recordings which recognizer may judge which language.",
        "titan-speech evaluate trust recordings.jsonl --asr models/whisper-large-v3 --output trust.json",
        evaluate_trust,
        (
            _LISTING,
            _PACK,
            _WAVS,
            _SET,
            Argument("--output", "JSON file to write", type=Path, required=True),
            Argument("--codec", "also measure the recordings through this codec", default=""),
            Argument("--max-cer", "upper end of the interval of the CER (default: 0.15)", type=number(0), default=0.15),
            Argument("--min-script", "letters in the right script (default: 0.95)", type=number(0, 1), default=0.95),
            Argument("--min-coverage", "clips that are answered (default: 0.95)", type=number(0, 1), default=0.95),
            Argument("--min-prompts", "recordings of a language (default: 20)", type=positive, default=20),
            *RECOGNIZERS,
        ),
    ),
    Command(
        "evaluate",
        "clips",
        "Score wavs: words, speaker, opinion scores, rate, pauses, pitch, silence (exit code 1 if clips failed).",
        "titan-speech evaluate clips spoken.jsonl --asr models/whisper-large-v3 --trust trust.json --voice resemblyzer "
        "--opinion dnsmos --output result.json",
        evaluate_clips,
        (
            _LISTING,
            _PACK,
            _WAVS,
            _SET,
            Argument("--codec", "codec of the pack's sounds (default: embedded)", default="embedded"),
            Argument("--name", "of the model, for results (default: the name of the listing or folder)", default=""),
            Argument("--output", "JSON file to write", type=Path),
            *SCORERS,
        ),
    ),
    Command(
        "evaluate",
        "compare",
        "Compare two results of one series, paired by prompt; of more, name the best.",
        "titan-speech evaluate compare step-5000.json step-10000.json",
        evaluate_compare,
        (
            Argument("results", "JSON files written by `evaluate clips` or the watcher", nargs="+", type=Path),
            Argument("--by-subset", "also by language and subset", action="store_true"),
            Argument("--best", "name the best of two, too", action="store_true"),
            Argument("--metric", "that decides the best (default: cer)", default="cer"),
            Argument("--higher", "higher is better in --metric", action="store_true"),
            Argument("--then", "metric among results that do not differ significantly, higher is better "
                     "(default: similarity)", default="similarity"),
        ),
    ),
    Command(
        "evaluate",
        "reward-server",
        "Serve the reward of completions on loopback, for alignment.",
        "titan-speech evaluate reward-server --asr models/whisper-large-v3 --trust trust.json --voice resemblyzer "
        "--opinion dnsmos",
        evaluate_reward_server,
        (
            Argument("--codec", "codec of the model (default: embedded)", default="embedded"),
            Argument("--port", "0: any free one (default: 8710)", type=natural, default=8710),
            Argument("--weight-content", "of 1 - CER (default: 0.4)", type=number(0), default=0.4),
            Argument("--weight-similarity", "(default: 0.3)", type=number(0), default=0.3),
            Argument("--weight-mos", "(default: 0.3)", type=number(0), default=0.3),
            *SCORERS,
        ),
    ),
)  # fmt: skip
