"""Count what a preparation read, changed, rejected and kept, and report it.

In: decisions on documents, from any number of processes. Out: one `DocumentCounts`, equal for any number of processes:
counts are sums, and of the examples the first few in the order of the inputs are kept; then report.json and report.md
with the same content. For every language read = kept + rejected by each rule (keys `met`, `kept`, `dropped`).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from titan_speech.importers.text_documents import TextDocument
from titan_speech.utils.files import write_atomically
from titan_speech.utils.printable import escape_controls, one_line

EXAMPLES_PER_RULE = 3
EXAMPLE_CHARS = 240


@dataclass(frozen=True)
class Example:
    """One rejected document."""

    id: str
    language: str
    found: str
    excerpt: str


@dataclass
class DocumentCounts:
    """`counts` per (kind, group, name): `met`, `kept`, `tokens`, `instruction_tokens` per language; `dropped` and
    `changed` per language and rule; `source_met`, `source_kept`, `source_tokens` per source and licence."""

    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    examples: dict[str, list[Example]] = field(default_factory=dict)

    def add_read(self, document: TextDocument) -> None:
        self.counts["met", document.language, ""] += 1
        self.counts["source_met", document.source, document.licence] += 1

    def add_changes(self, document: TextDocument, changes: Iterable[str]) -> None:
        for change in changes:
            self.counts["changed", document.language, change] += 1

    def add_rejected(self, document: TextDocument, rule: str, found: str) -> None:
        self.counts["dropped", document.language, rule] += 1
        examples = self.examples.setdefault(rule, [])
        if len(examples) < EXAMPLES_PER_RULE:
            examples.append(Example(document.id, document.language, found, excerpt_of(document)))

    def add_kept(self, document: TextDocument, num_tokens: int) -> None:
        self.counts["kept", document.language, ""] += 1
        self.counts["tokens", document.language, ""] += num_tokens
        if document.user is not None:
            self.counts["instruction_tokens", document.language, ""] += num_tokens
        self.counts["source_kept", document.source, document.licence] += 1
        self.counts["source_tokens", document.source, document.licence] += num_tokens

    def merge(self, other: DocumentCounts) -> None:
        """Add the counts and examples of another worker, in the order of the inputs."""
        self.counts.update(other.counts)
        for rule, examples in other.examples.items():
            mine = self.examples.setdefault(rule, [])
            mine += examples[: EXAMPLES_PER_RULE - len(mine)]

    def total(self, what: str) -> int:
        """Sum of one kind of count."""
        return sum(count for (kind, _, _), count in self.counts.items() if kind == what)

    def by_name(self, what: str, language: str | None = None) -> dict[str, int]:
        """Counts of one kind per rule or change, of one language or of all, most frequent first."""
        sums: Counter[str] = Counter()
        for (kind, group, name), count in self.counts.items():
            if kind == what and language in (None, group):
                sums[name] += count
        return dict(sorted(sums.items(), key=lambda item: (-item[1], item[0])))

    def groups(self, what: str) -> list[str]:
        return sorted({group for kind, group, _ in self.counts if kind == what})

    def to_content(self) -> dict[str, object]:
        examples = {rule: [asdict(example) for example in some] for rule, some in sorted(self.examples.items())}
        return {"counts": [[*key, count] for key, count in sorted(self.counts.items())], "examples": examples}

    @classmethod
    def from_content(cls, content: dict) -> DocumentCounts:  # type: ignore[type-arg]
        counts = Counter({(what, group, name): count for what, group, name, count in content["counts"]})
        examples = {rule: [Example(**one) for one in some] for rule, some in content["examples"].items()}
        return cls(counts, examples)


def excerpt_of(document: TextDocument) -> str:
    return " ".join(document.all_text[:EXAMPLE_CHARS].split())


def write_reports(counts: DocumentCounts, job_content: dict[str, object], folder: Path) -> None:
    content = report_content(counts, job_content)
    text = escape_controls(json.dumps(content, indent=1, ensure_ascii=False))
    write_atomically(folder / "report.json", text)
    write_atomically(folder / "report.md", report_text(counts, job_content))


def report_content(counts: DocumentCounts, job_content: dict[str, object]) -> dict[str, object]:
    return {
        "normalization_version": job_content["normalization_version"],
        "rules": job_content["rules"],
        "met": counts.total("met"),
        "kept": counts.total("kept"),
        "tokens": counts.total("tokens"),
        "instruction_tokens": counts.total("instruction_tokens"),
        "dropped": counts.by_name("dropped"),
        "changed": counts.by_name("changed"),
        "languages": {language: _language(counts, language) for language in counts.groups("met")},
        "sources": [_source(counts, source, licence) for source, licence in _sources(counts)],
        "examples": counts.to_content()["examples"],
    }


def _language(counts: DocumentCounts, language: str) -> dict[str, object]:
    return {
        **{name: counts.counts[name, language, ""] for name in ("met", "kept", "tokens", "instruction_tokens")},
        "dropped": counts.by_name("dropped", language),
        "changed": counts.by_name("changed", language),
    }


def _sources(counts: DocumentCounts) -> list[tuple[str, str]]:
    return sorted({(source, licence) for kind, source, licence in counts.counts if kind == "source_met"})


def _source(counts: DocumentCounts, source: str, licence: str) -> dict[str, object]:
    return {
        "source": source,
        "licence": licence,
        "met": counts.counts["source_met", source, licence],
        "kept": counts.counts["source_kept", source, licence],
        "tokens": counts.counts["source_tokens", source, licence],
    }


def report_text(counts: DocumentCounts, job_content: dict[str, object]) -> str:
    met, kept = counts.total("met"), counts.total("kept")
    sources = [list(_source(counts, *of).values()) for of in _sources(counts)]
    instructions = counts.total("instruction_tokens") / max(counts.total("tokens"), 1)
    blocks = [
        "# Prepared text",
        f"{met:,} documents read, {kept:,} kept ({kept / max(met, 1):.1%}), {counts.total('tokens'):,} tokens, "
        f"{instructions:.1%} of them instructions.",
        f"Version: `{job_content['normalization_version']}`",
        "## Languages\n" + _table(["language", "read", "kept", "tokens", "rejected"], _language_rows(counts)),
        "## Rejected, per rule and language\n" + _matrix(counts, "dropped"),
        "## Changed, per kind and language\n" + _matrix(counts, "changed"),
        "## Sources and licences\n" + _table(["source", "licence", "read", "kept", "tokens"], sources),
        "## Examples of rejected documents\n" + _examples(counts),
    ]
    return "\n\n".join(blocks) + "\n"


def _language_rows(counts: DocumentCounts) -> list[list[object]]:
    rows = []
    for language in counts.groups("met"):
        met, kept, tokens = (counts.counts[name, language, ""] for name in ("met", "kept", "tokens"))
        rows.append([language, met, kept, tokens, f"{(met - kept) / met:.1%}"])
    return rows


def _matrix(counts: DocumentCounts, what: str) -> str:
    languages, names = counts.groups("met"), counts.by_name(what)
    rows: list[list[object]] = [
        [name, *(counts.counts[what, language, name] for language in languages), total] for name, total in names.items()
    ]
    return _table(["", *languages, "all"], rows) if rows else "nothing"


def _examples(counts: DocumentCounts) -> str:
    blocks = []
    for rule, examples in sorted(counts.examples.items()):
        lines = [f"- `{_code(e.id)}` ({e.language}) {_escape(e.found)}: {_escape(e.excerpt)}" for e in examples]
        blocks.append("\n".join([f"### {rule}", *lines]))
    return "\n\n".join(blocks) or "no document was rejected"


def _escape(text: str) -> str:
    """Escape untrusted text for Markdown: it stays text of one line, without links, images and tags."""
    text = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace("`", "'")
    return re.sub(r"([\\\[\]|])", r"\\\1", text)


def _code(text: str) -> str:
    """As `_escape`, between backticks."""
    return one_line(text).replace("`", "'")


def _table(head: list[str], rows: list[list[object]]) -> str:
    lines = [head, ["---"] * len(head), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else _escape(str(value))
