"""Types of command-line arguments, and arguments that several commands take.

In: a word of the command line. Out: its value, or an `argparse.ArgumentTypeError` that says what was found and what was
expected.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from titan_speech.cli.command import Argument
from titan_speech.importers.limits import ImportLimits

if TYPE_CHECKING:
    from titan_speech.config.schema_data import StorageConfig
    from titan_speech.evaluate.scorer_choice import ScorerChoice
    from titan_speech.generate.sampling import Decoding

MB = 1 << 20
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_S3 = "s3://"


def whole_number(least: int) -> Callable[[str], int]:
    """The type of a whole number of at least `least`, also written 1_000 or 1e9."""

    def parse(text: str) -> int:
        try:
            value = int(text) if "e" not in text.lower() else float(text)
        except ValueError:
            value = -1
        if not value >= least or value % 1:  # infinity and NaN too
            raise argparse.ArgumentTypeError(f'found "{text}", expected a whole number of at least {least}')
        return int(value)

    return parse


natural, positive, several = whole_number(0), whole_number(1), whole_number(2)


def number(least: float, most: float = math.inf) -> Callable[[str], float]:
    """The type of a finite number from `least` to `most`."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most or math.isinf(value):
            raise argparse.ArgumentTypeError(
                f'found "{text}", expected a number from {least:g}{"" if math.isinf(most) else f" to {most:g}"}'
            )
        return value

    return parse


not_negative = number(0)


def megabytes(text: str) -> int:
    """The bytes in a number of MB."""
    return int(not_negative(text) * MB)


def naturals(text: str) -> tuple[int, ...]:
    """Whole numbers and ranges, both ends included, separated by commas: 0,4-6."""
    return tuple(value for part in text.split(",") for value in _naturals(part))


def _naturals(part: str) -> range:
    first, _, last = part.partition("-")
    values = range(natural(first), natural(last or first) + 1)
    if not values:
        raise argparse.ArgumentTypeError(f'found "{part}", expected a range whose end is not before its begin')
    return values


def local_file(text: str) -> str:
    """The path of a file that exists."""
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f'found no file "{text}", expected the path of a file')
    return text


def _local(expected: str) -> Callable[[str], Path]:
    """The type of a local path; an address would become a folder called `s3:`."""

    def parse(text: str) -> Path:
        if _SCHEME.match(text):
            raise argparse.ArgumentTypeError(f'found "{text}", expected {expected}')
        return Path(text)

    return parse


local_folder = _local("a local folder; titan-speech store push FOLDER s3://bucket/prefix uploads a finished store")
local_input = _local("a local file or folder; download it first")
local_store = _local("the local folder of a token store; titan-speech store pull downloads one")
local_path = _local(
    "a local path; titan-speech checkpoint list shows what is at an address, checkpoint pull downloads and verifies it"
)


def local_folder_or_s3(text: str) -> str:
    """A local folder, or an address in object storage."""
    if _SCHEME.match(text) and not text.startswith(_S3):
        raise argparse.ArgumentTypeError(
            f'found "{text}", expected a local folder or s3://bucket/prefix{_suggestion(text)}'
        )
    return text


def s3_address(text: str) -> str:
    """An address in object storage."""
    if not text.startswith(_S3):
        raise argparse.ArgumentTypeError(f'found "{text}", expected s3://bucket/prefix{_suggestion(text)}')
    return text


def _suggestion(text: str) -> str:
    """The end of an error message: the address that was probably meant."""
    scheme, _, rest = text.partition(":/")
    is_likely = scheme.lower() in ("s3", "s3a", "s3n", "r2") and rest.strip("/")
    return f"; did you mean {_S3}{rest.lstrip('/')}?" if is_likely else ""


def list_argument(name: str, help: str, **options: Any) -> Argument:
    """An option of one value or more, which may be given more than once."""
    return Argument(name, help, nargs="+", action="extend", default=[], **options)


def max_line_mb(what: str) -> Argument:
    """The option that limits what `what` says."""
    default = ImportLimits.max_line_bytes
    return Argument(
        "--max-line-mb",
        f"{what} (default: {default // MB})",
        type=megabytes,
        metavar="MB",
        dest="max_line_bytes",
        default=default,
    )


ENDPOINT_URL = Argument(
    "--endpoint-url", "server of s3:// addresses, if it is not Amazon's (default: AWS_ENDPOINT_URL)", default=""
)
SHARD_MB = Argument(
    "--shard-mb",
    "size of a shard in MB (default: 128)",
    dest="shard_bytes",
    type=megabytes,
    metavar="MB",
    default=128 * MB,
)
WORKERS = Argument("--workers", "number of processes (default: one per core)", type=positive, metavar="N")
STORES = Argument("stores", "token stores: folders, or s3://bucket/prefix", nargs="+", type=local_folder_or_s3)
CODEC = Argument("--codec", "codec name or path (default: embedded)", default="embedded")
TOP_K = Argument("--top-k", "sample from this many most likely tokens (default: 50)", type=positive, default=50)
MIN_SEC = Argument("--min-sec", "minimum duration in seconds (default: 0)", type=not_negative, default=0.0)
SEED = Argument("--seed", "random seed (default: 0)", type=natural, default=0)


def max_sec(default: float) -> Argument:
    """The longest speech that is generated."""
    text = f"maximum duration in seconds (default: {default:g})"
    return Argument("--max-sec", text, type=number(0.02), default=default)


def decoding_of(args: argparse.Namespace, codes_per_sec: float) -> Decoding:
    """The sampling parameters of --temperature, --top-k, --max-sec, --seed and, where a command has it, --min-sec."""
    from titan_speech.generate.sampling import Decoding

    return Decoding(
        temperature=args.temperature,
        top_k=args.top_k,
        min_codes=max(1, round(getattr(args, "min_sec", 0) * codes_per_sec)),
        max_codes=max(1, round(args.max_sec * codes_per_sec)),
        seed=args.seed,
    )


def storage_of(args: argparse.Namespace, *places: object) -> StorageConfig:
    """The storage settings of `--endpoint-url`.

    Raises:
        DataError: one of `places` is an address and its server cannot be reached.
    """
    from titan_speech.config.schema_data import StorageConfig

    storage = StorageConfig(endpoint_url=args.endpoint_url)
    if any(str(place).startswith("s3:") for place in places):
        from titan_speech.storage.connect import check_reachable  # boto3 takes 0.2 s to import

        check_reachable(storage, map(str, places))
    return storage


LIMIT_SEC = 120.0

RECOGNIZERS = (
    Argument(
        "--asr",
        "recognizer: a folder of faster-whisper or transformers, or a hub id; may be given several times",
        action="append",
        default=[],
        metavar="MODEL",
    ),
    Argument("--spellings", "file of accepted spellings", type=Path, metavar="FILE"),
    Argument(
        "--numerals", "numbers as words or as digits (default: words)", default="words", choices=("words", "digits")
    ),
    Argument("--device", "device of the models (default: cpu)", default="cpu"),
    Argument(
        "--limit-sec",
        f"longest time of a model for one clip; then the clip is marked (default: {LIMIT_SEC:g})",
        type=number(1.0),
        default=LIMIT_SEC,
    ),
)
SCORERS = (
    *RECOGNIZERS,
    Argument(
        "--trust",
        "trust table of the recognizers (titan-speech evaluate trust); needed with --asr",
        type=Path,
        metavar="FILE",
    ),
    Argument("--voice", "speaker encoder: resemblyzer, a folder or a hub id", default="", metavar="MODEL"),
    Argument(
        "--opinion",
        "naturalness: dnsmos, or a TorchScript file; may be given several times",
        action="append",
        default=[],
        metavar="MODEL",
    ),
)


def choice_of(args: argparse.Namespace) -> ScorerChoice:
    """The choice that the arguments of `SCORERS`, or of `RECOGNIZERS` alone, make."""
    from titan_speech.evaluate.scorer_choice import ScorerChoice

    return ScorerChoice(
        asr=tuple(args.asr),
        trust=getattr(args, "trust", None),
        voice=getattr(args, "voice", ""),
        opinion=tuple(getattr(args, "opinion", ())),
        spellings=args.spellings,
        numerals=args.numerals,
        device=args.device,
        limit_sec=args.limit_sec,
    )
