"""A trace's time by what it went to: each moment once, nested events by the innermost, kernels by who launched them."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.trace_split import split, split_events


def event(name: str, begin: float, end: float, cat: str = "cpu_op", tid: int = 1, **args: int) -> dict:
    return {
        "name": name,
        "ph": "X",
        "ts": begin * 1e6,
        "dur": (end - begin) * 1e6,
        "cat": cat,
        "tid": tid,
        "args": args,
    }


STEP = [
    event("ProfilerStep#7", 0, 10, "user_annotation"),
    event("titan_speech::data", 0.5, 1.5, "user_annotation"),
    event("titan_speech::forward_backward", 2, 7, "user_annotation"),
    event("aten::mm", 2.5, 3),
    event("autograd::engine::evaluate_function: MmBackward0", 4, 6.5),
    event("c10d::allreduce_", 5, 5.5),
    event("aten::norm", 7.2, 7.8),
    event("Optimizer.step#AdamW.step", 8, 9, "user_annotation"),
]


def test_every_moment_of_a_step_belongs_to_one_part() -> None:
    found = split_events(STEP)
    assert found.host_sec == pytest.approx(
        {"data": 1, "forward": 2.5, "backward": 2, "optimizer": 2, "communication": 0.5, "other": 2}
    )
    assert sum(found.shares.values()) == pytest.approx(1)
    assert (found.num_steps, found.step_sec) == (1, pytest.approx(10))


def test_kernels_belong_to_what_launched_them_and_communication_counts_where_it_is_exposed() -> None:
    launches = [
        event("cudaLaunchKernel", at, at + 0.01, "cuda_runtime", tid=thread, correlation=number)
        for number, (at, thread) in enumerate([(2.6, 1), (4.5, 9), (5.2, 9), (8.5, 1)])
    ]
    kernels = [
        event("gemm", 3, 4, "kernel", tid=7, correlation=0),
        event("gemm", 5, 7, "kernel", tid=7, correlation=1),
        event("ncclDevKernel_AllReduce", 6, 8, "kernel", tid=8, correlation=2),
        event("adam", 9, 9.5, "kernel", tid=7, correlation=3),
    ]
    engine = [event("autograd::engine::evaluate_function: MmBackward0", 4, 6.5, tid=9)]
    on_thread = [one for one in STEP if not one["name"].startswith(("autograd", "c10d"))]
    found = split_events([*on_thread, *engine, *launches, *kernels])
    expected = {"data": 0, "forward": 1, "backward": 2, "optimizer": 0.5, "communication": 1, "other": 0}
    assert found.device_sec == pytest.approx(expected)
    assert found.hidden_communication_sec == pytest.approx(1)
    assert found.device_idle_sec == pytest.approx(5.5)
    assert sum(found.shares.values()) == pytest.approx(1)


def test_kernels_that_outlast_the_thread_make_the_step_as_long_as_they_are() -> None:
    launches = [event("cudaLaunchKernel", at, at + 0.01, "cuda_runtime", correlation=at) for at in (2, 4)]
    kernels = [event("gemm", 2, 8, "kernel", 7, correlation=2), event("gemm", 8, 14, "kernel", 7, correlation=4)]
    found = split_events([*STEP, *launches, *kernels])
    assert found.step_sec == pytest.approx(12)
    assert found.device_idle_sec == pytest.approx(0)
    assert sum(found.shares.values()) == pytest.approx(1)


@pytest.mark.parametrize("name", ["trace.json", "trace.json.gz"])
def test_a_file_that_is_no_trace_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("[]")
    with pytest.raises(ValueError, match=r"trace.json.*found no trace"):
        split(tmp_path / name)


def test_a_trace_without_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="found no ProfilerStep#"):
        split_events([event("aten::mm", 0, 1)])
