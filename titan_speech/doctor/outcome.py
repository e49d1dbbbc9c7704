"""What one check of the doctor found.

In: nothing. Out: `DoctorOutcome`, and outcomes as a table for people or as JSON.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from titan_speech.utils.printable import escape_controls
from titan_speech.utils.text_table import table_lines


class Verdict(enum.StrEnum):
    """How a check ended."""

    PASS = "pass"  # noqa: S105  (no password)
    WARN = "warn"
    """The run can start; something will probably cost time or quality."""
    FAIL = "FAIL"
    """The run would fail, or train something else than meant."""
    SKIPPED = "skipped"


@dataclass(frozen=True)
class DoctorOutcome:
    """One row of the table."""

    check: str
    verdict: Verdict
    found: str
    """In one line."""
    advice: str = ""
    """What to do, or why it was skipped."""
    sec: float = 0.0


def table(outcomes: Sequence[DoctorOutcome]) -> list[str]:
    """The outcomes as a table, and below it what to do."""
    rows = [("check", "verdict", "time", "found")]
    rows += [(one.check, one.verdict.value, f"{one.sec:.1f} s", one.found) for one in outcomes]
    lines = table_lines(rows, "<<><")
    advised = [one for one in outcomes if one.advice]
    if advised:
        lines += ["", "what to do"]
        for one in advised:
            first, *rest = one.advice.splitlines()
            lines += [f"  {one.check} ({one.verdict.value}): {first}", *(f"    {line}" for line in rest)]
    return [*lines, "", summary(outcomes)]


def summary(outcomes: Sequence[DoctorOutcome]) -> str:
    """The verdict over all checks."""
    counts = {verdict: sum(one.verdict is verdict for one in outcomes) for verdict in Verdict}
    text = ", ".join(f"{number} {verdict.value.lower()}" for verdict, number in counts.items() if number)
    return f"{'ready' if is_ready(outcomes) else 'not ready'}: {text}"


def is_ready(outcomes: Sequence[DoctorOutcome]) -> bool:
    """Whether no check failed."""
    return not any(one.verdict is Verdict.FAIL for one in outcomes)


def as_json(outcomes: Sequence[DoctorOutcome]) -> str:
    """The outcomes as JSON."""
    content = {"ready": is_ready(outcomes), "checks": [asdict(one) for one in outcomes]}
    return escape_controls(json.dumps(content, indent=1, ensure_ascii=False))
