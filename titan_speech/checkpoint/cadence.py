"""At which steps a checkpoint is due.

In: the rules of [checkpoint] cadence. Out: a pure function of the step, so a run that was cut anywhere saves at the
same steps as one that was not. A rule holds up to its `until`; in it the multiples of `every` are due.
"""

from __future__ import annotations

from collections.abc import Sequence

from titan_speech.config.tables import CadenceRule


def is_due(rules: Sequence[CadenceRule], step: int) -> bool:
    """Whether the rule that covers `step` has it as a multiple; steps beyond the last rule are never due."""
    every = next((rule.every for rule in rules if rule.until is None or step <= rule.until), None)
    return every is not None and step > 0 and step % every == 0
