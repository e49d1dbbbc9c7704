"""Arguments by which commands choose the models that score, and their value."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from titan_speech.cli.arguments import number
from titan_speech.cli.command import Argument

if TYPE_CHECKING:
    from titan_speech.evaluate.choice import ScorerChoice

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
    from titan_speech.evaluate.choice import ScorerChoice

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
