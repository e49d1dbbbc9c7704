"""`titan-speech plan`: from words to a page, JSON, or a comparison.

In: what the verb was given. Out: text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from titan_speech.config.load import LoadedConfig, load_config
from titan_speech.plan.compare import comparison
from titan_speech.plan.hardware import DEVICES
from titan_speech.plan.page import page
from titan_speech.plan.record import record
from titan_speech.plan.run_plan import Question, plan_run


@dataclass(frozen=True)
class Options:
    """The verb's own arguments."""

    world_size: int
    device: str
    price_per_gpu_hour: float | None
    as_json: bool
    against: str | None
    full_trace: bool


def run(options: Options, words: Sequence[str]) -> str:
    """The answer as text.

    Raises:
        ConfigError: the configuration has problems at this number of ranks.
        PlanError: model, layout and loss do not fit together.
    """
    loaded = load_config(list(words), world_size=options.world_size)
    plan = plan_run(_question(loaded, options))
    if options.against is None:
        text = json.dumps(record(plan), indent=1) if options.as_json else page(plan)
    else:
        other = load_config(["--job.config_file", options.against], world_size=options.world_size)
        both = plan, plan_run(_question(other, options))
        text = json.dumps([record(one) for one in both], indent=1) if options.as_json else comparison(*both)
    return text


def _question(loaded: LoadedConfig, options: Options) -> Question:
    return Question(
        config=loaded.config,
        name=str(loaded.files[-1]),
        world_size=options.world_size,
        device=DEVICES[options.device],
        price_per_gpu_hour=options.price_per_gpu_hour,
        full_trace=options.full_trace,
    )
