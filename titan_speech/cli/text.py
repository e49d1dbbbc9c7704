"""`titan-speech text prepare`: clean, deduplicate and filter documents, as input of `store build`.

In: text sources and rules. Out: a folder of documents with a report of what was rejected and why; a summary on
stdout.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from titan_speech.cli.arguments import list_argument, local_folder, max_line_mb, positive
from titan_speech.cli.command import Argument, ArgumentGroup, Command, requires_extra
from titan_speech.cli.store_build import columns_of
from titan_speech.errors import DataError
from titan_speech.importers.limits import ImportLimits
from titan_speech.importers.registry import PRESETS, TEXT_LAYOUTS
from titan_speech.utils.text_table import counted

if TYPE_CHECKING:
    from titan_speech.text_preparation.job import Source
    from titan_speech.text_preparation.report import DocumentCounts


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
        (
            ArgumentGroup(
                "one source (give several as [[source]] tables in the file of --rules)",
                Argument("--from", "text-jsonl, text-parquet or text-plain", dest="format", metavar="FORMAT"),
                list_argument("--input", "files and folders", type=Path, metavar="PATH"),
                Argument(
                    "--preset",
                    f"use the columns and licence of {', '.join(PRESETS)}; for plain text also "
                    f"{' or '.join(TEXT_LAYOUTS)}",
                ),
                Argument(
                    "--dataset-source",
                    "source of rows that name none, if no preset does",
                    other_name="--source",
                    metavar="NAME",
                ),
                Argument(
                    "--language",
                    "language of rows that name none, if no preset does; auto: identify it per document",
                    metavar="TAG",
                ),
                Argument("--licence", "licence of rows that name none, if no preset does"),
                list_argument(
                    "--columns", "column of a field, if it is not named like the field", metavar="FIELD=COLUMN[,...]"
                ),
            ),
            Argument("--output", "output folder; must not exist", type=local_folder, required=True),
            Argument("--tokenizer", "folder of the tokenizer used to count lengths", type=Path, required=True),
            Argument("--rules", "TOML file with other limits, and sources", type=Path, metavar="FILE"),
            max_line_mb("a longer line ends the preparation before it is read"),
            Argument("--workers", "number of processes (default: 1)", type=positive, default=1, metavar="N"),
        ),
    ),
)
