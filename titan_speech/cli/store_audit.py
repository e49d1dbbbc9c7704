"""`titan-speech store audit`: check samples of every language of a token store.

In: a store and thresholds. Out: an HTML page to read and listen to, JSON on request, one line per language on stdout,
and exit code 1 if a language is above a threshold.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from titan_speech.audit.rules import AUDIT_RULES, Rule, Thresholds, read_thresholds
from titan_speech.cli.arguments import ENDPOINT_URL, SEED, local_folder_or_s3, natural, number, positive, storage_of
from titan_speech.cli.command import Argument, ArgumentGroup, Command, announce
from titan_speech.errors import DataError
from titan_speech.exit_codes import EXIT_DONE, EXIT_FOUND_WRONG
from titan_speech.utils.progress import Progress
from titan_speech.utils.safe_path import create_without_link
from titan_speech.utils.text_table import counted

if TYPE_CHECKING:
    from titan_speech.audit.report import AuditReport, CheckResult, LanguageReport


def store_audit(args: argparse.Namespace) -> int:
    announce(f"store audit: checking {args.store}")

    from titan_speech.audit.check_samples import audit
    from titan_speech.audit.choose_samples import choose
    from titan_speech.audit.page import page
    from titan_speech.audit.reencode import chosen_codes, reencode
    from titan_speech.audit.report import to_json
    from titan_speech.audit.sound import open_sound
    from titan_speech.store.reader import check_tokenizer, open_store
    from titan_speech.tokenization.text_tokenizer import TextTokenizer

    thresholds = read_thresholds(args.thresholds, _options(args))
    for path in filter(None, (args.output, args.json)):
        _check_writable(path)
    store = open_store(args.store, storage_of(args, args.store))
    tokenizer = TextTokenizer.load(args.tokenizer) if args.tokenizer else None
    if tokenizer is not None:
        check_tokenizer(store, tokenizer)
    sound = open_sound(args.codec, store)
    parts = choose(store, args.samples, args.seed)
    _check_languages(thresholds, {part.part.language for part in parts}, args.thresholds)
    with Progress(f"audit {args.store}", sum(part.num_samples for part in parts), "samples") as read:
        report = audit(
            store,
            parts,
            tokenizer,
            thresholds,
            seed=args.seed,
            num_codes=args.num_codes,
            num_random=args.listen,
            on_read=lambda: read.add(1),
        )
    if sound.codec is not None and args.listen and (codes := chosen_codes(parts)):
        announce(f"store audit: decoding and encoding codes of {args.store}")
        report = replace(report, reencoded=reencode(sound.codec, codes))
    with Progress(f"audit page {args.output}", report.num_shown, "samples") as shown:
        _write(args.output, page(report, sound, lambda: shown.add(1)))
    if args.json is not None:
        _write(args.json, [to_json(report)])
    for line in _report_lines(report, args.output):
        print(line)
    return EXIT_DONE if report.is_good else EXIT_FOUND_WRONG


def _max_share(rule: Rule) -> Argument:
    text = f"{rule.finds} (default: {rule.max_share:g})".replace("%", "%%")
    return Argument(f"--max-{rule.name}", text, type=number(0, 1), metavar="SHARE")


def _options(args: argparse.Namespace) -> dict[str, float]:
    given = {rule.name: getattr(args, f"max_{rule.name.replace('-', '_')}") for rule in AUDIT_RULES}
    return {name: share for name, share in given.items() if share is not None}


def _check_writable(path: Path) -> None:
    if path.is_dir():
        raise DataError(f"{path} is a folder; expected the path of a file to write")
    if not path.parent.is_dir():
        raise DataError(f"{path} cannot be written: the folder {path.parent} does not exist; make it first")


def _check_languages(thresholds: Thresholds, languages: set[str], file: Path | None) -> None:
    unknown = sorted(set(thresholds.of_language) - languages)
    if unknown:
        raise DataError(
            f"{file}: the store has no language {unknown[0]!r}; it has {', '.join(sorted(languages))}; remove "
            f"[language.{unknown[0]}]"
        )


def _write(path: Path, pieces: Iterable[str]) -> None:
    """Write a file completely or not at all; the page is never in memory as a whole."""
    unfinished = path.with_name(f"{path.name}.tmp")
    try:
        with open(create_without_link(unfinished), "w", encoding="utf-8") as file:
            file.writelines(pieces)
        unfinished.replace(path)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def _report_lines(report: AuditReport, output: Path) -> Iterator[str]:
    yield f"{report.store.path}: {report.num_samples:,} of {counted(report.num_stored, 'sample')}, seed {report.seed}"
    yield f"  {report.num_run} of {len(AUDIT_RULES)} checks ran"
    for each in report.not_run:
        yield f"  not checked: {each}"
    if report.reencoded is not None:
        yield f"  codec: {report.reencoded}"
    for language in report.languages:
        yield _language_line(language)
    yield report.summary
    yield f"page: {output}"


def _language_line(language: LanguageReport) -> str:
    found = ", ".join(_found(result) for result in language.results if result.num_found) or "nothing found"
    return f"  {language.language:<8} {language.verdict:<16}{language.num_samples:>7,} samples  {found}"


def _found(result: CheckResult) -> str:
    from titan_speech.audit.report import percent

    above = f", above {percent(result.max_share)}" if result.is_above_threshold else ""
    return f"{result.rule.name} {result.num_found} of {result.num_checked} ({percent(result.share)}{above})"


COMMANDS = (
    Command(
        "store",
        "audit",
        "Check samples of every language and write a page to read and listen to; exit code 1 above a threshold.",
        "titan-speech store audit demo_data --tokenizer tokenizer/tiny --output audit.html",
        store_audit,
        (
            Argument("store", "folder of a token store, or s3://bucket/prefix", type=local_folder_or_s3),
            ENDPOINT_URL,
            Argument("--samples", "number of samples to check (default: 10000)", type=positive, default=10_000),
            SEED,
            Argument("--output", "HTML page to write (default: audit.html)", type=Path, default=Path("audit.html")),
            Argument("--json", "also write the report as JSON to this file", type=Path),
            Argument("--tokenizer", "folder of the store's tokenizer, to check token ids and show text-only parts"),
            Argument(
                "--codec",
                "codec that decodes the samples to listen to: embedded, none, or a path (default: the embedded codec "
                "if the store was made with it)",
                default="auto",
            ),
            Argument(
                "--listen",
                "random samples per language on the page (default: 5; 100 is a full check, 0.2 MB per 10 s of audio)",
                type=natural,
                default=5,
            ),
            Argument("--num-codes", "size of the codec's codebook (default: 65536)", type=positive, default=65_536),
            Argument("--thresholds", "TOML file of maximum shares per check, and per language", type=Path),
            ArgumentGroup("maximum share of the samples of a language, 0 to 1", *map(_max_share, AUDIT_RULES)),
        ),
    ),
)
