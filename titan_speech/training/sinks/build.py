"""The sinks of a configuration: on rank 0 all of them, on the first rank of every other node its endpoint."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from titan_speech.config.schema_operations import MetricsConfig
from titan_speech.distributed.environment import dist_env
from titan_speech.training.sinks.prometheus import PrometheusSink
from titan_speech.training.sinks.sink import Sink, Sinks
from titan_speech.training.sinks.tensorboard import TensorBoardSink
from titan_speech.training.sinks.wandb_run import WandbSink
from titan_speech.training.sinks.webhook import WEBHOOK_VARIABLE, WebhookSink


def build_sinks(config: MetricsConfig, run_folder: Path, all_config: Mapping[str, Any], from_step: int) -> Sinks:
    """The sinks of this rank.

    Args:
        config: of the metrics.
        run_folder: of the run.
        all_config: what the user configured, for W&B.
        from_step: steps that were done before this start.
    """
    env = dist_env()
    makers: list[tuple[str, Callable[[], Sink]]] = []
    if config.prometheus and env.is_first_of_node:
        ranks = range(env.rank, env.rank + env.local_world_size)
        makers.append(
            (f"Prometheus at {config.prometheus}", lambda: PrometheusSink(config.prometheus, run_folder, ranks))
        )
    if env.is_first and config.tensorboard:
        makers.append(("TensorBoard", lambda: TensorBoardSink(run_folder / "tb", from_step)))
    if env.is_first and config.wandb:
        tags = config.wandb_tags
        makers.append(("Weights & Biases", lambda: WandbSink(run_folder, all_config, tags)))
    url = os.environ.get(WEBHOOK_VARIABLE, "")
    if env.is_first and url:
        makers.append(("the webhook", lambda: WebhookSink(url, run_folder.name)))
    return Sinks(*makers)
