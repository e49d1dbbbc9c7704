"""`titan-speech plan`: from words to a page, JSON, or a comparison.

In: what the verb was given. Out: text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from titan_speech.config.load import LoadedConfig, load_config
from titan_speech.plan.answer import Question, RunPlan
from titan_speech.plan.compare import comparison
from titan_speech.plan.hardware import DEVICES
from titan_speech.plan.page import page
from titan_speech.plan.record import record
from titan_speech.plan.run_plan import plan_runs


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
    loaded = [load_config(list(words), world_size=options.world_size)]
    if options.against is not None:
        loaded.append(load_config(["--job.config_file", options.against], world_size=options.world_size))
    plans = plan_runs([_question(one, options) for one in loaded])
    return _as_json(plans) if options.as_json else _as_text(plans)


def _as_json(plans: Sequence[RunPlan]) -> str:
    records = [record(plan) for plan in plans]
    return json.dumps(records[0] if len(records) == 1 else records, indent=1)


def _as_text(plans: Sequence[RunPlan]) -> str:
    return page(plans[0]) if len(plans) == 1 else comparison(plans[0], plans[1])


def _question(loaded: LoadedConfig, options: Options) -> Question:
    return Question(
        config=loaded.config,
        name=str(loaded.files[-1]),
        world_size=options.world_size,
        device=DEVICES[options.device],
        price_per_gpu_hour=options.price_per_gpu_hour,
        full_trace=options.full_trace,
        dry_run=options.dry_run,
    )
