"""Weights & Biases offline: a killed and resumed run has one id and rising steps; without a network it goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.runs import ROOT

pytestmark = pytest.mark.slow

START = """
import os, sys, time
import numpy as np
from pathlib import Path
from titan_speech.training.sinks.sink import Sample
from titan_speech.training.sinks.wandb_run import WandbSink
folder, first, last, logged, validated, how = Path(sys.argv[1]), *map(int, sys.argv[2:6]), sys.argv[6]
sink = WandbSink(folder, {"optimizer": {"lr": 2e-3}}, ["s1", "trial"])
for step in range(first, last + 1):
    sink.log(step, {"loss": 10.0 - step / 100, "loss/language/hi": 9.0}, is_repeat=step <= logged)
    if step != 7 or how == "close":  # the kill falls into this validation
        sink.log(step, {"validation/gold/loss": 8.0}, is_repeat=step <= validated)
audio_T = np.sin(np.arange(1600, dtype=np.float32) / 5)
heard = Sample("p0", {"language": "hi", "loop": 0.0}, audio_T, 16000)
sink.samples(last, [heard, Sample("p1", {"language": "en", "loop": 1.0})])
if how == "kill":
    time.sleep(4.0)  # W&B writes every second
    os.kill(os.getpid(), 9)
sink.close()
"""


def start(
    folder: Path, first: int, last: int, logged: int, validated: int, how: str, **environment: str
) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", START, str(folder), *map(str, (first, last, logged, validated)), how]
    variables = {**os.environ, "WANDB_MODE": "offline", "WANDB_CONSOLE": "off", **environment}
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=300)


BLOCK_BYTES = 32_768


def records(file: Path) -> Iterator[Any]:
    """The records of a .wandb file: a header of 7 bytes, then LevelDB's log format. What a kill cut off is left out."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        room = BLOCK_BYTES - at % BLOCK_BYTES
        if room < 7:
            at += room
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        if at + 7 + length > len(data) or kind == 0:
            return
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # full, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def items(update: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in update}


def test_a_killed_and_resumed_run_is_one_run_with_rising_steps_audio_and_a_table(tmp_path: Path) -> None:
    assert start(tmp_path, 1, 7, -1, -1, "kill").returncode == -9
    finished = start(tmp_path, 6, 9, 7, 6, "close")
    assert finished.returncode == 0, finished.stderr
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"), key=lambda file: file.stat().st_mtime)
    assert len(files) == 2
    found = [record for file in files for record in records(file)]
    runs = [record.run for record in found if record.WhichOneof("record_type") == "run"]
    assert {run.run_id for run in runs} == {(tmp_path / "wandb" / "run_id").read_text().strip()}
    assert {tuple(run.tags) for run in runs} == {("s1", "trial")}
    config = [items(run.config.update) for run in runs]
    assert all(one["optimizer"] == {"lr": 2e-3} for one in config)
    history = [items(record.history.item) for record in found if record.WhichOneof("record_type") == "history"]
    steps = [row["step"] for row in history if "loss" in row]
    assert steps == list(range(1, 10))
    assert [row["step"] for row in history if "validation/gold/loss" in row] == list(range(1, 10))
    everything = [row["step"] for row in history if "step" in row]
    assert everything == sorted(everything)
    tables = [row for row in history if "samples._type" in row]
    assert [(row["samples._type"], row["samples.nrows"]) for row in tables] == [("table-file", 2)] * 2
    assert len(list(tmp_path.glob("wandb/offline-run-*/files/media/audio/**/*.wav"))) == 2


def test_without_a_network_the_run_is_logged_offline_after_one_warning(tmp_path: Path) -> None:
    no_network = {"WANDB_MODE": "online", "WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    finished = start(tmp_path, 1, 2, -1, -1, "close", **no_network)
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr.count("this run is logged offline") == 1, finished.stderr
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
