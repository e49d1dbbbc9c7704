"""Progress of long jobs: no time left before it means something, amounts that can be read, progress inside a task."""

from __future__ import annotations

import io

import numpy as np
import pytest

from titan_speech.utils.progress import Progress, ProgressLine, RateEstimate, clock, end_open_line, print_to_stderr
from titan_speech.utils.task_progress import TaskProgress
from titan_speech.utils.text_table import amount


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_no_time_is_left_before_three_units_and_three_seconds() -> None:
    rate = RateEstimate(100)
    rate.update(0, 0.0)
    rate.update(1, 90.0)  # the first unit took 90 s: processes started, a codec was loaded
    rate.update(2, 90.5)
    rate.update(3, 91.0)
    assert rate.left_sec is None  # three units, but one second since the first
    rate.update(4, 94.0)
    assert rate.left_sec == pytest.approx(96 / 3 * 4, rel=0.3)  # not 90 s per unit


def test_few_units_in_a_long_time_estimate_nothing() -> None:
    rate = RateEstimate(10)
    for now_sec in (1.0, 60.0):
        rate.update(now_sec // 60 + 1, now_sec)
    assert rate.left_sec is None
    assert rate.left_text() == ""


def test_the_rate_follows_a_job_that_slows_down() -> None:
    rate = RateEstimate(1e6)
    for second in range(60):
        rate.update(1000 * second, float(second))
    fast = rate.left_sec
    for second in range(60, 120):
        rate.update(60_000 + 100 * (second - 60), float(second))
    assert fast is not None
    assert rate.left_sec is not None
    assert fast == pytest.approx(941, rel=0.05)
    assert rate.left_sec > 3 * fast


def test_an_estimate_that_falls_does_not_count_twice() -> None:
    rate = RateEstimate(10)
    for now_sec, done in enumerate((1, 2, 3, 2, 3, 4, 5)):
        rate.update(float(done), float(now_sec))
    assert rate._done == 5


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (110, "samples", "110 samples"),
        (12_345, "samples", "12.3 k samples"),
        (999_900, "tokens", "1 M tokens"),
        (4.51e9, "B", "4.51 GB"),
        (3e9, "tokens", "3 B tokens"),
        (0.25, "", "0.25"),
        (12, "B", "12 B"),
    ],
)
def test_amounts_have_units_that_fit_their_size(value: float, unit: str, text: str) -> None:
    assert amount(value, unit) == text


def test_durations_of_days_are_no_hours() -> None:
    assert [clock(seconds) for seconds in (59.6, 3723, 5.1 * 86400)] == ["1:00", "1:02:03", "5 d 2 h"]


def test_progress_inside_the_only_task_is_seen() -> None:
    progress = TaskProgress("imported", "unit", [1e9], [1000])
    counts, is_done = np.zeros((1, 2), np.int64), np.zeros(1, bool)
    shares = []
    for num_samples in (0, 250, 500):
        counts[0, 0] = num_samples
        shares.append(progress._share(counts[:, 0], is_done))
    assert shares == [0.0, 0.25, 0.5]


def test_a_task_of_unknown_size_is_estimated_by_those_that_are_finished() -> None:
    progress = TaskProgress("imported", "unit", [100.0, 100.0])
    assert progress._share(np.array([0, 40]), np.array([False, False])) == 0.0
    assert progress._share(np.array([80, 40]), np.array([True, False])) == pytest.approx(0.75)


def test_before_the_first_sample_no_rate_is_claimed(capsys: pytest.CaptureFixture[str]) -> None:
    progress = TaskProgress("imported", "unit", [1.0, 1.0])
    progress._line._start -= 91
    progress._line._next_show = 0.0
    progress.report(np.zeros((2, 2), np.int64), np.zeros(2, bool))
    assert capsys.readouterr().err == "imported 0 of 2 units: no sample yet after 1:31\n"


def test_the_time_before_the_first_sample_lowers_no_rate(capsys: pytest.CaptureFixture[str]) -> None:
    progress = TaskProgress("imported", "unit", [1.0, 1.0])
    progress._line._start -= 100  # a codec was loaded
    counts, is_done = np.array([[1, 50], [0, 0]]), np.zeros(2, bool)
    progress._line._next_show = 0.0
    progress.report(counts, is_done)
    assert capsys.readouterr().err == "imported 0 of 2 units: 1 sample, 50 tokens\n"
    assert progress._first is not None
    progress._first = progress._first[0] - 10, progress._first[1]
    progress._line._next_show = 0.0
    progress.report(np.array([[21, 1050], [0, 0]]), is_done)
    assert capsys.readouterr().err == "imported 0 of 2 units: 21 samples (2/s), 1.05 k tokens\n"
    progress.finish()
    assert "1.05 k tokens (" in capsys.readouterr().err


def test_tasks_that_are_all_refused_are_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    progress = TaskProgress("imported", "unit", [1.0])
    progress._line._start -= 12
    progress._line._next_show = 0.0
    progress.report(np.zeros((1, 2), np.int64), np.ones(1, bool))
    progress.finish(num_refused=1)
    assert capsys.readouterr().err == "imported 0 of 1 unit, refused 1: no sample, 0:12 taken\n"


def test_a_log_has_no_control_codes_and_a_terminal_no_remnants() -> None:
    for stream in (io.StringIO(), _Terminal()):
        with Progress("verify x", 100, "samples", stream=stream) as progress:
            progress._line._start -= 10
            for done in (60, 100):
                progress._line._next_show = 0.0
                progress.update(done)
        shown = stream.getvalue()
        assert ("\r" in shown) == ("\x1b[K" in shown) == stream.isatty()
        assert "verify x: 100%, 100 of 100 samples, 10 samples/s" in shown


def test_a_message_begins_a_line_of_its_own_after_a_progress_line(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    line = ProgressLine()
    line.show("imported 3 of 8 units")
    print_to_stderr("not finished")
    assert terminal.getvalue().endswith("units\x1b[K\nnot finished\n")
    line.show("imported 4 of 8 units")
    end_open_line()
    line.close()
    end_open_line()
    assert terminal.getvalue().endswith("imported 4 of 8 units\x1b[K\n")
