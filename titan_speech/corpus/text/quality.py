"""Rules that look at one document: which of them it breaks first, and with what number.

In: a normalised document and `Rules`. Out: None, or a `Broken` rule. Rules go from cheap to dear, and the first that is
broken names the drop, so the counts of a report add up.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

from titan_speech.corpus.text.document import Document
from titan_speech.corpus.text.identify import language_fits, letter_share, script_share
from titan_speech.corpus.text.rules import Rules
from titan_speech.errors import DataError

SENTENCE_ENDS = (".", "!", "?", "।", "॥", "۔", "。")


@dataclass(frozen=True)
class Broken:
    """A rule's name, and what was found."""

    rule: str
    found: str


def broken_rule(document: Document, rules: Rules) -> Broken | None:
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


def _broken_signal(document: Document, rules: Rules) -> Broken | None:
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
