"""`titan-speech text prepare`: clean, deduplicate and filter documents, as input of `store build`.

In: text sources and rules. Out: a folder of documents with a report of what was rejected and why; a summary on
stdout.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from titan_speech.cli.arguments import local_folder, megabytes, positive
from titan_speech.cli.command import Command, requires_extra
from titan_speech.cli.store_build import columns_of
from titan_speech.errors import DataError
from titan_speech.importers.limits import ImportLimits
from titan_speech.importers.registry import LAYOUTS, PRESETS
from titan_speech.utils.text_table import counted

if TYPE_CHECKING:
    from titan_speech.text_preparation.job import Source
    from titan_speech.text_preparation.report import DocumentCounts


def text_prepare_arguments(parser: argparse.ArgumentParser) -> None:
    one = parser.add_argument_group("one source (give several as [[source]] tables in the file of --rules)")
    one.add_argument("--from", dest="format", metavar="FORMAT", help="text-jsonl, text-parquet or text-plain")
    one.add_argument(
        "--input", nargs="+", action="extend", type=Path, default=[], metavar="PATH", help="files and folders"
    )
    one.add_argument(
        "--preset",
        help=f"use the columns and licence of {', '.join(PRESETS)}; for plain text also {' or '.join(LAYOUTS)}",
    )
    one.add_argument(
        "--dataset-source", "--source", metavar="NAME", help="source of rows that name none, if no preset does"
    )
    one.add_argument(
        "--language",
        metavar="TAG",
        help="language of rows that name none, if no preset does; auto: identify it per document",
    )
    one.add_argument("--licence", help="licence of rows that name none, if no preset does")
    one.add_argument(
        "--columns",
        nargs="+",
        action="extend",
        default=[],
        metavar="FIELD=COLUMN[,...]",
        help="column of a field, if it is not named like the field",
    )
    parser.add_argument("--output", type=local_folder, required=True, help="output folder; must not exist")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of the tokenizer used to count lengths")
    parser.add_argument("--rules", type=Path, metavar="FILE", help="TOML file with other limits, and sources")
    parser.add_argument(
        "--max-line-mb",
        type=megabytes,
        metavar="MB",
        dest="max_line_bytes",
        default=ImportLimits.max_line_bytes,
        help="a longer line ends the preparation before it is read (default: 16)",
    )
    parser.add_argument("--workers", type=positive, default=1, metavar="N", help="number of processes (default: 1)")


def text_prepare(args: argparse.Namespace) -> None:
    with requires_extra("text"):
        from titan_speech.text_preparation.job import Job, read_job_file
        from titan_speech.text_preparation.pipeline import prepare
        from titan_speech.text_preparation.rules import DocumentRules

    rules, sources = read_job_file(args.rules) if args.rules else (DocumentRules(), ())
    is_source_given = args.format is not None or bool(args.input)
    if is_source_given == bool(sources):
        found = (
            "both --from/--input and [[source]] tables"
            if is_source_given
            else "neither --from with --input nor [[source]] tables"
        )
        raise DataError(f"found {found}; name the sources in exactly one of the two ways")
    limits = ImportLimits(max_line_bytes=args.max_line_bytes)
    job = Job(tuple(one.with_limits(limits) for one in sources or (_source(args),)), args.tokenizer, rules)
    counts = prepare(job, args.output, args.workers)
    print(_summary(counts, args.output))


def _source(args: argparse.Namespace) -> Source:
    from titan_speech.importers.base import ImportOptions
    from titan_speech.text_preparation.job import Source

    if args.format is None or not args.input:
        raise DataError("found only one of --from and --input; give both")
    options = ImportOptions(
        inputs=tuple(args.input),
        dataset_source=args.dataset_source,
        language=args.language,
        columns=columns_of(args.columns),
        preset=args.preset,
    )
    return Source(args.format, options, args.licence)


def _summary(counts: DocumentCounts, output: Path) -> str:
    met, kept = counts.total("met"), counts.total("kept")
    rejected = ", ".join(f"{rule} {count:,}" for rule, count in counts.by_name("dropped").items()) or "none"
    return (
        f"{output}: {kept:,} of {met:,} documents kept, {counted(counts.total('tokens'), 'token')} in "
        f"{counted(len(counts.groups('kept')), 'language')}\nrejected: {rejected}\ndetails: {output / 'report.md'}"
    )


COMMANDS = (
    Command(
        "text",
        "prepare",
        "Clean, deduplicate and filter documents, and report what was rejected and why; the output feeds store build.",
        "titan-speech text prepare --from text-parquet --preset fineweb --input fineweb/ --output prepared/fineweb "
        "--tokenizer tokenizer/tiny --workers 16",
        text_prepare,
        add_arguments=text_prepare_arguments,
    ),
)
