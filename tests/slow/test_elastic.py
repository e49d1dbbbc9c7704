"""One run whose nodes go and come: torchrun agents on one machine, each a node of its own."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.runs import assert_close, figures, free_port, kill, losses, metrics_lines, start_run, train_well

SETTINGS = (
    *("--training.target_tokens", "20480", "--training.global_batch_tokens", "512"),
    *("--training.local_batch_packs", "1", "--checkpoint.cadence.0.every", "3"),
)
TIMEOUT_SEC = 900


def world_sizes(folder: Path) -> list[int]:
    """Of each start of the run."""
    return [line["world_size"] for line in metrics_lines(folder) if line.get("event") == "start"]


def wait_for_steps(folder: Path, starts: list[int], num_steps: int) -> None:
    """Until the run's starts had these world sizes and the last of them did some steps."""
    deadline = time.monotonic() + TIMEOUT_SEC
    while world_sizes(folder) != starts or len(_steps_since_start(folder)) < num_steps:
        log = (folder / "log.txt").read_text(errors="replace")
        assert time.monotonic() < deadline, f"starts {world_sizes(folder)}, expected {starts}:\n{log[-8000:]}"
        time.sleep(0.1)


def _steps_since_start(folder: Path) -> list[dict]:
    lines = metrics_lines(folder)
    starts = [i for i, line in enumerate(lines) if line.get("event") == "start"]
    return lines[starts[-1] + 1 :] if starts else []


@pytest.mark.slow
def test_a_lost_node_and_a_new_one_change_neither_batches_nor_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")  # docs/checkpoints.md#fault-tolerance
    folder, port = tmp_path / "elastic", free_port()
    launch = (
        *("--nnodes", "1:4", "--max-restarts", "20", "--local-addr", "127.0.0.1", "--shutdown-timeout", "60"),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "elastic"),
        *("--rdzv-conf", "last_call_timeout=5,keep_alive_interval=2,keep_alive_max_attempt=3"),
    )
    first = start_run(folder, *SETTINGS, launch=launch)
    nodes = [first]
    try:
        time.sleep(1.0)  # the first node holds the rendezvous
        nodes.append(start_run(folder, *SETTINGS, launch=launch))
        wait_for_steps(folder, [2], 4)
        kill(nodes[1])
        wait_for_steps(folder, [2, 1], 4)
        nodes.append(start_run(folder, *SETTINGS, launch=launch))
        wait_for_steps(folder, [2, 1, 2], 1)
        assert first.wait(TIMEOUT_SEC) == 0, (folder / "log.txt").read_text()[-8000:]
    finally:
        for node in nodes:
            kill(node)
    assert "got SIGTERM: saving at the next step boundary" in (folder / "log.txt").read_text()  # to let the new one in
    expected = losses(train_well(tmp_path / "straight", *SETTINGS))
    assert_close(losses(figures(folder)), expected)
