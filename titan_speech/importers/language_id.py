"""Which language a document is in, and whether its script fits its language tag.

In: normalized text. Out: the language that py3langid (140 languages, weights inside the package) identifies, and the
share of letters in the script of the tag. With 400 characters it separates all of en hi bn ta te mr gu kn ml pa or as;
with 128, Marathi is at 97.5 % and the others at 99.5 % or more (table in docs/data_preparation.md).
lingua lacks kn, ml, or, as; pycld2 is as accurate and 12 times as fast, but wraps code of 2013 that nobody maintains.
Below 128 characters Hindi and Marathi are often confused with each other or with Nepali and Konkani: there any language
of the same script is accepted. Only the first 400 characters are read, which takes 0.5 to 1.5 ms depending on their
bytes.
"""

from __future__ import annotations

from functools import cache

import regex
from py3langid import langid

from titan_speech.tokenization.languages import script_of, script_subtag

MAX_CHARS = 400
SHORT_CHARS = 128
_LETTERS = regex.compile(r"[\p{L}\p{M}]+")


def identify(text: str) -> str:
    """The language of a text: a two-letter tag, or three letters for languages without one."""
    return str(langid.classify(text[:MAX_CHARS].replace("\n", " "))[0])


def language_fits(text: str, language: str) -> tuple[bool, str]:
    """Check a text against its language tag.

    Returns:
        Whether it fits, and the language that was identified.
    """
    primary = language.split("-")[0]
    if script_subtag(language) or primary not in known_languages():  # it knows each language in one script
        return True, primary
    found = identify(text)
    if len(text) < SHORT_CHARS and script_of(found) in (None, script_of(language)):
        return True, found
    return found == primary, found


def known_languages() -> frozenset[str]:
    """The languages the model can identify."""
    if langid.IDENTIFIER is None:
        langid.classify("a")
    return frozenset(map(str, langid.IDENTIFIER.labels))  # type: ignore[union-attr]


def script_share(text: str, language: str) -> float:
    """Share of letters in the script of the language; 1 for languages whose script is not known."""
    script = script_of(language)
    num_letters = _length(_LETTERS, text)
    if script is None or not num_letters:
        return 1.0
    return _length(_script_letters(script), text) / num_letters


def letter_share(text: str) -> float:
    """Share of letters and combining marks among all characters that are not spaces."""
    num_chars = len(text) - sum(map(text.count, " \n"))
    return _length(_LETTERS, text) / num_chars if num_chars else 0.0


def _length(pattern: regex.Pattern[str], text: str) -> int:
    return sum(map(len, pattern.findall(text)))


@cache
def _script_letters(script: str) -> regex.Pattern[str]:
    return regex.compile(rf"[[\p{{sc={script}}}\p{{sc=Inherited}}]&&[\p{{L}}\p{{M}}]]+", flags=regex.V1)
