"""What ranks send each other: equal values arrive, and no text makes a rank run anything."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from tests.support.runs import free_port
from tests.support.spawn import spawn
from titan_speech import errors
from titan_speech.checkpoint.choose_start import Start
from titan_speech.checkpoint.initial_load import InitialLoad
from titan_speech.checkpoint.retention import Removal
from titan_speech.distributed.consensus import StartupConsensus, broadcast_from_rank_0, decide_on_rank_0
from titan_speech.distributed.plain_values import from_text, to_text
from titan_speech.errors import CheckpointError, DataError
from titan_speech.health.rollback import Rollback
from titan_speech.utils.safe_path import UnsafePathError

START = Start(7, Path("a/step-7"), ("step 9: damaged",))
VALUES = [
    None,
    InitialLoad(START, ("नमस्ते",)),
    (Rollback(5, 3, 4, 5), Rollback(9, 8, 9, 9)),
    Removal((1, 2), (3,)),
    [True, 1, 0.5, ""],
]


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_values_come_back_equal(value: object) -> None:
    assert from_text(to_text(value), InitialLoad, Start, Rollback, Removal) == value


def test_a_rank_of_a_dry_run_keeps_its_value() -> None:
    """Nothing is sent to it: the dry run of a pipeline is its last rank."""
    dist.init_process_group("fake", store=FakeStore(), rank=3, world_size=4)
    try:
        assert broadcast_from_rank_0((Rollback(5, 3, 4, 5),), Rollback) == (Rollback(5, 3, 4, 5),)
        assert decide_on_rank_0(lambda: START, Start) is None
    finally:
        dist.destroy_process_group()


def test_an_error_comes_back_as_the_nearest_one_of_the_package() -> None:
    error = from_text(to_text(UnsafePathError("found ..")))
    assert type(error) is DataError
    assert str(error) == "found .."


@pytest.mark.parametrize("kind", ["Start", "TitanSpeechErrors", "__name__", "annotations", "Path2"])
def test_classes_that_were_not_named_are_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="are both of one version"):
        from_text(json.dumps({"kind": kind, "value": {}}))
    with pytest.raises(TypeError, match="is not sent between ranks"):
        to_text({"a": 1})
    assert not hasattr(errors, "os")


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("a pickle was read")


def exchange(port: int) -> None:
    """In each of two ranks, on which reading any pickle fails."""
    pickle.loads = pickle.load = pickle.Unpickler = refuse  # type: ignore[assignment, misc]
    import torch.distributed as dist

    dist.broadcast_object_list = dist.all_gather_object = refuse  # type: ignore[assignment]
    rank = dist.get_rank()
    assert broadcast_from_rank_0(Removal((1,)) if rank == 0 else None, Removal) == Removal((1,))
    with pytest.raises(CheckpointError, match="gone"):
        decide_on_rank_0(fail)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    startup = StartupConsensus()
    assert startup.decide_on_rank_0("start", lambda: START, Start) == START
    with pytest.raises(CheckpointError, match="gone"):
        startup.decide_on_rank_0("other", fail)
    dist.barrier()


def fail() -> None:
    raise CheckpointError("gone")


def test_decisions_of_rank_0_reach_all_ranks_without_a_pickle() -> None:
    spawn(2, exchange, free_port())
