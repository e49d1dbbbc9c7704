"""The verb that says what a run will do, need and cost."""

from __future__ import annotations

import argparse

from titan_speech.plan.hardware import DEVICES
from titan_speech.verbs.values import local_file, not_negative, positive
from titan_speech.verbs.verb import EXIT_DONE, Argument, Verb


def plan(args: argparse.Namespace, words: list[str]) -> int:
    from titan_speech.quiet import quieten_dependencies

    quieten_dependencies()
    from titan_speech.plan.command import Options, run

    options = Options(
        world_size=args.world_size,
        device=args.gpu,
        price_per_gpu_hour=args.price_per_gpu_hour,
        as_json=args.json,
        against=args.against,
        full_trace=args.full_trace,
        dry_run=args.dry_run,
    )
    print(run(options, words))
    return EXIT_DONE


VERBS = (
    Verb(
        None,
        "plan",
        "Say what a run will do, need and cost, without a GPU: parameters, epochs, memory, communication, time, money.",
        "titan-speech plan --job.config_file train_configs/pt_s1.toml --world-size 32 --price-per-gpu-hour 2.5",
        plan,
        (
            Argument("--world-size", "GPUs of the run", type=positive, required=True),
            Argument("--gpu", f"one of {', '.join(DEVICES)} (default: h100)", default="h100", choices=tuple(DEVICES)),
            Argument("--price-per-gpu-hour", "price of a GPU for an hour, in any currency", type=not_negative),
            Argument(
                "--against",
                "another file, laid side by side with this configuration; flags change this one",
                type=local_file,
            ),
            Argument("--json", "as JSON (docs/plan.md lists the keys)", is_switch=True),
            Argument("--full-trace", "trace every layer instead of extending from three and four", is_switch=True),
            Argument("--dry-run", "also take real steps of two layers on a fake process group", is_switch=True),
        ),
        takes_config=True,
    ),
)
