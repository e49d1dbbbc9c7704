"""One form for text that reads the same: documents and transcripts of speech alike.

In: text in any script, and its language tag. Out: the same words in one spelling. Nothing is dropped that a reader
would speak. In order:

1. mojibake undone (ftfy, only where its heuristic sees some), then NFC
2. look-alikes of Latin, Arabic and digits folded: full width, ligatures, presentation forms, mathematical letters
3. Indic: two-character vowels, joiner chillus and khanda ta, dandas at unassigned places (tables in indic.py)
4. joiners kept where they shape a conjunct (beside a virama) or a word of Arabic script, taken out elsewhere
5. controls, soft hyphens, byte order marks, direction marks, private use taken out
6. decimal digits of every script written 0-9; quotes, dashes and dots in one form; at most three equal marks in a row
7. Indic languages: `|` after a letter is a danda, no space before a mark
8. one space between words, at most one empty line between paragraphs

`normalize(normalize(x)) == normalize(x)`: rules repeat until nothing changes, for ordinary text that is one extra
look. One process does 2.5 (Malayalam with old chillus) to 7 MB/s (English) on a busy machine.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from functools import lru_cache
from importlib.metadata import version

import ftfy
import ftfy.badness
import regex

from titan_speech.corpus.text.indic import DANDA, DANDAS, DOUBLE_DANDA, JOINED, VIRAMAS, VOWELS, ZWJ, ZWNJ
from titan_speech.corpus.text.languages import is_indic

RULES = 1
"""Raised whenever a rule changes what comes out; a test holds the digest of real text for each number."""

MAX_ROUNDS = 16

_FOLDED_RANGES = ((0xFB00, 0xFB06), (0xFF01, 0xFF5E), (0x1D400, 0x1D7FF), (0xFB50, 0xFDFB), (0xFE70, 0xFEFC))
_PUNCTUATION = {
    "‘": "'", "’": "'", "‚": "'", "‛": "'", "ʼ": "'", "`": "'", "´": "'", "“": '"', "”": '"', "„": '"', "‟": '"',
    "«": '"', "»": '"', "‹": "'", "›": "'", "‐": "-", "‑": "-", "‒": "-", "–": "-", "−": "-", "―": "—", "…": "...",
    "؟": "؟", "\u2028": "\n", "\u2029": "\n\n", "\x85": "\n", "\x0b": "\n", "\x0c": "\n", "\t": " ",
}  # fmt: skip

# What UTF-8 read as a one-byte encoding is made of: Latin, Greek and Cyrillic letters beyond ASCII.
_MAY_BE_MOJIBAKE = re.compile("[\u0080-\u024f\u0370-\u045f]")
_PAIRS = re.compile("|".join((*JOINED, *VOWELS)))
_STRAY_JOINERS = regex.compile(
    rf"(?<![{VIRAMAS}])(?<!\p{{Arabic}})[{ZWJ}{ZWNJ}]+(?![{VIRAMAS}])|(?<=\p{{Arabic}})[{ZWJ}{ZWNJ}]+(?!\p{{Arabic}})"
    rf"|(?<=[{VIRAMAS}{ZWJ}{ZWNJ}])[{ZWJ}{ZWNJ}]+$"
)
_REPEATED_JOINERS = regex.compile(rf"([{ZWJ}{ZWNJ}])[{ZWJ}{ZWNJ}]+")
_REPEATED_MARKS = regex.compile(rf"([!?.,;:\-—_=*~#'\"{DANDA}{DOUBLE_DANDA}])\1{{3,}}")
_TWO_DANDAS = regex.compile(rf"{DANDA}[ ]?{DANDA}")
_PIPE_DANDA = regex.compile(r"(?<=[\p{L}\p{M}] ?)(\|\|?)(?=\s|$)")
_SPACE_BEFORE_MARK = regex.compile(rf"(?<=[\p{{L}}\p{{M}}\p{{N}}]) +(?=[,.?!;{DANDA}{DOUBLE_DANDA}](?:\s|$))")
_SPACES = regex.compile(r"[\p{Zs}]+")
_LINE_ENDS = regex.compile(r" ?\n ?")
_EMPTY_LINES = regex.compile(r"\n{3,}")


def normalization_version() -> str:
    """Names the rules and what they stand on; goes into the manifest of a store."""
    return f"text-{RULES}.unicode-{unicodedata.unidata_version}.ftfy-{version('ftfy')}.regex-{version('regex')}"


def normalize(text: str, language: str) -> str:
    """The text in its one form; idempotent."""
    if text.isascii():
        return _fixed_point(text, indic=is_indic(language))
    return _fixed_point(text.encode("utf-8", "ignore").decode(), indic=is_indic(language))


def _fixed_point(text: str, indic: bool) -> str:
    for _ in range(MAX_ROUNDS):
        before, text = text, _one_round(text, indic)
        if text == before:
            return text
    raise AssertionError(f"normalization does not settle in {MAX_ROUNDS} rounds: {text[:200]!r}")


def _one_round(text: str, indic: bool) -> str:
    if not text.isascii():
        text = _one_spelling(text)
    text = text.replace("\r\n", "\n").replace("\r", "\n").translate(_table())
    text = _invisible().sub("", text)
    text = _REPEATED_MARKS.sub(r"\1\1\1", text)
    if indic:
        text = _PIPE_DANDA.sub(lambda match: DANDA * len(match[1]), text)
        text = _TWO_DANDAS.sub(DOUBLE_DANDA, text)
    text = _SPACES.sub(" ", text)
    if indic:
        text = _SPACE_BEFORE_MARK.sub("", text)
    return _EMPTY_LINES.sub("\n\n", _LINE_ENDS.sub("\n", text)).strip(" \n")


def _one_spelling(text: str) -> str:
    """Rules for text that is more than ASCII."""
    if _MAY_BE_MOJIBAKE.search(text) and ftfy.badness.is_bad(text):
        text = ftfy.fix_encoding(text)
    text = unicodedata.normalize("NFC", text)
    text = _PAIRS.sub(lambda match: JOINED.get(match[0]) or VOWELS[match[0]], text)
    if ZWJ in text or ZWNJ in text:
        text = _REPEATED_JOINERS.sub(r"\1", text)
        text = _STRAY_JOINERS.sub("", text)
    return text


@lru_cache(1)
def _table() -> dict[int, str]:
    """Character to what replaces it."""
    table = {ord(old): new for old, new in (_PUNCTUATION | DANDAS).items() if old != new}
    for first, last in _FOLDED_RANGES:
        table |= {c: unicodedata.normalize("NFKC", chr(c)) for c in range(first, last + 1)}
    return table | {ord(digit): str(unicodedata.digit(digit)) for digit in _of_category("Nd") if not digit.isascii()}


@lru_cache(1)
def _invisible() -> re.Pattern[str]:
    """Characters that show nothing and shape nothing; Hangul fillers are letters by category only."""
    hidden = {*_of_category("Cc", "Cf", "Co", "Cs"), *"\u115f\u1160\u3164"} - {"\n", ZWJ, ZWNJ}
    return re.compile(f"[{_ranges(sorted(map(ord, hidden)))}]")


def _of_category(*categories: str) -> list[str]:
    return [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) in categories]


def _ranges(points: list[int]) -> str:
    """Sorted code points as the inside of a character class."""
    borders = [i for i in range(len(points)) if i == 0 or points[i] != points[i - 1] + 1] + [len(points)]
    spans = [(points[a], points[b - 1]) for a, b in itertools.pairwise(borders)]
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in spans)
