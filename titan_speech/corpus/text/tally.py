"""What was met, changed, dropped and kept, as sums that can be added.

In: decisions on documents, in any number of processes. Out: one `Tally`, equal whatever the processes: counts add up,
and of examples the first few in the order of the inputs stay.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from titan_speech.corpus.text.document import Document

EXAMPLES_PER_RULE = 3
EXAMPLE_CHARS = 240


@dataclass(frozen=True)
class Example:
    """One dropped document."""

    id: str
    language: str
    found: str
    excerpt: str


@dataclass
class Tally:
    """`counts` by (what, group, name): `met`, `kept`, `tokens`, `instruction_tokens` by language, `dropped` and
    `changed` by language and rule, `source_met`, `source_kept`, `source_tokens` by source and licence."""

    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    examples: dict[str, list[Example]] = field(default_factory=dict)

    def met(self, document: Document) -> None:
        self.counts["met", document.language, ""] += 1
        self.counts["source_met", document.source, document.licence] += 1

    def changed(self, document: Document, changes: Iterable[str]) -> None:
        for change in changes:
            self.counts["changed", document.language, change] += 1

    def dropped(self, document: Document, rule: str, found: str) -> None:
        self.counts["dropped", document.language, rule] += 1
        examples = self.examples.setdefault(rule, [])
        if len(examples) < EXAMPLES_PER_RULE:
            examples.append(Example(document.id, document.language, found, excerpt_of(document)))

    def kept(self, document: Document, num_tokens: int) -> None:
        self.counts["kept", document.language, ""] += 1
        self.counts["tokens", document.language, ""] += num_tokens
        if document.user is not None:
            self.counts["instruction_tokens", document.language, ""] += num_tokens
        self.counts["source_kept", document.source, document.licence] += 1
        self.counts["source_tokens", document.source, document.licence] += num_tokens

    def add(self, other: Tally) -> None:
        self.counts.update(other.counts)
        for rule, examples in other.examples.items():
            mine = self.examples.setdefault(rule, [])
            mine += examples[: EXAMPLES_PER_RULE - len(mine)]

    def total(self, what: str) -> int:
        return sum(count for (kind, _, _), count in self.counts.items() if kind == what)

    def by_name(self, what: str) -> dict[str, int]:
        """Counts of one kind by rule or change, most first."""
        sums: Counter[str] = Counter()
        for (kind, _, name), count in self.counts.items():
            if kind == what:
                sums[name] += count
        return dict(sorted(sums.items(), key=lambda item: (-item[1], item[0])))

    def of_group(self, what: str, group: str) -> dict[str, int]:
        found = {name: n for (kind, g, name), n in self.counts.items() if kind == what and g == group and n}
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    def groups(self, what: str) -> list[str]:
        return sorted({group for kind, group, _ in self.counts if kind == what})

    def to_content(self) -> dict[str, object]:
        examples = {rule: [asdict(example) for example in some] for rule, some in sorted(self.examples.items())}
        return {"counts": [[*key, count] for key, count in sorted(self.counts.items())], "examples": examples}

    @classmethod
    def from_content(cls, content: dict) -> Tally:  # type: ignore[type-arg]
        counts = Counter({(what, group, name): count for what, group, name, count in content["counts"]})
        examples = {rule: [Example(**one) for one in some] for rule, some in content["examples"].items()}
        return cls(counts, examples)


def excerpt_of(document: Document) -> str:
    return " ".join(document.all_text[:EXAMPLE_CHARS].split())
