"""The limits documents are held against, as a TOML file may set them.

In: `rules.toml`, or nothing. Out: `Rules`, whose defaults are the recipe's. Unknown keys and values of a wrong type are
errors with the nearest valid name. The digest of all values is part of the version of what was prepared.

    min_chars = 200
    too_long = "cut"
    [signals.ccnet_perplexity]
    max = 1000.0

Rules that look at one document: which of them it breaks first, and with what number.

In: a normalised document and `Rules`. Out: None, or a `Broken` rule. Rules go from cheap to dear, and the first that is
broken names the drop, so the counts of a report add up.
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


@dataclass(frozen=True)
class ValueRange:
    """Values that pass, borders included."""

    min: float = float("-inf")
    max: float = float("inf")


# What the makers of RedPajama v2 give as the rules of Gopher and RefinedWeb, in the names of its signals.
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
    """One value a rule."""

    min_chars: int = 128
    """Documents below are dropped."""
    min_instruction_chars: int = 32
    """The same for instructions, question and answer together: good answers are short."""
    max_tokens: int = 4096
    """Documents above are dropped or cut; 0 is no limit."""
    too_long: str = "drop"
    """"drop", or "cut" at the last end of a paragraph or sentence that fits."""
    check_language: bool = True
    """Whether a document in another language than its tag says is dropped."""
    min_script_share: float = 0.5
    """Share of letters in the script of the language."""
    min_letter_share: float = 0.6
    """Share of letters and vowel signs among what is not space."""
    max_repeated_lines: float = 0.3
    """Share of characters in lines that stood before."""
    max_repeated_words: float = 0.2
    """Share of characters in the most frequent run of three words."""
    max_damaged: float = 0.001
    """Share of replacement characters."""
    near_duplicate: float = 0.8
    """Jaccard similarity of word 5-grams from which two documents are one; 0 turns the search off."""
    max_instruction_share: float = 0.2
    """Share of instructions among all kept tokens; 1 is no limit."""
    signals: Mapping[str, ValueRange] = field(default_factory=lambda: dict(DEFAULT_SIGNALS))
    """Limits on quality signals, for sources that bring them."""


def parse_rules(content: Mapping[str, object], where: str) -> DocumentRules:
    """Rules with the values of a parsed TOML."""
    kinds = {f.name: f.type for f in fields(DocumentRules)}
    values: dict[str, object] = {}
    for name, value in content.items():
        if name not in kinds:
            raise DataError(f"{where}: unknown rule {name!r}{_nearest(name, kinds)}; rules are {', '.join(kinds)}")
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


def _nearest(name: str, valid: Mapping[str, object]) -> str:
    matches = get_close_matches(name, valid, n=1, cutoff=0.5)
    return f" (nearest is {matches[0]!r})" if matches else ""


def rules_content(rules: DocumentRules) -> dict[str, object]:
    """The rules as plain values, for JSON."""
    content: dict[str, object] = {f.name: getattr(rules, f.name) for f in fields(DocumentRules) if f.name != "signals"}
    content["signals"] = {name: _limits(limits) for name, limits in sorted(rules.signals.items())}
    return content


def _limits(limits: ValueRange) -> dict[str, float]:
    return {name: value for name, value in asdict(limits).items() if abs(value) != float("inf")}


SENTENCE_ENDS = (".", "!", "?", "।", "॥", "۔", "。")


@dataclass(frozen=True)
class Broken:
    """A rule's name, and what was found."""

    rule: str
    found: str


def broken_rule(document: TextDocument, rules: DocumentRules) -> Broken | None:
    """The first rule the document breaks."""
    text = document.all_text
    least = rules.min_chars if document.user is None else rules.min_instruction_chars
    if not document.text.strip():
        return Broken("empty", "no text")
    if len(text) < least:
        return Broken("too_short", f"{len(text)} characters")
    if (damaged := text.count("\ufffd") / len(text)) > rules.max_damaged:
        return Broken("damaged", f"{damaged:.1%} replacement characters")
    if document.signals is not None and (broken := _broken_signal(document, rules)):
        return broken
    if (share := letter_share(text)) < rules.min_letter_share:
        return Broken("few_letters", f"{share:.0%} letters")
    if (share := script_share(text, document.language)) < rules.min_script_share:
        return Broken("wrong_script", f"{share:.0%} of letters in the script of {document.language}")
    if (share := repeated_lines(text)) > rules.max_repeated_lines:
        return Broken("repeated_lines", f"{share:.0%} of characters in repeated lines")
    if (share := repeated_words(text)) > rules.max_repeated_words:
        return Broken("repeated_words", f"{share:.0%} of characters in one run of three words")
    if rules.check_language:
        fits, found = language_fits(text, document.language)
        if not fits:
            return Broken("wrong_language", f"{found}, tagged {document.language}")
    return None


def _broken_signal(document: TextDocument, rules: DocumentRules) -> Broken | None:
    signals = document.signals or {}
    for name, limits in rules.signals.items():
        if name not in signals:
            raise DataError(
                f"document {document.id!r} has no quality signal {name!r}; found "
                f"{', '.join(sorted(signals)) or 'none'}: correct [signals] of the rules or the input"
            )
        if not limits.min <= signals[name] <= limits.max:
            return Broken(f"signal {name}", f"{signals[name]:g}")
    return None


def repeated_lines(text: str) -> float:
    """Share of characters in lines that stood before."""
    lines = [line for line in text.split("\n") if line]
    if len(lines) < 3:
        return 0.0
    counts = Counter(lines)
    return sum(len(line) * (count - 1) for line, count in counts.items()) / sum(map(len, lines))


def repeated_words(text: str) -> float:
    """Share of characters in the most frequent run of three words that comes at least three times."""
    words = text.split()
    if len(words) < 30:
        return 0.0
    run, count = Counter(zip(words, words[1:], words[2:], strict=False)).most_common(1)[0]
    return count * sum(map(len, run)) / sum(map(len, words)) if count >= 3 else 0.0


def cut_points(text: str) -> list[int]:
    """Where a document may be cut: after paragraphs and sentences."""
    ends = [i + 1 for i, (a, b) in enumerate(pairwise(text)) if b in " \n" and (a in SENTENCE_ENDS or b == "\n")]
    return [*ends, len(text)]
