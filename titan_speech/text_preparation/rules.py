"""Limits per document, and the first one a document breaks.

In: a TOML file, or nothing; a normalized document. Out: `DocumentRules`, whose defaults are the recipe's; a
`BrokenRule`, or None. Unknown keys and values of a wrong type are errors with the nearest valid name. The digest of all
values is part of the version of the prepared text. Rules are checked from cheap to expensive, and only the first broken
rule is counted, so the counts of a report add up.

    min_chars = 200
    too_long = "cut"
    [signals.ccnet_perplexity]
    max = 1000.0
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from itertools import pairwise

from titan_speech.errors import DataError
from titan_speech.importers.language_id import language_fits, letter_share, script_share
from titan_speech.importers.text_documents import TextDocument
from titan_speech.utils.text_table import counted


@dataclass(frozen=True)
class ValueRange:
    """The range of values that pass, bounds included."""

    min: float = float("-inf")
    max: float = float("inf")


# The rules of Gopher and RefinedWeb as RedPajama v2 states them, by the names of its quality signals.
DEFAULT_SIGNALS = {
    "rps_doc_word_count": ValueRange(50, 100_000),
    "rps_doc_mean_word_length": ValueRange(3, 10),
    "rps_doc_symbol_to_word_ratio": ValueRange(max=0.1),
    "rps_doc_frac_no_alph_words": ValueRange(max=0.2),
    "rps_doc_frac_lines_end_with_ellipsis": ValueRange(max=0.3),
    "rps_doc_frac_chars_top_2gram": ValueRange(max=0.2),
    "rps_doc_frac_chars_dupe_10grams": ValueRange(max=0.1),
}


@dataclass(frozen=True)
class DocumentRules:
    """One field per rule."""

    min_chars: int = 128
    """Minimum characters of a document."""
    min_instruction_chars: int = 32
    """Minimum characters of an instruction, question and answer together: good answers are short."""
    max_tokens: int = 4096
    """Maximum tokens of a document; 0: no limit."""
    too_long: str = "drop"
    """Documents above `max_tokens`: "drop", or "cut" after the last paragraph or sentence that fits."""
    check_language: bool = True
    """Whether to reject documents whose language is not that of their tag."""
    min_script_share: float = 0.5
    """Minimum share of letters in the script of the language."""
    min_letter_share: float = 0.6
    """Minimum share of letters and vowel signs among non-space characters."""
    max_repeated_lines: float = 0.3
    """Maximum share of characters in repeated lines."""
    max_repeated_words: float = 0.2
    """Maximum share of characters in the most frequent run of three words."""
    max_damaged: float = 0.001
    """Maximum share of replacement characters (U+FFFD)."""
    near_duplicate: float = 0.8
    """Minimum Jaccard similarity of word 5-grams of near duplicates; 0 turns the search off."""
    max_instruction_share: float = 0.2
    """Maximum share of instructions among all kept tokens; 1: no limit."""
    signals: Mapping[str, ValueRange] = field(default_factory=lambda: dict(DEFAULT_SIGNALS))
    """Limits on quality signals, for sources that have them."""


def parse_rules(content: Mapping[str, object], where: str) -> DocumentRules:
    """Rules from a parsed TOML file.

    Raises:
        DataError: an unknown rule, or a value of a wrong type or outside its range.
    """
    kinds = {f.name: f.type for f in fields(DocumentRules)}
    values: dict[str, object] = {}
    for name, value in content.items():
        if name not in kinds:
            near = get_close_matches(name, kinds, n=1, cutoff=0.5)
            hint = f" (nearest is {near[0]!r})" if near else ""
            raise DataError(f"{where}: unknown rule {name!r}{hint}; rules are {', '.join(kinds)}")
        values[name] = _signals(value, where) if name == "signals" else _checked(name, value, str(kinds[name]), where)
    rules = DocumentRules(**values)  # type: ignore[arg-type]
    if rules.too_long not in ("drop", "cut"):
        raise DataError(f'{where}: too_long is {rules.too_long!r}; expected "drop" or "cut"')
    return rules


def _checked(name: str, value: object, kind: str, where: str) -> object:
    if kind == "float" and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not 0 <= value <= 1:
            raise DataError(f"{where}: {name} is {value}; expected a share from 0 to 1")
        return float(value)
    expected = {"int": int, "bool": bool, "str": str, "float": float}[kind]
    if type(value) is not expected or (kind == "int" and value < 0):  # type: ignore[operator]
        raise DataError(f"{where}: {name} is {value!r}; expected {'a number from 0' if kind == 'int' else kind}")
    return value


def _signals(value: object, where: str) -> dict[str, ValueRange]:
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: signals is {value!r}; expected tables such as [signals.ccnet_perplexity]")
    ranges = {}
    for name, limits in value.items():
        if not isinstance(limits, Mapping) or not limits or set(limits) - {"min", "max"}:
            raise DataError(f"{where}: signals.{name} is {limits!r}; expected `min`, `max` or both")
        ranges[str(name)] = ValueRange(**{str(key): float(limit) for key, limit in limits.items()})
    return ranges


def rules_content(rules: DocumentRules) -> dict[str, object]:
    """The rules as plain values, for JSON."""
    content: dict[str, object] = {f.name: getattr(rules, f.name) for f in fields(DocumentRules) if f.name != "signals"}
    content["signals"] = {
        signal: {name: value for name, value in asdict(limits).items() if abs(value) != float("inf")}
        for signal, limits in sorted(rules.signals.items())
    }
    return content


SENTENCE_ENDS = (".", "!", "?", "।", "॥", "۔", "。")


@dataclass(frozen=True)
class BrokenRule:
    """Name of a broken rule, and the value that was found."""

    rule: str
    found: str


def find_broken_rule(document: TextDocument, rules: DocumentRules) -> BrokenRule | None:
    """The first rule that the document breaks, or None."""
    text = document.all_text
    min_chars = rules.min_chars if document.user is None else rules.min_instruction_chars
    if not document.text.strip():
        return BrokenRule("empty", "no text")
    if len(text) < min_chars:
        return BrokenRule("too_short", counted(len(text), "character"))
    if (damaged := text.count("\ufffd") / len(text)) > rules.max_damaged:
        return BrokenRule("damaged", f"{damaged:.1%} replacement characters")
    if document.signals is not None and (broken := _find_broken_signal(document, rules)):
        return broken
    if (share := letter_share(text)) < rules.min_letter_share:
        return BrokenRule("few_letters", f"{share:.0%} letters")
    if (share := script_share(text, document.language)) < rules.min_script_share:
        return BrokenRule("wrong_script", f"{share:.0%} of letters in the script of {document.language}")
    if (share := repeated_lines(text)) > rules.max_repeated_lines:
        return BrokenRule("repeated_lines", f"{share:.0%} of characters in repeated lines")
    if (share := repeated_words(text)) > rules.max_repeated_words:
        return BrokenRule("repeated_words", f"{share:.0%} of characters in one run of three words")
    if rules.check_language:
        fits, found = language_fits(text, document.language)
        if not fits:
            return BrokenRule("wrong_language", f"{found}, tagged {document.language}")
    return None


def _find_broken_signal(document: TextDocument, rules: DocumentRules) -> BrokenRule | None:
    signals = document.signals or {}
    for name, limits in rules.signals.items():
        if name not in signals:
            raise DataError(
                f"document {document.id!r} has no quality signal {name!r}; found "
                f"{', '.join(sorted(signals)) or 'none'}: correct [signals] of the rules or the input"
            )
        if not limits.min <= signals[name] <= limits.max:
            return BrokenRule(f"signal {name}", f"{signals[name]:g}")
    return None


def repeated_lines(text: str) -> float:
    """Share of characters in lines that occurred before."""
    lines = [line for line in text.split("\n") if line]
    if len(lines) < 3:
        return 0.0
    counts = Counter(lines)
    return sum(len(line) * (count - 1) for line, count in counts.items()) / sum(map(len, lines))


def repeated_words(text: str) -> float:
    """Share of characters in the most frequent run of three words, if it occurs at least three times."""
    words = text.split()
    if len(words) < 30:
        return 0.0
    run, count = Counter(zip(words, words[1:], words[2:], strict=False)).most_common(1)[0]
    return count * sum(map(len, run)) / sum(map(len, words)) if count >= 3 else 0.0


def cut_points(text: str) -> list[int]:
    """Positions where a document may be cut: after paragraphs and sentences."""
    ends = [i + 1 for i, (a, b) in enumerate(pairwise(text)) if b in " \n" and (a in SENTENCE_ENDS or b == "\n")]
    return [*ends, len(text)]
