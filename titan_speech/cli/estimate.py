"""`titan-speech estimate`: steps, memory, communication, time and cost of a run.

In: a configuration, the number of GPUs and their kind. Out: a page, JSON, or a comparison of two configurations.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from titan_speech.cli.arguments import local_file, not_negative, positive
from titan_speech.cli.command import Argument, Command, announce
from titan_speech.estimate.devices import DEVICES

if TYPE_CHECKING:
    from titan_speech.config.load import LoadedConfig
    from titan_speech.estimate.result import EstimateRequest


def estimate(args: argparse.Namespace) -> None:
    from titan_speech.preflight.config_checks import load_config

    loaded = [load_config(args.config_words, world_size=args.world_size)]
    if args.against is not None:
        loaded.append(load_config(["--job.config_file", args.against], world_size=args.world_size))
    announce(f"estimate: tracing a step of {' and of '.join(str(one.files[-1]) for one in loaded)}")

    from titan_speech.estimate.compare import comparison
    from titan_speech.estimate.estimate_run import estimate_runs
    from titan_speech.estimate.record import estimate_record
    from titan_speech.estimate.report import report_page

    announce("estimate: torch is loaded, tracing in a process of its own")
    estimates = estimate_runs([_question(one, args) for one in loaded])
    if args.json:
        records = [estimate_record(one) for one in estimates]
        print(json.dumps(records[0] if len(records) == 1 else records, indent=1))
    else:
        print(report_page(estimates[0]) if len(estimates) == 1 else comparison(estimates[0], estimates[1]))


def _question(loaded: LoadedConfig, args: argparse.Namespace) -> EstimateRequest:
    from titan_speech.estimate.efficiencies import DEFAULT_EFFICIENCIES, calibrated
    from titan_speech.estimate.result import EstimateRequest

    return EstimateRequest(
        config=loaded.config,
        name=str(loaded.files[-1]),
        world_size=args.world_size,
        device=DEVICES[args.gpu],
        price_per_gpu_hour=args.price_per_gpu_hour,
        full_trace=args.full_trace,
        dry_run=args.dry_run,
        efficiencies=calibrated(Path(args.calibrate), args.gpu) if args.calibrate else DEFAULT_EFFICIENCIES,
    )


COMMANDS = (
    Command(
        None,
        "estimate",
        "Estimate, without a GPU, what a run needs: parameters, epochs, memory, communication, time and cost.",
        "titan-speech estimate --job.config_file train_configs/pt_s1.toml --world-size 32 --price-per-gpu-hour 2.5",
        estimate,
        (
            Argument("--world-size", "number of GPUs of the run", type=positive, required=True),
            Argument("--gpu", f"one of {', '.join(DEVICES)} (default: h100)", default="h100", choices=tuple(DEVICES)),
            Argument("--price-per-gpu-hour", "price of one GPU for one hour, in any currency", type=not_negative),
            Argument(
                "--against",
                "another configuration file, compared side by side with this one; flags change only this one",
                type=local_file,
            ),
            Argument(
                "--calibrate",
                "report.json of `python -m benchmarks.first_gpu`: what it measured replaces what is assumed",
                type=local_file,
            ),
            Argument("--json", "print JSON (the page File formats lists the keys)", action="store_true"),
            Argument(
                "--full-trace", "trace every layer instead of extrapolating from three and four", action="store_true"
            ),
            Argument("--dry-run", "also take real steps of two layers on a fake process group", action="store_true"),
        ),
        takes_config=True,
        old_name="plan",
    ),
)
