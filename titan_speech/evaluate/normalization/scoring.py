"""The form of a text that error rates are counted on.

In: a prompt's text, or what an ASR wrote, and the language. Out: words of one spelling, separated by single spaces. In
order: one encoding (tokenization/normalize.py: NFC, digits of every script, dandas, chillus), numbers (numerals.py),
one spelling of each letter (letters.py), punctuation and symbols as spaces. The rules repeat until nothing changes, so
scoring a text twice gives the same.

Combining marks stay: Whisper's own normalizer drops them, which turns Hindi into a string of bare consonants and halves
its error rate. Apostrophes join in English (don't) and separate in French and Italian (l'eau).

Whisper writes much of Odia, Malayalam and Telugu in Latin letters. `share_in_script` finds that; `romanized` (by uroman
of the `eval` extra) compares texts of two scripts, to see whether it heard right. That is for the trust table's
explanations and never an error rate of a model: it merges what scripts distinguish.

`ScoringRules.version` is part of a scorer's version: another rule begins another series of results.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from typing import Any

from titan_speech.evaluate.normalization.letters import one_spelling
from titan_speech.evaluate.normalization.numerals import Numerals, numerals_version, one_numeral
from titan_speech.tokenization.languages import script_of
from titan_speech.tokenization.normalize import normalization_version, normalize

SCORING_RULES = 1
"""Increased whenever a rule changes the output."""
MAX_ROUNDS = 8
_APOSTROPHES = "'’ʼ"
_SEPARATING = frozenset(("fr", "it"))
_NOT_LATIN = re.compile("[^a-z ]")
_DOUBLED = re.compile(r"([a-z])\1+")


@dataclass(frozen=True)
class ScoringRules:
    """How texts are brought into one form before they are compared."""

    numerals: Numerals = "words"
    """words: numbers are said in the language; digits: only separators are removed."""

    @property
    def version(self) -> str:
        return f"scoring-{SCORING_RULES}, {normalization_version()}, numerals {numerals_version(self.numerals)}"

    def __call__(self, text: str, language: str) -> str:
        """The text as it is compared.

        Args:
            text: any text.
            language: BCP 47 tag.

        Raises:
            DataError: numbers are asked for as words and the `eval` extra is not installed.
        """
        primary = language.split("-")[0]
        for _ in range(MAX_ROUNDS):
            before = text
            text = one_numeral(normalize(text, language).casefold(), primary, self.numerals)
            text = " ".join(_without_punctuation(one_spelling(text, primary), primary).split())
            if text == before:
                break
        return text


DEFAULT_RULES = ScoringRules()


def _without_punctuation(text: str, language: str) -> str:
    apostrophe = " " if language in _SEPARATING else ""
    return "".join(apostrophe if letter in _APOSTROPHES else _kept(letter) for letter in text)


@lru_cache(maxsize=8192)
def _kept(letter: str) -> str:
    """The character if it is a letter, a mark or a digit, else a space."""
    return letter if unicodedata.category(letter)[0] in "LMN" else " "


def share_in_script(text: str, language: str) -> float | None:
    """Share of a text's letters that are in the script of the language; None if it has no letter or no known script."""
    script = script_of(language)
    letters = [letter for letter in text if letter.isalpha()]
    if script is None or not letters:
        return None
    return sum(_script_name(letter) == script.upper() for letter in letters) / len(letters)


@lru_cache(maxsize=8192)
def _script_name(letter: str) -> str:
    """The first word of a letter's name, which for letters is its script."""
    return unicodedata.name(letter, "").split(" ")[0]


def can_romanize() -> bool:
    """Whether uroman is installed."""
    return find_spec("uroman") is not None


def romanized(text: str) -> str:
    """The text in lower-case Latin letters, roughly as it sounds, with doubled letters as one."""
    return " ".join(_DOUBLED.sub(r"\1", _NOT_LATIN.sub("", _uroman().romanize_string(text).lower())).split())


@cache
def _uroman() -> Any:
    from uroman import Uroman  # pyright: ignore[reportMissingImports]

    return Uroman()
