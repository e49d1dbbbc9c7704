"""The loader: the same stream at every world size, worker count and restart; state of one slot; errors that name it."""

from __future__ import annotations

import errno
import gc
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import islice
from multiprocessing.synchronize import SemLock
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.plan_samples import SEQ_LEN, World, make_world
from titan_speech.data.inspect import order_digest, order_lines, show_lines
from titan_speech.data.loader import Batch, PlanDataset, Prefetcher, SpeechDataLoader
from titan_speech.data.pack_layout import IGNORE_INDEX, PADDING_PACK_PLAN, PADDING_SLOT, Pack, PackedBatch, build_pack
from titan_speech.data.plan import DataPlan
from titan_speech.data.slots import StepShape
from titan_speech.errors import CheckpointError, DataError

PACKS_PER_STEP, LOCAL_BATCH_PACKS = 12, 2
Row = tuple[list[int], list[int], list[int]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def plan(world: World) -> DataPlan:
    return DataPlan.load(world.three_tasks())


@contextmanager
def loader_of(
    plan: DataPlan, dp_degree: int = 1, dp_rank: int = 0, *, num_workers: int = 0, packs_per_step: int = PACKS_PER_STEP
) -> Iterator[SpeechDataLoader]:
    config = SpeechDataLoader.Config(plan=plan, packs_per_step=packs_per_step, num_workers=num_workers)
    loader = config.build(dp_world_size=dp_degree, dp_rank=dp_rank, local_batch_size=LOCAL_BATCH_PACKS)
    with closing(loader):
        yield loader


def rows_of(batch: Batch) -> list[Row]:
    inputs, labels_BL = batch
    return [
        (ids.tolist(), labels.tolist(), positions.tolist())
        for ids, labels, positions in zip(inputs["input"], labels_BL, inputs["positions"], strict=True)
    ]


def row_of(pack: Pack) -> Row:
    return pack.ids_S.tolist(), pack.labels_S.tolist(), pack.positions_S.tolist()


def union_of_ranks(
    plan: DataPlan, dp_degree: int, num_steps: int, state: dict | None = None, *, num_workers: int = 0
) -> tuple[dict[int, Row], list[Row], dict]:
    """What all ranks read in some steps: rows by slot, padding, and the state after them."""
    by_slot: dict[int, Row] = {}
    padding: list[Row] = []
    states = []
    first = (state or {"next_slot": 0})["next_slot"]
    for rank in range(dp_degree):
        with loader_of(plan, dp_degree, rank, num_workers=num_workers) as loader:
            if state is not None:
                loader.load_state_dict(state)
            shape = loader.shape
            batches = islice(loader, num_steps * shape.num_microbatches)
            for i, batch in enumerate(batches):
                step, microbatch = divmod(i, shape.num_microbatches)
                first_slot = first + step * PACKS_PER_STEP
                slots = shape.microbatches(first_slot, plan.locality_keys(first_slot, PACKS_PER_STEP), rank)[microbatch]
                for slot, row in zip(slots, rows_of(batch), strict=True):
                    assert slot not in by_slot, f"slot {slot} was read twice"
                    padding.append(row) if slot == PADDING_SLOT else by_slot.__setitem__(slot, row)
            states.append(loader.state_dict())
    assert all(other == states[0] for other in states)
    return by_slot, padding, states[0]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("dp_degree", [1, 2, 3, 4, 8])
def test_all_ranks_together_read_the_one_process_stream(plan: DataPlan, dp_degree: int, num_workers: int) -> None:
    by_slot, padding, _ = union_of_ranks(plan, dp_degree, 2, num_workers=num_workers)
    assert by_slot == {slot: row_of(plan.pack(slot)) for slot in range(2 * PACKS_PER_STEP)}
    computed = StepShape(PACKS_PER_STEP, dp_degree, LOCAL_BATCH_PACKS).num_microbatches * dp_degree * LOCAL_BATCH_PACKS
    assert len(padding) == 2 * (computed - PACKS_PER_STEP)
    pad = build_pack(PADDING_SLOT, *PADDING_PACK_PLAN, plan.seq_len, plan.vocabulary.pad_id)
    assert all(row == row_of(pad) for row in padding)


@pytest.mark.parametrize("degrees", [(4, 2, 8, 1), (1, 3, 2, 2), (8, 3, 1, 4)])
def test_restarts_on_other_numbers_of_ranks_and_workers_continue_the_stream(plan: DataPlan, degrees) -> None:
    found: dict[int, Row] = {}
    state = None
    for i, dp_degree in enumerate(degrees):
        by_slot, _, state = union_of_ranks(plan, dp_degree, 2, state, num_workers=2 * (i == 1))
        found |= by_slot
    assert found == {slot: row_of(plan.pack(slot)) for slot in range(len(degrees) * 2 * PACKS_PER_STEP)}


def test_a_loader_starts_at_slot_a_billion(plan: DataPlan) -> None:
    state = {"next_slot": 10**9, "phase": plan.phase.fingerprint, "phase_label": "start"}
    by_slot, _, after = union_of_ranks(plan, 2, 1, state)
    assert by_slot == {slot: row_of(plan.pack(slot)) for slot in range(10**9, 10**9 + PACKS_PER_STEP)}
    assert after["next_slot"] == 10**9 + PACKS_PER_STEP


@pytest.mark.parametrize("num_workers", [0, 2])
def test_state_counts_steps_handed_out_and_not_what_was_read_ahead(plan: DataPlan, num_workers: int) -> None:
    with loader_of(plan, num_workers=num_workers) as loader:
        batches = iter(loader)
        seen = []
        for _ in range(2 * loader.shape.num_microbatches + 1):
            next(batches)
            time.sleep(0.01)  # time to read ahead
            seen.append(loader.state_dict()["next_slot"])
    assert seen == [0] * 5 + [12] * 6 + [24] * 2


def test_state_is_small_plain_and_names_no_rank_or_world_size(plan: DataPlan) -> None:
    with loader_of(plan, 4, 3) as loader:
        state = loader.state_dict()
    assert state == {"next_slot": 0, "phase": plan.phase.fingerprint, "phase_label": "start"}


def test_a_state_of_another_plan_is_refused_and_both_are_named(plan: DataPlan, world: World) -> None:
    other = DataPlan.load(world.three_tasks(seed=5))
    with loader_of(plan) as loader, pytest.raises(CheckpointError) as raised:
        loader.load_state_dict({"next_slot": 3, "phase": other.phase.fingerprint, "phase_label": "start"})
    assert plan.phase.fingerprint in str(raised.value)
    assert other.phase.fingerprint in str(raised.value)


@given(st.integers(1, 70), st.integers(1, 9), st.integers(1, 5), st.integers(0, 10**9))
def test_a_step_deals_out_each_of_its_slots_once_and_as_few_fillers_as_fit(packs, ranks, local, first) -> None:
    shape = StepShape(packs, ranks, local)
    keys = np.random.default_rng(first).integers(0, 20, packs)
    runs = [shape.microbatches(first, keys, rank) for rank in range(ranks)]
    assert all(len(run) == shape.num_microbatches for run in runs)
    assert all(len(slots) == local for run in runs for slots in run)
    slots = [slot for run in runs for slots in run for slot in slots]
    real = [slot for slot in slots if slot != PADDING_SLOT]
    assert sorted(real) == list(range(first, first + packs))
    assert slots.count(PADDING_SLOT) < ranks * local
    assert real == sorted(real, key=lambda slot: (keys[slot - first], slot))
    sizes = [sum(slot != PADDING_SLOT for slots in run for slot in slots) for run in runs]
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(1, 70), st.integers(1, 9), st.integers(1, 5), st.integers(1, 4))
def test_a_pipeline_takes_what_a_rank_computes_at_once_in_equal_parts(packs, ranks, part, passes) -> None:
    keys = np.zeros(packs, np.int64)
    whole, parts = StepShape(packs, ranks, part * passes), StepShape(packs, ranks, part * passes, passes)
    for rank in range(ranks):
        in_parts = parts.microbatches(0, keys, rank)
        assert len(in_parts) == parts.num_microbatches == whole.num_microbatches * passes
        assert {len(slots) for slots in in_parts} == {part}
        in_one = whole.microbatches(0, keys, rank)
        assert [slot for slots in in_parts for slot in slots] == [slot for slots in in_one for slot in slots]


def test_batches_have_the_types_the_trainer_takes(plan: DataPlan) -> None:
    with loader_of(plan) as loader:
        inputs, labels_BL = next(iter(loader))
    tensors = [inputs["input"], inputs["positions"], labels_BL]
    assert set(inputs) == {"input", "positions"}
    assert [(t.dtype, tuple(t.shape)) for t in tensors] == [(torch.int64, (LOCAL_BATCH_PACKS, SEQ_LEN))] * 3
    assert bool((labels_BL != IGNORE_INDEX).any())


@pytest.mark.parametrize("num_workers", [0, 2])
def test_damage_found_while_reading_ahead_names_slot_stream_and_file(tmp_path: Path, num_workers: int) -> None:
    world = make_world(tmp_path, num_samples=20)
    shard = min(world.store.glob("wild.hi.speech/*.tokens"))
    shard.write_bytes(bytes(len(shard.read_bytes())))
    plan = DataPlan.load(world.config(world.source("speech", 1.0, datasets=("wild",))))
    with (
        loader_of(plan, num_workers=num_workers) as loader,
        pytest.raises(DataError, match=r"slot \d+ \(stream speech\.hi\)(.|\n)*00000\.tokens is damaged"),
    ):
        _ = list(islice(loader, 30))


def test_closing_stops_the_thread_and_starting_again_gives_the_same_batches(plan: DataPlan) -> None:
    with loader_of(plan) as loader:
        first = rows_of(next(iter(loader)))
        assert any(thread.name == "data-prefetch" for thread in threading.enumerate())
        loader.close()
        assert not any(thread.name == "data-prefetch" for thread in threading.enumerate())
        assert rows_of(next(iter(loader))) == first


def test_waiting_for_data_is_counted(plan: DataPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    read = PlanDataset.__getitems__

    def slow(self: PlanDataset, slots: list[int]) -> PackedBatch:
        time.sleep(0.02)
        return read(self, slots)

    monkeypatch.setattr(PlanDataset, "__getitems__", slow)
    with loader_of(plan) as loader:
        _ = list(islice(loader, 3))
        assert loader.data_wait_sec > 0.04


def test_a_prefetcher_reads_no_further_than_it_may_and_raises_in_its_place() -> None:
    made: list[int] = []

    def source() -> Iterator[int]:
        for i in range(10):
            made.append(i)
            yield i
        raise ValueError("the tenth")

    with closing(Prefetcher(source(), 3)) as items:
        time.sleep(0.1)
        assert len(made) == 4  # three in the queue, one in hand
        assert list(islice(items, 10)) == list(range(10))
        with pytest.raises(ValueError, match="the tenth"):
            next(items)
        with pytest.raises(StopIteration):
            next(items)


def test_order_digest_is_equal_at_every_world_size_and_follows_the_data(world: World) -> None:
    config = world.three_tasks()
    digests = {order_digest(config, 7, 29, world_size) for world_size in (1, 2, 3, 4, 8)}
    assert len(digests) == 1
    of_others = {order_digest(config, 8, 28).split()[0]}
    sources = [replace(source, train_on="target") for source in config.data.source]
    for data in (replace(config.data, seed=3), replace(config.data, source=tuple(sources))):
        of_others.add(order_digest(replace(config, data=data), 7, 29).split()[0])
    assert len(of_others | {next(iter(digests)).split()[0]}) == 4


def test_order_lines_name_slot_stream_and_samples(world: World, plan: DataPlan) -> None:
    header, *lines = order_lines(world.three_tasks(), 5, 4, 3)
    assert plan.fingerprint in header
    assert "3 data-parallel ranks" in header
    for slot, line in zip(range(5, 9), lines, strict=True):
        pack = plan.pack(slot)
        ref = plan.sample_refs(pack)[0]
        assert line.startswith(f"{slot}  {plan.streams[pack.stream].name}  ")
        assert f"{ref.sample_ids[0]}[{ref.start}:{ref.stop}]" in line


def test_show_marks_trained_tokens_and_condenses_codes(world: World) -> None:
    config = world.config(world.source("tts", 1.0, train_on="target"))
    plain = "\n".join(show_lines(config, (0,), color=False))
    assert "\x1b" not in plain
    assert "    <bos> <|text_start|> press" in plain
    assert "  + <|speech_end|>" in plain
    assert " codes, " in plain
    colored = "\n".join(show_lines(config, (0,), color=True))
    assert "\x1b[32m<|speech_end|>\x1b[0m" in colored
    assert "\x1b[32m<bos>" not in colored


def test_show_takes_the_first_packs_of_a_source(world: World) -> None:
    lines = [line for line in show_lines(world.three_tasks(), (0, 1), "text", color=False) if line.startswith("slot")]
    assert len(lines) == 2
    assert all("text." in line for line in lines)


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    from titan_speech.data.inspect import wants_color

    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert wants_color()
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_color()


@pytest.fixture
def no_shared_memory() -> Iterator[None]:
    """A worker process may not make a file of more than 1 kB, also not in shared memory."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_workers_without_shared_memory_end_the_run_with_one_error_that_names_it(
    plan: DataPlan, no_shared_memory: None
) -> None:
    with loader_of(plan, num_workers=2) as loader, pytest.raises(DataError) as raised:
        next(iter(loader))
    message = str(raised.value)
    assert message.startswith("a worker process of the dataloader found no room in shared memory (/dev/shm); give ")
    assert "data.num_workers = 0" in message
    assert "Traceback" not in message


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, r"no room in shared memory .*data\.num_workers = 0"),
        (errno.EAGAIN, r"cannot be started .*ulimit -u"),
    ],
)
def test_workers_that_cannot_be_started_are_one_error_that_says_why(
    plan: DataPlan, monkeypatch: pytest.MonkeyPatch, number: int, expected: str
) -> None:
    """Of 64 kB of shared memory nothing is left for the queues when several ranks start their workers."""

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(SemLock, "__init__", refuse)
    with loader_of(plan, num_workers=2) as loader, pytest.raises(DataError, match=expected):
        next(iter(loader))
    gc.collect()  # what is left of them must not print an error of its own


def test_the_death_of_a_worker_is_one_error_that_says_so(plan: DataPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(self: PlanDataset, slots: list[int]) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(PlanDataset, "_build", die)
    with (
        loader_of(plan, num_workers=1) as loader,
        pytest.raises(DataError, match=r"a worker process of the dataloader ended .*lower data\.num_workers"),
    ):
        next(iter(loader))
