"""`titan-speech doctor CONFIG`: the pre-flight of a run.

In: a configuration. Out: a table of pass, warn and fail with what to do; exit code 1 if a check failed.
"""

from __future__ import annotations

import argparse
import sys

from titan_speech.cli.arguments import number, positive
from titan_speech.cli.command import Argument, Command, announce
from titan_speech.cli.train import num_gpus
from titan_speech.estimate.devices import DEVICES
from titan_speech.exit_codes import EXIT_DONE, EXIT_FOUND_WRONG
from titan_speech.utils.printable import one_line

SKIPPABLE_CHECKS = ("audit", "estimate", "overfit", "throughput")


def doctor(args: argparse.Namespace) -> int:
    """Check after check, each named on stderr when it begins, since some take minutes, and when it ends."""
    announce(f"doctor: examining {args.config}, at most {args.minutes:g} minutes")
    from titan_speech.doctor.examination import CHECKS, Request, examine
    from titan_speech.doctor.outcome import as_json, is_ready, table

    request = Request(
        words=args.config_words,
        name=args.config,
        world_size=args.world_size,
        num_gpus=num_gpus(),
        gpu=args.gpu,
        within_sec=60 * args.minutes,
        skip=frozenset(args.skip),
    )
    outcomes = []
    for outcome, following in zip(examine(request), (*CHECKS[1:], ""), strict=True):
        outcomes.append(outcome)
        line = f"  {outcome.check}: {outcome.verdict.value} ({outcome.sec:.0f} s)"
        line += f"; next: {following}" if following else ""
        print(one_line(line), file=sys.stderr, flush=True)
    print(as_json(outcomes) if args.json else "\n".join(table(outcomes)))
    return EXIT_DONE if is_ready(outcomes) else EXIT_FOUND_WRONG


COMMANDS = (
    Command(
        None,
        "doctor",
        "Examine a run before it starts: configuration, stores, samples, memory, overfit, resume, generation, speed.",
        "titan-speech doctor train_configs/demo.toml",
        doctor,
        (
            Argument(
                "--world-size",
                "GPUs of the run (default: those of this machine, or the fewest that fit the layout)",
                type=positive,
            ),
            Argument(
                "--gpu",
                f"device of the estimate: {', '.join(DEVICES)} (default: h100)",
                default="h100",
                choices=tuple(DEVICES),
            ),
            Argument("--minutes", "time for all checks (default: 10)", type=number(0.1, 600), default=10.0),
            Argument(
                "--skip", "a check to leave out; may be repeated", action="append", default=[], choices=SKIPPABLE_CHECKS
            ),
            Argument("--json", "print JSON", action="store_true"),
        ),
        takes_config=True,
        config_is_argument=True,
    ),
)
