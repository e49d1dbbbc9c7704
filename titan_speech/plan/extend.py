"""A trace of a deep model from those of two shallow ones.

In: traces with a and b layers of one width. Out: the trace with n layers: of every quantity q,
q(a) + (q(b) - q(a)) (n - a) / (b - a). Layers are alike, so this is exact at each place of a step (timeline.py); a test
holds it to a trace of all layers. Three and four layers take a quarter of the time of 28.
"""

from __future__ import annotations

from titan_speech.plan.step import StepTrace, Traffic
from titan_speech.plan.timeline import extended


def extended_trace(shallow: StepTrace, deeper: StepTrace, num_layers: int) -> StepTrace:
    """The trace of a model with `num_layers`."""
    more = (num_layers - shallow.num_layers) / (deeper.num_layers - shallow.num_layers)

    def grown(first: float, second: float) -> int:
        return round(first + (second - first) * more)

    first, second = ({one.collective: one for one in trace.traffic} for trace in (shallow, deeper))
    names = dict.fromkeys([*first, *second])
    nothing = {name: Traffic(name, 0, 0) for name in names}
    first, second = nothing | first, nothing | second
    return StepTrace(
        num_layers=num_layers,
        peaks=tuple(extended(shallow.peaks, deeper.peaks, more)),
        resident={name: grown(shallow.resident[name], deeper.resident[name]) for name in shallow.resident},
        flops=grown(shallow.flops, deeper.flops),
        traffic=tuple(
            Traffic(
                name,
                grown(first[name].times, second[name].times),
                grown(first[name].num_bytes, second[name].num_bytes),
            )
            for name in names
        ),
    )
