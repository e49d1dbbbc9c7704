"""metrics.jsonl as columns: read once, resumed runs counted once, and nothing in the file ends in a traceback."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.report.run_folders import log_step, write_run
from titan_speech.report.metrics_log import Column, MetricsLog, curve_of
from titan_speech.training.jsonl_log import JsonlLogger


def read(path: Path) -> MetricsLog:
    log = MetricsLog(path)
    log.update()
    return log


def test_a_resumed_run_has_each_step_once_and_says_which_were_trained_again(tmp_path: Path) -> None:
    log = read(write_run(tmp_path / "run", steps=50, restart_at=40) / "metrics.jsonl")
    assert list(log.column("loss").steps) == list(range(1, 51))
    assert [(start.step, start.world_size, start.repeated_steps) for start in log.starts] == [(0, 2, 0), (40, 1, 10)]


def test_what_a_start_will_train_again_is_not_shown_as_done(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", steps=50)
    logger = JsonlLogger(folder / "metrics.jsonl")
    logger.event("start", step=30, start_from="step-30", world_size=1)
    logger.close()
    log = read(folder / "metrics.jsonl")
    assert log.last_step == 30
    assert log.column("loss").steps[-1] == 30
    assert not log.column("validation/gold/loss").steps


def test_an_update_reads_what_was_appended_and_waits_for_the_end_of_a_line(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", steps=5)
    log = MetricsLog(folder / "metrics.jsonl")
    assert log.update()
    assert not log.update()
    logger = JsonlLogger(folder / "metrics.jsonl")
    log_step(logger, 6)
    logger.close()
    with log.path.open("a") as file:
        file.write('{"step": 7, "loss": 1')
    assert log.update()
    assert log.last_step == 6
    with log.path.open("a") as file:
        file.write(".5}\n")
    assert log.update()
    assert log.column("loss").last == 1.5


def test_lines_that_are_no_records_are_counted_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    bad = ["[]", "{", "1", '{"step": -1}', '{"step": 1.5}', '{"step": "1"}', '{"step": 1, "event": 7}', "[" * 5000]
    bad += ['{"step": 99999999999999999999}', '{"step": 2, "loss": "' + "x" * (1 << 20) + '"}']
    good = [json.dumps({"step": 3, "loss": value}) for value in (1, None, "1", True, [], 10**400)] + [
        '{"step": 4, "loss": NaN}',
        '{"step": 5, "loss": 1e999}',
    ]
    path.write_text("\n".join([*bad, *good]) + "\n")
    log = read(path)
    assert log.num_damaged == len(bad)
    assert log.num_records == len(good)
    assert list(log.column("loss").values) == [1.0]


def test_events_keep_the_numbers_that_can_be_calculated_with(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    sizes = ("NaN", "1e999", "1" + "0" * 400, "2")
    lines = [f'{{"event": "start", "step": 0, "world_size": {size}}}' for size in sizes]
    path.write_text("\n".join([*lines, f'{{"event": "other", "step": 1, "a": {sizes[2]}, "b": 3}}']) + "\n")
    log = read(path)
    assert [start.world_size for start in log.starts] == [None, None, None, 2]
    assert log.events[-1].numbers == {"b": 3.0}


def test_a_curve_keeps_every_spike_of_a_long_column() -> None:
    column = Column()
    for step in range(100_000):
        column.add(step, 100.0 if step == 54_321 else float(step % 7))
    curve = curve_of(column)
    assert len(curve.x_P) <= 400
    assert curve.high_P.max() == 100.0
    assert curve.low_P.min() == 0.0
    assert abs(float(np.median(curve.mean_P)) - 3.0) < 0.05
