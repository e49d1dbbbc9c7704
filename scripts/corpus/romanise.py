"""In: a transcript in its own script. Out: the same in Latin letters, or None if there is no rule.

Indic: Aksharamukha's RomanColloquial, plain a-z as people type it (no diacritics; the final inherent vowel
is written, as the script has it). Russian: the passport table ICAO 9303. Latin scripts stay as they are.
"""

# Aksharamukha is in scripts/corpus/requirements.txt.
# pyright: reportMissingImports=false

from __future__ import annotations

AKSHARAMUKHA_SCRIPT = {
    "hi": "Devanagari", "mr": "Devanagari", "bn": "Bengali", "as": "Assamese", "pa": "Gurmukhi", "gu": "Gujarati",
    "or": "Oriya", "ta": "Tamil", "te": "Telugu", "kn": "Kannada", "ml": "Malayalam",
}  # fmt: skip
CYRILLIC_LETTERS = "абвгдеёжзийклмнопрстуфхцчшщъыьэюя"
LATIN_LETTERS = "a b v g d e e zh z i i k l m n o p r s t u f kh ts ch sh shch ie y - e iu ia"
CYRILLIC = dict(zip(CYRILLIC_LETTERS, LATIN_LETTERS.split(" "), strict=True))


def romanise(text: str, language: str) -> str | None:
    if language in AKSHARAMUKHA_SCRIPT:
        from aksharamukha import transliterate

        return str(transliterate.process(AKSHARAMUKHA_SCRIPT[language], "RomanColloquial", text))
    return _cyrillic(text) if language == "ru" else text


def _cyrillic(text: str) -> str:
    def letter(char: str) -> str:
        latin = CYRILLIC.get(char.lower(), char).replace("-", "") if char.lower() in CYRILLIC else char
        return latin.capitalize() if char.isupper() else latin

    return "".join(map(letter, text))
