"""Numbers as they are said: one model writes 25, another twenty-five, and both were right.

In: text with ASCII digits. Out: the same with numbers as words of the language (num2words for European languages,
AI4Bharat's indic-numtowords for Indic ones, both of the `eval` extra), or with digits only: 1,00,000, 1.000 and 1 000
become one number by the language's separators. A number has several readings (year, telephone number, "hundred and
one"): the words here are the ordinary cardinal, and a file of accepted spellings (lattice.py) gives others.

Digits that are no cardinal are said one by one: those with a leading zero, and those of more than 12 digits (9 in Indic
languages).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from typing import Literal

from titan_speech.errors import DataError

Numerals = Literal["words", "digits"]

_INDIC = frozenset("hi bn ta te mr gu kn ml pa or as ur ne sa mai kok".split())  # noqa: SIM905
_EUROPEAN = frozenset("en es fr de it pt ru".split())  # noqa: SIM905
SPOKEN = _INDIC | _EUROPEAN
"""Languages whose numbers can be said."""

_DECIMAL_COMMA = frozenset("es fr de it pt ru".split())  # noqa: SIM905
_GROUPED_BY_COMMA = re.compile(r"(?<!\d)(\d{1,3}(?:,\d{2,3})*,\d{3})(?!\d)")
_GROUPED_BY_DOT = re.compile(r"(?<![\d.])(\d{1,3}(?:[. ]\d{3})+)(?![\d.])")
_NUMBER = re.compile(r"\d+")
_ORDINAL = re.compile(r"(?<![\d.])(\d{1,6})(?:st|nd|rd|th)\b")
_DECIMAL = {True: re.compile(r"(?<=\d),(?=\d)"), False: re.compile(r"(?<=\d)\.(?=\d)")}
_POINT = {
    "en": "point", "es": "coma", "fr": "virgule", "de": "komma", "it": "virgola", "pt": "vírgula", "ru": "запятая",
    "hi": "दशमलव", "mr": "दशांश", "ne": "दशमलव", "bn": "দশমিক", "as": "দশমিক", "gu": "દશાંશ", "pa": "ਦਸ਼ਮਲਵ",
    "or": "ଦଶମିକ", "ta": "புள்ளி", "te": "దశాంశం", "kn": "ದಶಾಂಶ", "ml": "ദശാംശം", "ur": "اعشاریہ",
}  # fmt: skip
MAX_CARDINAL_DIGITS, MAX_INDIC_DIGITS = 12, 9
"""indic-numtowords says no longer ones."""


def numerals_version(numerals: Numerals) -> str:
    """Of the libraries that say numbers; part of a scorer's version."""
    if numerals == "digits":
        return "digits"
    _require()
    return f"words, num2words {version('num2words')}, indic-numtowords {version('indic-numtowords')}"


def one_numeral(text: str, language: str, numerals: Numerals) -> str:
    """Text with every number in one form.

    Args:
        text: with ASCII digits.
        language: primary subtag; numbers of a language that is not in `SPOKEN` stay digits.
        numerals: words, or digits.

    Raises:
        DataError: words are asked for and the `eval` extra is not installed.
    """
    if not any(map(str.isdigit, text)):
        return text
    grouped = _GROUPED_BY_DOT if language in _DECIMAL_COMMA else _GROUPED_BY_COMMA
    text = grouped.sub(lambda match: re.sub("[., ]", "", match[1]), text)
    if numerals == "digits" or language not in SPOKEN:
        return text
    say, most = _speaker(language), MAX_INDIC_DIGITS if language in _INDIC else MAX_CARDINAL_DIGITS
    if language == "en":
        text = _ORDINAL.sub(lambda match: f" {_english_ordinal(int(match[1]))} ", text)
    text = _DECIMAL[language in _DECIMAL_COMMA].sub(f" {_POINT.get(language, ' ')} ", text)
    return _NUMBER.sub(lambda match: f" {_said(match[0], say, most)} ", text)


def _said(digits: str, say: Callable[[int], str], max_digits: int) -> str:
    is_cardinal = len(digits) <= max_digits and (digits == "0" or not digits.startswith("0"))
    return say(int(digits)) if is_cardinal else " ".join(say(int(digit)) for digit in digits)


def _require() -> None:
    try:
        import indic_numtowords  # noqa: F401  # pyright: ignore[reportMissingImports]
        import num2words  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise DataError(
            f"numbers as words need a library: {error}; pip install 'titan-speech[eval]', or compare digits"
        ) from error


@cache
def _speaker(language: str) -> Callable[[int], str]:
    _require()
    if language in _INDIC:
        from indic_numtowords import num2words as say_indic  # pyright: ignore[reportMissingImports]

        return cache(lambda number: str(say_indic(number, lang=language)))
    from num2words import num2words as say_european  # pyright: ignore[reportMissingImports]

    return cache(lambda number: str(say_european(number, lang=language)))


@cache
def _english_ordinal(number: int) -> str:
    _require()
    from num2words import num2words as say  # pyright: ignore[reportMissingImports]

    return str(say(number, lang="en", to="ordinal"))
