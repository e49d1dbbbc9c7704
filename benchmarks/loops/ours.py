"""This trainer, as `python -m titan_speech.train` runs it, in turns.

In: words of a configuration. Out: windows. The trainer is prepared and run by its own entry;
`should_continue_training`, which it asks before each step, waits for the turn, and its batches are counted on their
way. Reading ahead waits too.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import torch

from benchmarks.talker import Talker
from titan_speech.data import loader
from titan_speech.distributed.environment import dist_env
from titan_speech.prepare_run import prepare
from titan_speech.train import load, run
from titan_speech.training.metrics import count_batch
from titan_speech.utils.logging import RunLog


def main(words: list[str]) -> None:
    talker = Talker()
    env = dist_env()
    trainer = prepare(load(words), ExitStack(), RunLog(env.rank, env.local_rank))
    vocabulary = trainer.config.plan.vocabulary
    batches_of = trainer.batch_generator

    def counted(data_iterable: Iterable[Any]) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        batches = batches_of(data_iterable)
        while True:
            began = time.perf_counter()
            inputs, labels_BL = next(batches)
            talker.waited(time.perf_counter() - began)
            one = count_batch(inputs["input"], inputs["positions"], labels_BL, vocabulary)
            talker.count(one.num_tokens, one.num_trained_tokens, one.num_pad_tokens, one.sum_squared_lengths)
            yield inputs, labels_BL

    ahead = loader.Prefetcher

    def in_turn(batches: Iterator[loader.Batch], num_items: int) -> loader.Prefetcher[loader.Batch]:
        return ahead(talker.only_in_turn(batches), num_items)

    loader.Prefetcher = in_turn  # pyright: ignore[reportAttributeAccessIssue]
    trainer.batch_generator = counted
    trainer.should_continue_training = talker.at_boundary
    run(trainer)


if __name__ == "__main__":
    main(sys.argv[1:])
