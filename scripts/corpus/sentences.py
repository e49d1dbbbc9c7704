"""In: strings of a user interface or paragraphs of prose. Out: sentences a voice can read in 3 to 15 s.

Catalogue strings carry markup, keyboard accelerators, format placeholders and product names; a voice would
spell them out and the transcript would no longer say what is heard. Anything with such a character, or with
Latin letters inside an Indic sentence, is refused: 60 to 80 % of the strings are dropped, several hours of
speech per language remain.
"""

from __future__ import annotations

import re
import unicodedata

SCRIPT_RANGES = {
    "hi": "\u0900-\u097f", "mr": "\u0900-\u097f", "bn": "\u0980-\u09ff", "as": "\u0980-\u09ff",
    "pa": "\u0a00-\u0a7f", "gu": "\u0a80-\u0aff", "or": "\u0b00-\u0b7f", "ta": "\u0b80-\u0bff",
    "te": "\u0c00-\u0c7f", "kn": "\u0c80-\u0cff", "ml": "\u0d00-\u0d7f",
}  # fmt: skip
MARKUP = re.compile(r"[<>%{}\\$|&=\[\]@#/_~^*+•→:;]|\.\.\.|…|\d{5}")
LATIN = re.compile(r"[A-Za-z]")
SENTENCE_END = re.compile(r"(?<=[.!?।॥])\s+")
MIN_CHARS, MAX_CHARS = 36, 190
MIN_WORDS = 4


def clean(text: str) -> str:
    """NFC, one space between words, no line breaks."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def is_speakable(text: str, language: str) -> bool:
    """Whether every character is one that a voice of this language reads as written."""
    if MARKUP.search(text):
        return False
    if language not in SCRIPT_RANGES:
        return True
    letters = re.findall(rf"[{SCRIPT_RANGES[language]}]", text)
    return not LATIN.search(text) and len(letters) >= 0.75 * len(text.replace(" ", ""))


def is_readable_sentence(text: str, language: str) -> bool:
    """Speakable, and of a length that takes about 3 to 15 s."""
    return MIN_CHARS <= len(text) <= MAX_CHARS and len(text.split()) >= MIN_WORDS and is_speakable(text, language)


def readable_pieces(paragraph: str) -> list[str]:
    """Whole sentences joined up to MAX_CHARS. A longer sentence stays whole, for the caller to refuse."""
    pieces: list[str] = []
    for sentence in SENTENCE_END.split(clean(paragraph)):
        if pieces and len(pieces[-1]) + 1 + len(sentence) <= MAX_CHARS:
            pieces[-1] = f"{pieces[-1]} {sentence}"
        else:
            pieces.append(sentence)
    return pieces
