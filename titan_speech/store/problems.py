"""What is wrong with many samples, collected into one readable error.

In: problems with the sample they were found in. Out: one line per kind of problem, naming the first sample and counting
the rest, so a thousand bad samples make a message of a few lines. With a limit, collecting stops there; without one
everything is counted, and what several processes found is combined.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from titan_speech.errors import DataError

MAX_PROBLEMS = 1000


@dataclass(frozen=True)
class Problem:
    """`kind` groups problems of many samples; `detail` says what was found and what was expected."""

    kind: str
    detail: str


@dataclass(frozen=True)
class ProblemGroup:
    """All problems of one kind: the line of the first offender, and how many there are."""

    first: str
    count: int
    noun: str = "samples"


class Problems:
    """First offender and number of offenders per kind."""

    def __init__(self, what_failed: str, limit: int | None = MAX_PROBLEMS) -> None:
        self._what_failed, self._limit = what_failed, limit
        self.found: dict[str, ProblemGroup] = {}

    @property
    def count(self) -> int:
        return sum(found.count for found in self.found.values())

    def add(self, sample_id: str, problem: Problem, count: int = 1, place: str | None = None) -> None:
        """`count` samples with this problem, of which `sample_id` is the first; `place` says where it lies."""
        where = f" of {place}" if place else ""
        self._add(problem.kind, ProblemGroup(f"sample {sample_id!r}{where}: {problem.detail}", count))
        if self._limit is not None and self.count >= self._limit:
            self.raise_if_any()

    def merge(self, found: Mapping[str, ProblemGroup]) -> None:
        """Adds what another process found; its first offenders come after those known already."""
        for kind, more in found.items():
            self._add(kind, more)

    def _add(self, kind: str, more: ProblemGroup) -> None:
        known = self.found.get(kind)
        self.found[kind] = more if known is None else replace(known, count=known.count + more.count)

    def raise_if_any(self) -> None:
        if self.found:
            raise DataError(f"{self._what_failed}; correct these or leave them out:\n{self.lines()}")

    def lines(self) -> str:
        return "\n".join(f"  {found.first}{_rest(found)}" for found in self.found.values())


def combine_problems(all_found: Iterable[Mapping[str, ProblemGroup]], what_failed: str = "") -> Problems:
    """What several processes found, all of it counted."""
    problems = Problems(what_failed, limit=None)
    for found in all_found:
        problems.merge(found)
    return problems


def _rest(found: ProblemGroup) -> str:
    return f" (and {found.count - 1} more {found.noun})" if found.count > 1 else ""
