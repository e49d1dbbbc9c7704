"""Arguments of `titan-speech text prepare`.

In: words of the command line. Out: a `Job`, run; a few lines on stdout that sum up the report.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from titan_speech.cli.arguments import add_workers, local_folder
from titan_speech.cli.store_build import columns_of
from titan_speech.errors import DataError
from titan_speech.importers.base import ImportOptions
from titan_speech.importers.registry import LAYOUTS, PRESETS
from titan_speech.text_preparation.job import Job, Source, read_job_file
from titan_speech.text_preparation.pipeline import prepare
from titan_speech.text_preparation.report import Tally
from titan_speech.text_preparation.rules import DocumentRules


def add_arguments(parser: argparse.ArgumentParser) -> None:
    one = parser.add_argument_group("one source (several stand as [[source]] tables in --rules)")
    one.add_argument("--from", dest="format", metavar="FORMAT", help="text-jsonl, text-parquet or text-plain")
    one.add_argument("--input", nargs="+", type=Path, default=[], metavar="PATH", help="files and folders")
    one.add_argument(
        "--preset", help=f"columns and licence of {', '.join(PRESETS)}; of plain text also {' or '.join(LAYOUTS)}"
    )
    one.add_argument("--dataset-source", "--source", metavar="NAME", help="where neither rows nor preset say it")
    one.add_argument(
        "--language",
        metavar="TAG",
        help="where neither rows nor preset say it; or auto: as each document is identified",
    )
    one.add_argument("--licence", help="licence, where neither rows nor preset say it")
    one.add_argument(
        "--columns", nargs="+", default=[], metavar="FIELD=COLUMN[,...]", help="where a field is, if not under its name"
    )
    parser.add_argument("--output", type=local_folder, required=True, help="folder that is not there yet")
    parser.add_argument(
        "--tokenizer", type=Path, required=True, help="folder of the tokenizer that lengths are counted with"
    )
    parser.add_argument("--rules", type=Path, metavar="FILE", help="TOML with other limits, and sources")
    add_workers(parser, default=1, said="1")


def run(args: argparse.Namespace) -> None:
    rules, sources = read_job_file(args.rules) if args.rules else (DocumentRules(), ())
    given = args.format is not None or bool(args.input)
    if given == bool(sources):
        said = (
            "both --from/--input and [[source]] tables"
            if given
            else "neither --from with --input nor [[source]] tables"
        )
        raise DataError(f"{said}: name the sources in one of the two ways")
    job = Job(sources or (_source(args),), args.tokenizer, rules)
    tally = prepare(job, args.output, args.workers)
    print(summary(tally, args.output))


def _source(args: argparse.Namespace) -> Source:
    if args.format is None or not args.input:
        raise DataError("--from and --input go together")
    options = ImportOptions(
        inputs=tuple(args.input),
        dataset_source=args.dataset_source,
        language=args.language,
        columns=columns_of(args.columns),
        preset=args.preset,
    )
    return Source(args.format, options, args.licence)


def summary(tally: Tally, output: Path) -> str:
    met, kept = tally.total("met"), tally.total("kept")
    dropped = ", ".join(f"{rule} {count:,}" for rule, count in tally.by_name("dropped").items()) or "none"
    return (
        f"{output}: {kept:,} of {met:,} documents kept, {tally.total('tokens'):,} tokens in "
        f"{len(tally.groups('kept'))} languages\ndropped: {dropped}\nwhy and what: {output / 'report.md'}"
    )
