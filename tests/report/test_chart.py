"""Axes of charts: two ticks at least, or a reader cannot tell how far a curve has moved."""

from __future__ import annotations

import numpy as np
import pytest

from titan_speech.report.chart import Chart, Line, draw
from titan_speech.report.metrics_log import Curve


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


@pytest.mark.parametrize("is_log", [False, True])
@pytest.mark.parametrize("values", [[0.0, 5e-324], [5e-324, 1e-310], [0.0, 1e-290], [1e-20, 2e-20], [-9e299, 9e299]])
def test_values_at_the_ends_of_a_float_have_an_axis(values: list[float], is_log: bool) -> None:
    values_P = np.array(values)
    curve = Curve(np.array([1.0, 2.0]), values_P, values_P, values_P)
    ticks = draw(Chart("loss", "nats", (Line("loss", curve),), is_log=is_log)).y_ticks
    assert ticks
    assert len({at for at, _ in ticks}) == len(ticks) or is_log
