"""`titan-speech store audit`: its arguments, and what it prints.

In: words. Out: an HTML page, JSON if asked for, one line a language on stdout, and whether all is within thresholds.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path

from titan_speech.audit.page import page
from titan_speech.audit.report import AuditReport, CheckResult, LanguageReport, audit, percent, to_json
from titan_speech.audit.rules import RULES, Thresholds, read_thresholds
from titan_speech.audit.sample import choose
from titan_speech.audit.sound import AUTO, open_sound
from titan_speech.cli.arguments import ENDPOINT_URL, local_folder_or_s3, natural, positive, storage_of
from titan_speech.errors import DataError
from titan_speech.store.reader import check_tokenizer, open_store
from titan_speech.tokenization.text_tokenizer import TextTokenizer
from titan_speech.tokenization.vocabulary import NUM_CODES
from titan_speech.utils.progress import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", type=local_folder_or_s3, help="folder of a token store, or s3://bucket/prefix")
    ENDPOINT_URL.add_to(parser)
    parser.add_argument("--samples", type=positive, default=10_000, help="how many to look at (default: 10000)")
    parser.add_argument("--seed", type=natural, default=0, help="of the draw (default: 0)")
    parser.add_argument("--output", type=Path, default=Path("audit.html"), help="the page (default: audit.html)")
    parser.add_argument("--json", type=Path, help="the same as JSON")
    parser.add_argument("--tokenizer", help="folder of the store's tokenizer: checks the ids, shows text-only parts")
    parser.add_argument(
        "--codec",
        default=AUTO,
        help="what decodes the samples to listen to: embedded, none, or a codec's path (default: the embedded codec if "
        "the store is its)",
    )
    parser.add_argument(
        "--listen",
        type=natural,
        default=5,
        help="random samples per language in the page (default: 5; 100 is a full check, some 0.2 MB for each 10 s)",
    )
    parser.add_argument("--num-codes", type=positive, default=NUM_CODES, help="entries of the codec's codebook (65536)")
    parser.add_argument("--thresholds", type=Path, help="TOML of largest shares by check, also by language")
    shares = parser.add_argument_group("largest share of the samples of a language, 0 to 1")
    for rule in RULES:
        default = f"{rule.max_share:g}"
        shares.add_argument(
            f"--max-{rule.name}",
            type=_share,
            metavar="SHARE",
            help=f"{rule.finds} (default: {default})".replace("%", "%%"),
        )


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f'"{text}" is no share from 0 to 1')
    return value


def run(args: argparse.Namespace) -> bool:
    """True when every language is within the thresholds."""
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
    with Progress(f"audit page {args.output}", report.num_shown, "samples") as shown:
        _write(args.output, page(report, sound, lambda: shown.add(1)))
    if args.json is not None:
        _write(args.json, [to_json(report)])
    for line in report_lines(report, args.output):
        print(line)
    return report.is_good


def _options(args: argparse.Namespace) -> dict[str, float]:
    given = {rule.name: getattr(args, f"max_{rule.name.replace('-', '_')}") for rule in RULES}
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
    """Whole or not at all."""
    unfinished = path.with_name(f"{path.name}.tmp")
    try:
        with open(unfinished, "w", encoding="utf-8") as file:
            file.writelines(pieces)
        unfinished.replace(path)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def report_lines(report: AuditReport, output: Path) -> Iterator[str]:
    yield f"{report.store.path}: {report.num_samples:,} of {report.num_stored:,} samples, seed {report.seed}"
    for line in report.not_checked:
        yield f"  not checked: {line}"
    for language in report.languages:
        yield _language_line(language)
    bad = [language.language for language in report.languages if language.too_much]
    yield f"above thresholds in {', '.join(bad)}" if bad else "within thresholds"
    yield f"page: {output}"


def _language_line(language: LanguageReport) -> str:
    found = ", ".join(_found(result) for result in language.results if result.num_found) or "nothing found"
    return f"  {language.language:<8} {language.verdict:<12}{language.num_samples:>7,} samples  {found}"


def _found(result: CheckResult) -> str:
    above = f", above {percent(result.max_share)}" if result.is_too_much else ""
    return f"{result.rule.name} {result.num_found} of {result.num_checked} ({percent(result.share)}{above})"
