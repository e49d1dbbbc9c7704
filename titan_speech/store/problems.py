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
    """One problem of a sample; `kind` groups problems of many samples, `detail` says what was found and expected."""

    kind: str
    detail: str


@dataclass(frozen=True)
class ProblemGroup:
    """All problems of one kind: the line of the first sample, and how many samples there are."""

    first: str
    count: int
    noun: str = "samples"

    def others(self) -> str:
        """Such as ` (and 2 more samples)`; nothing where there is only the first."""
        if self.count == 1:
            return ""
        return f" (and {self.count - 1} more {self.noun.removesuffix('s') if self.count == 2 else self.noun})"


class Problems:
    """The first sample and the number of samples per kind of problem."""

    def __init__(self, what_failed: str, limit: int | None = MAX_PROBLEMS) -> None:
        self._what_failed, self._limit = what_failed, limit
        self.found: dict[str, ProblemGroup] = {}

    @property
    def count(self) -> int:
        return sum(found.count for found in self.found.values())

    def add(self, sample_id: str, problem: Problem, count: int = 1, place: str | None = None) -> None:
        """Adds `count` samples with this problem, of which `sample_id` is the first; `place` is its place in the input.

        Raises:
            DataError: the limit is reached.
        """
        where = f" of {place}" if place else ""
        self._add(problem.kind, ProblemGroup(f"sample {sample_id!r}{where}: {problem.detail}", count))
        if self._limit is not None and self.count >= self._limit:
            self.raise_if_any()

    def merge(self, found: Mapping[str, ProblemGroup]) -> None:
        """Adds what another process found; the first samples known already stay the first."""
        for kind, more in found.items():
            self._add(kind, more)

    def _add(self, kind: str, more: ProblemGroup) -> None:
        known = self.found.get(kind)
        self.found[kind] = more if known is None else replace(known, count=known.count + more.count)

    def raise_if_any(self, remedy: str = "correct these or leave them out") -> None:
        if self.found:
            raise DataError(f"{self._what_failed}; {remedy}:\n{self.lines()}")

    def lines(self) -> str:
        """One line per kind of problem."""
        return "\n".join(f"  {one.first}{one.others()}" for one in self.found.values())


def combine_problems(all_found: Iterable[Mapping[str, ProblemGroup]], what_failed: str = "") -> Problems:
    """Combines what several processes found, without a limit."""
    problems = Problems(what_failed, limit=None)
    for found in all_found:
        problems.merge(found)
    return problems
