"""Text normalization: one form for text that reads the same, in documents and transcripts of speech alike.

In: text in any script, and its language tag. Out: the same words in one spelling; nothing that is read aloud is
dropped. In order:

1. mojibake repaired (ftfy, only where its heuristic finds some), marks after the 32nd on one letter removed, then NFC
2. look-alikes of Latin, Arabic and digits folded: full width, ligatures, presentation forms, mathematical letters
3. Indic: two-character vowels, joiner chillus and khanda ta, dandas at unassigned code points (the tables below)
4. joiners kept where they shape a conjunct (next to a virama) or a word of Arabic script, removed elsewhere
5. controls, soft hyphens, byte order marks, direction marks, private use removed
6. decimal digits of every script written 0-9; quotes, dashes and dots in one form; at most three equal marks in a row
7. Indic languages: `|` after a letter is a danda, no space before a mark
8. one space between words, at most one empty line between paragraphs

`normalize(normalize(x)) == normalize(x)`: the rules repeat until nothing changes, which for ordinary text is one extra
pass. One process normalizes 2.5 MB/s (Malayalam with old chillus) to 7 MB/s (English) on a busy machine.

The Indic tables are needed because Unicode's canonical forms leave some spellings open. NFC settles the order of nukta
and virama, joins two-part vowel signs, and writes the nukta letters whose composed form is excluded (U+0958 to U+095F,
U+09DC to U+09DF, U+0A33 and others) as letter and nukta. It does not touch what looks the same on the screen and is
stored differently: independent vowels typed as another vowel and a sign (tables "do not use" of the Unicode standard,
chapter 12), chillus and khanda ta written with a joiner, dandas at code points that were never assigned.
`indic-nlp-library` maps the same pairs, but also rewrites letters that differ in sound (Odia va as ba, final m as
anusvara), and requires pandas, morfessor and sphinx themes.
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

from titan_speech.tokenization.languages import is_indic

VIRAMAS = "\u094d\u09cd\u0a4d\u0acd\u0b4d\u0bcd\u0c4d\u0ccd\u0d4d\u0dca"
ZWNJ, ZWJ = "\u200c", "\u200d"
DANDA, DOUBLE_DANDA = "\u0964", "\u0965"

_VOWELS_BY_BASE = {
    "\u0905": {"\u093e": "\u0906", "\u0946": "\u0904", "\u0949": "\u0911", "\u094a": "\u0912", "\u094b": "\u0913",
               "\u094c": "\u0914", "\u093a": "\u0973", "\u093b": "\u0974", "\u094f": "\u0975", "\u0956": "\u0976",
               "\u0957": "\u0977", "\u0945": "\u0972"},
    "\u0906": {"\u0945": "\u0911", "\u0946": "\u0912", "\u0947": "\u0913", "\u0948": "\u0914"},
    "\u090f": {"\u0945": "\u090d", "\u0946": "\u090e", "\u0947": "\u0910"},
    "\u0985": {"\u09be": "\u0986"},
    "\u0a05": {"\u0a3e": "\u0a06", "\u0a48": "\u0a10", "\u0a4c": "\u0a14"},
    "\u0a72": {"\u0a3f": "\u0a07", "\u0a40": "\u0a08", "\u0a47": "\u0a0f"},
    "\u0a73": {"\u0a41": "\u0a09", "\u0a42": "\u0a0a", "\u0a4b": "\u0a13"},
    "\u0a85": {"\u0abe": "\u0a86", "\u0ac5": "\u0a8d", "\u0ac7": "\u0a8f", "\u0ac8": "\u0a90", "\u0ac9": "\u0a91",
               "\u0acb": "\u0a93", "\u0acc": "\u0a94"},
    "\u0b05": {"\u0b3e": "\u0b06"},
    "\u0b0f": {"\u0b57": "\u0b10"},
    "\u0b13": {"\u0b57": "\u0b14"},
    "\u0c12": {"\u0c55": "\u0c13", "\u0c4c": "\u0c14"},
    "\u0c89": {"\u0cbe": "\u0c8a"},
    "\u0c92": {"\u0ccc": "\u0c94"},
    "\u0d07": {"\u0d57": "\u0d08"},
    "\u0d09": {"\u0d57": "\u0d0a"},
    "\u0d0e": {"\u0d46": "\u0d10"},
    "\u0d12": {"\u0d3e": "\u0d13", "\u0d57": "\u0d14"},
}  # fmt: skip

VOWELS = {base + sign: vowel for base, signs in _VOWELS_BY_BASE.items() for sign, vowel in signs.items()}
"""Vowel letters written as two characters, and the one character to use."""

_CHILLUS = {"\u0d23": "\u0d7a", "\u0d28": "\u0d7b", "\u0d30": "\u0d7c", "\u0d32": "\u0d7d", "\u0d33": "\u0d7e",
            "\u0d15": "\u0d7f"}  # fmt: skip

JOINED = {f"{letter}\u0d4d{ZWJ}": chillu for letter, chillu in _CHILLUS.items()} | {f"\u09a4\u09cd{ZWJ}": "\u09ce"}
"""Chillus and khanda ta in the spelling used before they had code points."""

_UNASSIGNED_BLOCKS = (0x09E4, 0x0A64, 0x0AE4, 0x0B64, 0x0BE4, 0x0C64, 0x0CE4, 0x0D64)

DANDAS = {chr(first): DANDA for first in _UNASSIGNED_BLOCKS} | {
    chr(first + 1): DOUBLE_DANDA for first in _UNASSIGNED_BLOCKS
}
"""All Indic scripts share Devanagari's dandas; these code points in their own blocks stay unassigned."""

RULES_VERSION = 2
"""Increased whenever a rule changes the output; a test holds the digest of real text for each number."""

MAX_ROUNDS = 16

MAX_MARKS = 32
"""On one letter; Unicode's own limit for streams is 30. Text that is read has at most 4."""

_FOLDED_RANGES = ((0xFB00, 0xFB06), (0xFF01, 0xFF5E), (0x1D400, 0x1D7FF), (0xFB50, 0xFDFB), (0xFE70, 0xFEFC))
_PUNCTUATION = {
    "‘": "'", "’": "'", "‚": "'", "‛": "'", "ʼ": "'", "`": "'", "´": "'", "“": '"', "”": '"', "„": '"', "‟": '"',
    "«": '"', "»": '"', "‹": "'", "›": "'", "‐": "-", "‑": "-", "‒": "-", "–": "-", "−": "-", "―": "—", "…": "...",
    "؟": "؟", "\u2028": "\n", "\u2029": "\n\n", "\x85": "\n", "\x0b": "\n", "\x0c": "\n", "\t": " ",
}  # fmt: skip

# UTF-8 read as a one-byte encoding consists of these: Latin, Greek and Cyrillic letters beyond ASCII.
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
    """Versions of the rules and of the libraries they use, for the manifest of a store."""
    return f"text-{RULES_VERSION}.unicode-{unicodedata.unidata_version}.ftfy-{version('ftfy')}.regex-{version('regex')}"


def normalize(text: str, language: str) -> str:
    """The normalized text.

    Args:
        text: any text; lone surrogates are dropped.
        language: its tag (languages.py).
    """
    indic = is_indic(language)
    if not text.isascii():
        text = text.encode("utf-8", "ignore").decode()
    for _ in range(MAX_ROUNDS):
        before, text = text, _one_round(text, indic)
        if text == before:
            return text
    raise AssertionError(f"normalization does not settle in {MAX_ROUNDS} rounds: {text[:200]!r}")


def composed(text: str) -> str:
    """Unicode's NFC, without marks after the 32nd on one letter."""
    return unicodedata.normalize("NFC", _stacked_marks().sub(r"\1", text))


def _one_round(text: str, indic: bool) -> str:
    if not text.isascii():
        text = _one_spelling(text)
    text = text.replace("\r\n", "\n").replace("\r", "\n").translate(_replacements())
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
    """Rules for text with characters beyond ASCII."""
    if _MAY_BE_MOJIBAKE.search(text) and ftfy.badness.is_bad(text):
        text = ftfy.fix_encoding(text)
    text = composed(text)
    text = _PAIRS.sub(lambda match: JOINED.get(match[0]) or VOWELS[match[0]], text)
    if ZWJ in text or ZWNJ in text:
        text = _REPEATED_JOINERS.sub(r"\1", text)
        text = _STRAY_JOINERS.sub("", text)
    return text


@lru_cache(1)
def _replacements() -> dict[int, str]:
    """Replacement of each character, for `str.translate`."""
    table = {ord(old): new for old, new in (_PUNCTUATION | DANDAS).items() if old != new}
    for first, last in _FOLDED_RANGES:
        table |= {c: unicodedata.normalize("NFKC", chr(c)) for c in range(first, last + 1)}
    return table | {ord(digit): str(unicodedata.digit(digit)) for digit in _of_category("Nd") if not digit.isascii()}


@lru_cache(1)
def _invisible() -> re.Pattern[str]:
    """Characters that are invisible and do not shape others; Hangul fillers are letters only by category."""
    hidden = {*_of_category("Cc", "Cf", "Co", "Cs"), *"\u115f\u1160\u3164"} - {"\n", ZWJ, ZWNJ}
    return re.compile(f"[{_ranges(sorted(map(ord, hidden)))}]")


@lru_cache(1)
def _stacked_marks() -> re.Pattern[str]:
    """More marks on one letter than any script has: Unicode's canonical order takes time by their number squared."""
    marks = _ranges([c for c in range(0x110000) if unicodedata.combining(chr(c))])
    return re.compile(f"([{marks}]{{{MAX_MARKS}}})[{marks}]+")


def _of_category(*categories: str) -> list[str]:
    return [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) in categories]


def _ranges(points: list[int]) -> str:
    """Sorted code points as the inside of a character class."""
    borders = [i for i in range(len(points)) if i == 0 or points[i] != points[i - 1] + 1] + [len(points)]
    spans = [(points[a], points[b - 1]) for a, b in itertools.pairwise(borders)]
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in spans)
