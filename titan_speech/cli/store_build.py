"""`titan-speech store build`: what it takes, and how the words become a request.

In: words. Out: a built store and one line on stdout. Heavy rooms are imported when the build runs, so that `--help`
stays quick.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from titan_speech.cli.arguments import (
    ENDPOINT_URL,
    MB,
    add_shard_mb,
    add_workers,
    local_folder_or_s3,
    local_input,
    megabytes,
    natural,
    storage_of,
)
from titan_speech.errors import DataError

if TYPE_CHECKING:
    from titan_speech.importers.build import BuildRequest
    from titan_speech.store.manifest import CodecInfo, Manifest


_SHA256 = re.compile("[0-9a-f]{64}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what is read")
    what.add_argument("--from", dest="format", required=True, metavar="FORMAT", help="; ".join(_formats()))
    what.add_argument(
        "--input", type=local_input, nargs="+", required=True, metavar="PATH", help="files or folders of that format"
    )
    what.add_argument("--split", help="which split of an input that has several")
    what.add_argument(
        "--columns",
        nargs="+",
        default=[],
        metavar="FIELD=COLUMN[,...]",
        help="where a field of a sample is found, if not under its own name: transcript_native=text,speaker_id=spk",
    )
    what.add_argument(
        "--files-from",
        type=local_input,
        nargs="+",
        default=[],
        metavar="DIR",
        help="listings may name files in these folders too, not only in their own",
    )
    what.add_argument("--preset", help="named set of columns of a well-known source")
    what.add_argument("--dataset-source", "--source", metavar="NAME", help="for samples without a source of their own")
    what.add_argument("--language", metavar="TAG", help="for samples without a language of their own (BCP 47)")
    what.add_argument("--llasa-tokenizer", metavar="DIR", help="--from llasa: the tokenizer its ids were made with")
    what.add_argument("--codec", metavar="NAME", help="encodes audio, for formats that hold audio")
    what.add_argument("--codes-dtype", metavar="TYPE", help="of codes kept as bytes: uint16, int32, uint32 or int64")
    what.add_argument("--long-audio", choices=("error", "split"), default="error", help="above 40 s (default: error)")
    which = parser.add_argument_group("what is written")
    which.add_argument(
        "--output",
        type=local_folder_or_s3,
        required=True,
        metavar="PATH",
        help="the store to be: a folder, or s3://bucket/prefix",
    )
    which.add_argument("--tokenizer", required=True, metavar="DIR", help="tokenizer of the backbone")
    which.add_argument("--name", required=True, help="name of the store, for people")
    which.add_argument("--licence", required=True, help="licence of the data")
    which.add_argument("--codec-name", help="codec of the codes, for formats that do not say it")
    which.add_argument("--codec-hash", help="sha256 of its weights, 64 digits: stores of different hashes never mix")
    which.add_argument("--normalize", action="store_true", help="bring texts into their one form first")
    which.add_argument("--seed", type=natural, default=0, help="of the order of samples in the store (default: 0)")
    add_shard_mb(which)
    how = parser.add_argument_group("how")
    how.add_argument(
        "--unit-mb",
        dest="unit_bytes",
        type=megabytes,
        metavar="MB",
        default=256 * MB,
        help="of large arrays, imported at a time (default: 256)",
    )
    how.add_argument("--work-dir", default=".", metavar="DIR", help="where a store for s3:// is built (default: here)")
    ENDPOINT_URL.add_to(how)
    add_workers(how, default=os.cpu_count() or 1)
    how.add_argument(
        "--require-transcript", nargs="+", default=[], metavar="VARIANT", help="refuse speech without: native, ..."
    )
    how.add_argument(
        "--skip-bad", action="store_true", help="leave bad samples out and count them in build_report.json"
    )


def run(args: argparse.Namespace) -> None:
    from titan_speech.importers.build import build_store
    from titan_speech.storage.s3_url import is_s3
    from titan_speech.store.manifest import Totals

    manifest = _build_to_s3(args) if is_s3(args.output) else build_store(_request(args))
    totals = Totals.of(manifest.parts)
    print(
        f"{args.output}: {totals.num_samples:,} samples, {totals.num_tokens:,} tokens and {totals.num_text_tokens:,} "
        f"of transcripts in {len(manifest.parts)} parts, {totals.duration_sec / 3600:,.2f} h, "
        f"fingerprint {manifest.fingerprint}"
    )


def _build_to_s3(args: argparse.Namespace) -> Manifest:
    from titan_speech.importers.build import build_to_s3
    from titan_speech.storage.s3_url import S3Url

    request, storage = _request(args), storage_of(args, args.output)
    return build_to_s3(request, S3Url.parse(args.output), Path(args.work_dir), storage)


def _request(args: argparse.Namespace) -> BuildRequest:
    from titan_speech.importers.base import ImportOptions
    from titan_speech.importers.build import BuildRequest

    options = ImportOptions(
        inputs=tuple(args.input),
        dataset_source=args.dataset_source,
        language=args.language,
        columns=columns_of(args.columns),
        files_from=tuple(args.files_from),
        preset=args.preset,
        split=args.split,
        codec=args.codec,
        codes_dtype=args.codes_dtype,
        long_audio=args.long_audio,
        unit_bytes=max(1, args.unit_bytes),
        llasa_tokenizer=Path(args.llasa_tokenizer) if args.llasa_tokenizer else None,
    )
    return BuildRequest(
        format=args.format,
        options=options,
        output=Path(args.output),
        tokenizer=Path(args.tokenizer),
        name=args.name,
        licence=args.licence,
        codec=_codec(args),
        normalize=args.normalize,
        seed=args.seed,
        shard_bytes=args.shard_bytes,
        required_transcripts=_variants(args.require_transcript),
        num_workers=args.workers,
        skip_bad=args.skip_bad,
    )


def _formats() -> list[str]:
    from titan_speech.importers.registry import IMPORTERS

    return sorted(IMPORTERS)


def _codec(args: argparse.Namespace) -> CodecInfo | None:
    from titan_speech.store.manifest import CodecInfo

    if (args.codec_name is None) != (args.codec_hash is None):
        raise DataError("--codec-name and --codec-hash go together: a name alone does not say which weights")
    if args.codec_name is None:
        return None
    if not _SHA256.fullmatch(args.codec_hash):
        print(
            f"warning: --codec-hash is {args.codec_hash!r}; expected the whole sha256 of the codec's weights, 64 "
            "digits 0-9a-f as sha256sum prints it: a shorter one never equals that of the same codec in other stores",
            file=sys.stderr,
        )
    return CodecInfo(args.codec_name, args.codec_hash)


def _variants(words: list[str]) -> tuple[str, ...]:
    from titan_speech.store.sample import SPEECH_VARIANTS

    names = tuple(name for word in words for name in word.split(","))
    for name in names:
        if name not in SPEECH_VARIANTS:
            raise DataError(f"--require-transcript {name!r}: expected one of {', '.join(SPEECH_VARIANTS)}")
    return names


def columns_of(words: list[str]) -> dict[str, str]:
    """`FIELD=COLUMN`, separated by commas or spaces."""
    pairs: dict[str, str] = {}
    for pair in (pair for word in words for pair in word.split(",")):
        field, _, column = pair.partition("=")
        if not field or not column:
            raise DataError(f"--columns {pair!r}: expected FIELD=COLUMN, such as transcript_native=text")
        if field in pairs:
            raise DataError(f"--columns names {field} twice: {pairs[field]} and {column}")
        pairs[field] = column
    return pairs
