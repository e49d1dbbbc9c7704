"""Collecting what is wrong with many samples into one readable error.

In: problems with the sample they were met in. Out: one line per kind of problem, naming the first offender
and counting the rest, so a thousand bad samples make a message of a few lines. Collecting stops there.
"""

from __future__ import annotations

from dataclasses import dataclass

from titan_speech.errors import DataError

MAX_PROBLEMS = 1000


@dataclass(frozen=True)
class Problem:
    """`kind` groups problems of many samples; `detail` says what was found and what was expected."""

    kind: str
    detail: str


class Problems:
    """First offender and number of offenders per kind."""

    def __init__(self, what_failed: str) -> None:
        self._what_failed = what_failed
        self._first: dict[str, str] = {}
        self._count: dict[str, int] = {}

    def add(self, sample_id: str, problem: Problem) -> None:
        self._first.setdefault(problem.kind, f"sample {sample_id!r}: {problem.detail}")
        self._count[problem.kind] = self._count.get(problem.kind, 0) + 1
        if sum(self._count.values()) >= MAX_PROBLEMS:
            self.raise_if_any()

    def raise_if_any(self) -> None:
        if self._first:
            lines = "\n".join(f"  {first}{self._rest(kind)}" for kind, first in self._first.items())
            raise DataError(f"{self._what_failed}; correct these samples or leave them out:\n{lines}")

    def _rest(self, kind: str) -> str:
        rest = self._count[kind] - 1
        return f" (and {rest} more samples)" if rest else ""
