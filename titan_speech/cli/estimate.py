"""`titan-speech plan`: from words to a page, JSON, or a comparison.

In: what the verb was given. Out: text.

The verb that says what a run will do, need and cost.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from titan_speech.cli.arguments import local_file, not_negative, positive
from titan_speech.cli.command import EXIT_DONE, Argument, Command
from titan_speech.estimate.devices import DEVICES

if TYPE_CHECKING:
    from titan_speech.config.load import LoadedConfig
    from titan_speech.estimate.answer import Question, RunEstimate


@dataclass(frozen=True)
class Options:
    """The verb's own arguments."""

    world_size: int
    device: str
    price_per_gpu_hour: float | None
    as_json: bool
    against: str | None
    full_trace: bool
    dry_run: bool


def run(options: Options, words: Sequence[str]) -> str:
    """The answer as text.

    Raises:
        ConfigError: the configuration has problems at this number of ranks.
        PlanError: model, layout and loss do not fit together.
    """
    from titan_speech.estimate.run import estimate_runs
    from titan_speech.preflight.config_checks import load_config

    loaded = [load_config(list(words), world_size=options.world_size)]
    if options.against is not None:
        loaded.append(load_config(["--job.config_file", options.against], world_size=options.world_size))
    plans = estimate_runs([_question(one, options) for one in loaded])
    return _as_json(plans) if options.as_json else _as_text(plans)


def _as_json(plans: Sequence[RunEstimate]) -> str:
    from titan_speech.estimate.compare import plan_record

    records = [plan_record(plan) for plan in plans]
    return json.dumps(records[0] if len(records) == 1 else records, indent=1)


def _as_text(plans: Sequence[RunEstimate]) -> str:
    from titan_speech.estimate.compare import comparison
    from titan_speech.estimate.report import report_page

    return report_page(plans[0]) if len(plans) == 1 else comparison(plans[0], plans[1])


def _question(loaded: LoadedConfig, options: Options) -> Question:
    from titan_speech.estimate.answer import Question

    return Question(
        config=loaded.config,
        name=str(loaded.files[-1]),
        world_size=options.world_size,
        device=DEVICES[options.device],
        price_per_gpu_hour=options.price_per_gpu_hour,
        full_trace=options.full_trace,
        dry_run=options.dry_run,
    )


def plan(args: argparse.Namespace, words: list[str]) -> int:
    from titan_speech.utils.logging import quieten_dependencies

    quieten_dependencies()

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


COMMANDS = (
    Command(
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
