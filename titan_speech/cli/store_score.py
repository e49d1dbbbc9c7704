"""`titan-speech store score`: scores of samples that `[[data.source]] where` can ask for."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import TYPE_CHECKING

from titan_speech.cli.arguments import SCORERS, choice_of, list_argument, local_store
from titan_speech.cli.command import Argument, Command, announce, requires_extra
from titan_speech.utils.printable import one_line
from titan_speech.utils.text_table import counted, table_lines

if TYPE_CHECKING:
    from titan_speech.evaluate.store_scores import ScoredPart


def store_score(args: argparse.Namespace) -> None:
    announce(f"store score: scoring {args.path}")
    with requires_extra("text"):
        from titan_speech.codec.load import load_codec
        from titan_speech.evaluate.scorer_choice import open_scorers
        from titan_speech.evaluate.store_scores import score_store

    def report(part: ScoredPart) -> None:
        state = "scored" if part.num_values else "has these scores"
        print(f"{part.name}: {state}, {counted(part.num_samples, 'sample')}", flush=True)
        for name, scorer in part.other_scorers.items():
            print(f"  {name} is by {one_line(scorer)}; to compute it again, delete scores/{part.name}.parquet")

    codec = load_codec(args.codec)
    with requires_extra("eval"), open_scorers(choice_of(args)) as (scorers, _):
        parts = score_store(args.path, codec, scorers, args.datasets, report)
    print("\n".join(_lines(parts)))


def _lines(parts: list[ScoredPart]) -> list[str]:
    """Samples with a value, by language and metric."""
    counts: dict[str, Counter[str]] = {}
    for part in parts:
        counts.setdefault(part.language, Counter()).update(part.num_values)
    names = [
        name
        for name in dict.fromkeys(name for found in counts.values() for name in found)
        if any(found[name] for found in counts.values())
    ]
    if not names:
        return ["nothing was left to score"]
    rows = [[language, *(f"{found[name]:,}" for name in names)] for language, found in sorted(counts.items())]
    return ["samples with a score:", *table_lines([["language", *names], *rows], "<>")]


COMMANDS = (
    Command(
        "store",
        "score",
        'Score the speech of a store, for conditions such as where = "dnsmos >= 3.2 and cps < 25".',
        "titan-speech store score stores/studio --opinion dnsmos",
        store_score,
        (
            Argument("path", "folder of a token store", type=local_store),
            Argument("--codec", "that made its codes (default: embedded)", default="embedded"),
            list_argument("--datasets", "only these sources of the store"),
            *SCORERS,
        ),
    ),
)
