"""Axes of charts: two ticks at least, or a reader cannot tell how far a curve has moved."""

from __future__ import annotations

import numpy as np
import pytest

from titan_speech.report.chart import Chart, Line, draw
from titan_speech.report.downsample import Curve


@pytest.mark.parametrize("size", ["wide", "normal", "small"])
@pytest.mark.parametrize("is_log", [False, True])
@pytest.mark.parametrize(
    ("low", "high"), [(58_000.0, 66_821.0), (0.96, 1.27), (11.09, 11.11), (1e-9, 3.0), (2.0, 900.0)]
)
def test_every_axis_has_two_ticks_within_the_range(low: float, high: float, is_log: bool, size: str) -> None:
    values_P = np.array([high, (low + high) / 2, low])
    curve = Curve(np.array([0.0, 2.0, 4.0]), values_P, values_P, values_P)
    drawing = draw(Chart("loss", "nats", (Line("loss", curve),), is_log=is_log, size=size))
    for ticks, first, last in (
        (drawing.y_ticks, drawing.top, drawing.bottom),
        (drawing.x_ticks, drawing.left, drawing.right),
    ):
        assert len(ticks) >= 2, ticks
        assert all(first <= at <= last for at, _ in ticks), ticks
        assert len({text for _, text in ticks}) == len(ticks), ticks


def test_a_range_below_the_smallest_power_of_ten_has_an_axis() -> None:
    values_P = np.array([0.0, 5e-324])
    curve = Curve(np.array([1.0, 2.0]), values_P, values_P, values_P)
    assert draw(Chart("loss", "nats", (Line("loss", curve),))).y_ticks
