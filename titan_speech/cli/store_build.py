"""`titan-speech store build`: import arrays, WebDataset, MDS, parquet, JSONL, audio or text into a token store.

In: the command line. Out: a `BuildRequest`, carried out; one line about the new store on stdout.
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
    SEED,
    SHARD_MB,
    WORKERS,
    list_argument,
    local_folder_or_s3,
    local_input,
    max_line_mb,
    megabytes,
    number,
    storage_of,
)
from titan_speech.cli.command import Argument, ArgumentGroup, Command, announce
from titan_speech.errors import DataError
from titan_speech.importers.limits import ImportLimits
from titan_speech.importers.registry import IMPORTERS

if TYPE_CHECKING:
    from titan_speech.importers.build import BuildRequest
    from titan_speech.store.manifest import CodecInfo, Manifest


_SHA256 = re.compile("[0-9a-f]{64}")


def store_build(args: argparse.Namespace) -> None:
    announce(f"store build: reading {args.input[0]}{f' and {len(args.input) - 1} more' if args.input[1:] else ''}")

    from titan_speech.importers.build import build_store
    from titan_speech.storage.s3_url import is_s3
    from titan_speech.store.manifest import Totals
    from titan_speech.utils.text_table import counted, hours

    manifest = _build_to_s3(args) if is_s3(args.output) else build_store(_request(args))
    totals = Totals.of(manifest.parts)
    print(
        f"{args.output}: {counted(totals.num_samples, 'sample')}, {totals.num_tokens:,} tokens and "
        f"{totals.num_text_tokens:,} of transcripts in {counted(len(manifest.parts), 'part')}, "
        f"{hours(totals.duration_sec / 3600)}, fingerprint {manifest.fingerprint}"
    )


def _build_to_s3(args: argparse.Namespace) -> Manifest:
    from titan_speech.importers.build import build_to_s3
    from titan_speech.storage.s3_url import S3Url

    request, storage = _request(args), storage_of(args, args.output)
    return build_to_s3(request, S3Url.parse(args.output), Path(args.work_dir), storage)


def _request(args: argparse.Namespace) -> BuildRequest:
    from titan_speech.importers.base import ImportOptions
    from titan_speech.importers.build import BuildRequest
    from titan_speech.importers.sample_filter import SampleFilter

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
        limits=ImportLimits(args.max_member_bytes, args.max_line_bytes, args.max_sample_sec),
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
        num_workers=args.workers or os.cpu_count() or 1,
        filter=SampleFilter(args.max_duration_sec, args.drop_empty_transcripts),
        skip_bad=args.skip_bad,
    )


def _codec(args: argparse.Namespace) -> CodecInfo | None:
    from titan_speech.store.manifest import CodecInfo

    if (args.codec_name is None) != (args.codec_hash is None):
        raise DataError(
            "found only one of --codec-name and --codec-hash; give both: a name alone does not identify the weights"
        )
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
    """Parse `FIELD=COLUMN` pairs, separated by commas or spaces."""
    pairs: dict[str, str] = {}
    for pair in (pair for word in words for pair in word.split(",")):
        field, _, column = pair.partition("=")
        if not field or not column:
            raise DataError(f"--columns {pair!r}: expected FIELD=COLUMN, such as transcript_native=text")
        if field in pairs:
            raise DataError(f"--columns names {field} twice: {pairs[field]} and {column}")
        pairs[field] = column
    return pairs


_INPUT = ArgumentGroup(
    "input",
    Argument("--from", "; ".join(sorted(IMPORTERS)), dest="format", required=True, metavar="FORMAT"),
    list_argument("--input", "files or folders of that format", metavar="PATH", type=local_input, required=True),
    Argument("--split", "split to read, of an input that has several"),
    list_argument(
        "--columns",
        "column of a field: transcript_native=said,speaker_id=spk (default: the column of the field's name; for "
        "transcript_native then text, normalized_text, transcription, transcript, sentence or raw_text; @none: "
        "none)",
        metavar="FIELD=COLUMN[,...]",
    ),
    list_argument(
        "--files-from",
        "folders in which listings may name files, in addition to that of the listing",
        type=local_input,
        metavar="DIR",
    ),
    Argument("--preset", "use the columns of a well-known source: fineweb, culturax, ..."),
    Argument("--dataset-source", "source of samples that name none", other_name="--source", metavar="NAME"),
    Argument("--language", "language of samples that name none (BCP 47)", metavar="TAG"),
    Argument("--llasa-tokenizer", "folder of the tokenizer that made the ids of --from llasa", metavar="DIR"),
    Argument(
        "--codec",
        "codec that encodes --from audio (wav, flac, ogg, opus, mp3, aiff): embedded, or a folder or Hub name of "
        "XCodec2",
        metavar="NAME",
    ),
    Argument("--codes-dtype", "data type of codes stored as bytes: uint16, int32, ...", metavar="TYPE"),
    Argument("--long-audio", "audio above 40 s (default: error)", choices=("error", "split"), default="error"),
)
_LIMITS = ArgumentGroup(
    "limits",
    Argument(
        "--max-sample-sec",
        "speech of one sample (default: 3600)",
        type=number(0),
        metavar="SEC",
        default=ImportLimits.max_sample_sec,
    ),
    max_line_mb("line, JSON text or transcript"),
    Argument(
        "--max-member-mb",
        "members of an archive that belong to one sample, or an MDS shard, decompressed (default: 256)",
        type=megabytes,
        metavar="MB",
        dest="max_member_bytes",
        default=ImportLimits.max_member_bytes,
    ),
    description="what is larger is a bad sample, found before it is read",
)
_OUTPUT = ArgumentGroup(
    "output",
    Argument(
        "--output",
        "output store: a folder, or s3://bucket/prefix",
        type=local_folder_or_s3,
        required=True,
        metavar="PATH",
    ),
    Argument("--tokenizer", "folder of the backbone's tokenizer", required=True, metavar="DIR"),
    Argument("--name", "name of the store, for readers", required=True),
    Argument("--licence", "licence of the data", required=True),
    Argument("--codec-name", "codec of the codes, for formats that do not record it"),
    Argument("--codec-hash", "sha256 of its weights, 64 digits: stores of different hashes never mix"),
    Argument("--normalize", "normalize text first (Unicode NFC, ...)", action="store_true"),
    Argument("--max-duration-sec", "leave out speech that is longer (default: keep it)", type=float, metavar="SEC"),
    Argument(
        "--drop-empty-transcripts",
        "leave out speech without a transcript, or with one that has no letter or digit",
        action="store_true",
    ),
    SEED,
    SHARD_MB,
)
_EXECUTION = ArgumentGroup(
    "execution",
    Argument(
        "--unit-mb",
        "size of the part of a large array that is imported at a time (default: 256)",
        dest="unit_bytes",
        type=megabytes,
        metavar="MB",
        default=256 * MB,
    ),
    Argument("--work-dir", "local folder to build a store for s3:// in (default: .)", default=".", metavar="DIR"),
    ENDPOINT_URL,
    WORKERS,
    list_argument("--require-transcript", "refuse speech without: native, ...", metavar="VARIANT"),
    Argument("--skip-bad", "skip bad and silent samples, and count them in build_report.json", action="store_true"),
)

COMMANDS = (
    Command(
        "store",
        "build",
        "Build a token store from arrays, WebDataset, MDS, parquet, JSONL, audio or text.",
        "titan-speech store build --from inworld --input vectorized --dataset-source podcasts --output stores/podcasts "
        "--tokenizer tokenizer/tiny --name podcasts --licence CC-BY-4.0 --codec-name xcodec2 --codec-hash HASH",
        store_build,
        (_INPUT, _LIMITS, _OUTPUT, _EXECUTION),
    ),
)
