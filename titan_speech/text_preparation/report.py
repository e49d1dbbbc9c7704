"""What was met, changed, dropped and kept, as sums that can be added.

In: decisions on documents, in any number of processes. Out: one `Tally`, equal whatever the processes: counts add up,
and of examples the first few in the order of the inputs stay.

What a preparation met, changed, dropped and kept, for machines and for people.

In: the sum of all tallies, and what the job was. Out: report.json and report.md, the same content. For every language
met = kept + dropped by each rule.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from titan_speech.importers.text_documents import TextDocument

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

    def met(self, document: TextDocument) -> None:
        self.counts["met", document.language, ""] += 1
        self.counts["source_met", document.source, document.licence] += 1

    def changed(self, document: TextDocument, changes: Iterable[str]) -> None:
        for change in changes:
            self.counts["changed", document.language, change] += 1

    def dropped(self, document: TextDocument, rule: str, found: str) -> None:
        self.counts["dropped", document.language, rule] += 1
        examples = self.examples.setdefault(rule, [])
        if len(examples) < EXAMPLES_PER_RULE:
            examples.append(Example(document.id, document.language, found, excerpt_of(document)))

    def kept(self, document: TextDocument, num_tokens: int) -> None:
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


def excerpt_of(document: TextDocument) -> str:
    return " ".join(document.all_text[:EXAMPLE_CHARS].split())


def write_reports(tally: Tally, job_content: dict[str, object], folder: Path) -> None:
    content = report_content(tally, job_content)
    text = json.dumps(content, indent=1, ensure_ascii=False)
    (folder / "report.json").write_text(text, encoding="utf-8")
    (folder / "report.md").write_text(report_text(tally, job_content), encoding="utf-8")


def report_content(tally: Tally, job_content: dict[str, object]) -> dict[str, object]:
    return {
        "normalization_version": job_content["normalization_version"],
        "rules": job_content["rules"],
        "met": tally.total("met"),
        "kept": tally.total("kept"),
        "tokens": tally.total("tokens"),
        "instruction_tokens": tally.total("instruction_tokens"),
        "dropped": tally.by_name("dropped"),
        "changed": tally.by_name("changed"),
        "languages": {language: _language(tally, language) for language in tally.groups("met")},
        "sources": [_source(tally, source, licence) for source, licence in _sources(tally)],
        "examples": {rule: [asdict(one) for one in some] for rule, some in sorted(tally.examples.items())},
    }


def _language(tally: Tally, language: str) -> dict[str, object]:
    names = ("met", "kept", "tokens", "instruction_tokens")
    counts: dict[str, object] = {name: tally.counts[name, language, ""] for name in names}
    return counts | {"dropped": tally.of_group("dropped", language), "changed": tally.of_group("changed", language)}


def _sources(tally: Tally) -> list[tuple[str, str]]:
    return sorted({(source, licence) for what, source, licence in tally.counts if what == "source_met"})


def _source(tally: Tally, source: str, licence: str) -> dict[str, object]:
    names = {"met": "source_met", "kept": "source_kept", "tokens": "source_tokens"}
    counts = {name: tally.counts[what, source, licence] for name, what in names.items()}
    return {"source": source, "licence": licence, **counts}


def report_text(tally: Tally, job_content: dict[str, object]) -> str:
    met, kept = tally.total("met"), tally.total("kept")
    instructions = tally.total("instruction_tokens") / max(tally.total("tokens"), 1)
    blocks = [
        "# Prepared text",
        f"{met:,} documents met, {kept:,} kept ({kept / max(met, 1):.1%}), {tally.total('tokens'):,} tokens, "
        f"{instructions:.1%} of them instructions.",
        f"Version: `{job_content['normalization_version']}`",
        "## Languages\n" + _table(["language", "met", "kept", "tokens", "dropped"], _language_rows(tally)),
        "## Dropped, by rule and language\n" + _matrix(tally, "dropped"),
        "## Changed, by kind and language\n" + _matrix(tally, "changed"),
        "## Sources and licences\n" + _table(["source", "licence", "met", "kept", "tokens"], _source_rows(tally)),
        "## Examples of what was dropped\n" + _examples(tally),
    ]
    return "\n\n".join(blocks) + "\n"


def _language_rows(tally: Tally) -> list[list[object]]:
    rows = []
    for language in tally.groups("met"):
        met, kept, tokens = (tally.counts[name, language, ""] for name in ("met", "kept", "tokens"))
        rows.append([language, met, kept, tokens, f"{(met - kept) / met:.1%}"])
    return rows


def _source_rows(tally: Tally) -> list[list[object]]:
    return [list(_source(tally, source, licence).values()) for source, licence in _sources(tally)]


def _matrix(tally: Tally, what: str) -> str:
    languages, names = tally.groups("met"), tally.by_name(what)
    rows: list[list[object]] = [
        [name, *(tally.counts[what, language, name] for language in languages), total] for name, total in names.items()
    ]
    return _table(["", *languages, "all"], rows) if rows else "nothing"


def _examples(tally: Tally) -> str:
    blocks = []
    for rule, examples in sorted(tally.examples.items()):
        lines = [f"- `{_plain(e.id)}` ({e.language}) {_plain(e.found)}: {_plain(e.excerpt)}" for e in examples]
        blocks.append("\n".join([f"### {rule}", *lines]))
    return "\n\n".join(blocks) or "nothing was dropped"


def _plain(text: str) -> str:
    """Text of strangers, shown and not rendered."""
    return text.replace("`", "'").replace("<", "&lt;").replace("|", "\\|")


def _table(head: list[str], rows: list[list[object]]) -> str:
    lines = [head, ["---"] * len(head), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else _plain(str(value))
