"""Spellings of one letter, by language: what readers take for the same word is made the same string.

In: text that tokenization/normalize.py has brought into one encoding (NFC, digits, dandas, chillus). Out: text without
the differences in spelling that say nothing about speech. Only what is heard alike is merged: nukta letters of borrowed
sounds (Hindi za written with or without its dot), but not Hindi rra, which is another sound than da. What stays
distinct in some dialects goes into a file of accepted spellings instead (lattice.py).

Sources of each rule are the orthographies themselves; the tables are short so that a speaker can check them.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

NUKTA_BORROWED = {
    "hi": "कखगजफ", "mr": "कखगजफ", "pa": "ਖਗਜਫਲ", "gu": "કખગજફ",
    "ne": "कखगजफ", "mai": "कखगजफ", "gom": "कखगजफ", "kok": "कखगजफ",
}  # fmt: skip
"""Letters whose nukta marks a borrowed sound that many speakers and writers do not distinguish."""

_NUKTAS = {"pa": "\u0a3c", "gu": "\u0abc"}
_DEVANAGARI_NUKTA = "\u093c"

_BLOCK_STARTS = {
    "hi": 0x0900, "mr": 0x0900, "ne": 0x0900, "mai": 0x0900, "sa": 0x0900, "gom": 0x0900, "kok": 0x0900,
    "gu": 0x0A80, "te": 0x0C00, "kn": 0x0C80,
}  # fmt: skip
"""Languages that write a nasal before a consonant of its class as an anusvara or as a letter, freely."""

_CLASSES = ((0x19, 0x15), (0x1E, 0x1A), (0x23, 0x1F), (0x28, 0x24), (0x2E, 0x2A))
"""Offsets of the nasal and of the first of four consonants of each class, the same in all blocks."""

_CHANDRABINDU = {"hi": 0x0900, "mr": 0x0900, "ne": 0x0900, "mai": 0x0900, "gu": 0x0A80}
"""Languages where chandrabindu is often written as anusvara."""

FOLDED = {
    "as": {"র": "ৰ"},
    "ml": {"\u0d7b\u0d4d\u0d31": "ന്റ", "\u0d7b\u0d31": "ന്റ", "\u0d4e": "\u0d7c"},
    "or": {"ଵ": "ୱ"},
    "pa": {"\u0a70": "\u0a02", "\u0a71": ""},
    "ur": {"ي": "ی", "ى": "ی", "ې": "ی", "ك": "ک", "ه": "ہ", "ۀ": "ہ", "ۂ": "ہ", "ۃ": "ہ", "ة": "ہ", "ە": "ہ", "أ": "ا",
           "إ": "ا", "ٱ": "ا", "ؤ": "و", "ۓ": "ے", "ئ": "ی", "\u0640": ""},
    "fa": {"ي": "ی", "ى": "ی", "ك": "ک", "ۀ": "ه", "ة": "ه", "أ": "ا", "إ": "ا", "ٱ": "ا", "ؤ": "و", "\u0640": ""},
    "ar": {"أ": "ا", "إ": "ا", "آ": "ا", "ٱ": "ا", "ى": "ي", "ة": "ه", "ؤ": "و", "ئ": "ي", "\u0640": ""},
    "ru": {"ё": "е"},
}  # fmt: skip
"""Letters and sequences that are written one way for another."""

_ARABIC_MARKS = re.compile("[\u064b-\u065f\u0670\u06d6-\u06ed\u0610-\u061a]")
"""Vowel marks, which ordinary text leaves out."""

_JOINERS = str.maketrans("", "", "\u200c\u200d\u2060\ufeff")
ARABIC_SCRIPT = frozenset(("ur", "fa", "ar", "ks", "sd"))


def one_spelling(text: str, language: str) -> str:
    """Text in lower case, without joiners, in one spelling of each letter.

    Args:
        text: normalized by tokenization/normalize.py.
        language: primary subtag.
    """
    text = unicodedata.normalize("NFKC", text).casefold().translate(_JOINERS)
    if language in ARABIC_SCRIPT:
        # hamza and madda over a letter are composed first, so that a loose mark is a vowel mark
        text = _ARABIC_MARKS.sub("", unicodedata.normalize("NFC", text))
    for pattern, replacement in _rules(language):
        text = pattern.sub(replacement, text)
    for old, new in FOLDED.get(language, {}).items():
        text = text.replace(old, new)
    return unicodedata.normalize("NFC", text)


@cache
def _rules(language: str) -> tuple[tuple[re.Pattern[str], str], ...]:
    rules = []
    if language in NUKTA_BORROWED:
        nukta = _NUKTAS.get(language, _DEVANAGARI_NUKTA)
        rules.append((re.compile(f"(?<=[{NUKTA_BORROWED[language]}]){nukta}"), ""))
    if language in _CHANDRABINDU:
        start = _CHANDRABINDU[language]
        rules.append((re.compile(chr(start + 1)), chr(start + 2)))
    if language in _BLOCK_STARTS:
        start = _BLOCK_STARTS[language]
        for nasal, first in _CLASSES:
            consonants = f"[{chr(start + first)}-{chr(start + first + 3)}]"
            rules.append((re.compile(f"{chr(start + nasal)}{chr(start + 0x4D)}(?={consonants})"), chr(start + 2)))
    return tuple(rules)
