"""Which scripts a language is written in, and which a text is written in.

In: a BCP 47 tag, a text. Out: names of scripts. A letter's script is the first word of its Unicode name (DEVANAGARI
LETTER KA), which holds for all living scripts and needs no table of ranges; 0.5 us a character once it was met.
Languages without a row here are not judged.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from functools import lru_cache

_LANGUAGES_OF = {
    "LATIN": """af az bs ca cs cy da de en eo es et eu fi fil fo fr ga gl ha hr ht hu id ig is it jv kha lb lt lus lv mg
        mi ms mt nb nl nn no om pl pt rm ro rw sk sl sm sn so sq sr st sv sw tk tl tn to tr ts uz vi wo xh yo zu""",
    "CYRILLIC": "av az ba be bg ce cv kk ky mk mn os ru sr tg tt uk uz",
    "DEVANAGARI": "awa bgc bho brx doi gom hi hne kok ks mag mai mr mwr ne new raj sa sat sd",
    "BENGALI": "as bn bpy mni",
    "GURMUKHI": "pa",
    "GUJARATI": "gu",
    "ORIYA": "or",
    "TAMIL": "ta",
    "TELUGU": "te",
    "KANNADA": "kn tcy",
    "MALAYALAM": "ml",
    "SINHALA": "si",
    "ARABIC": "ar az bal fa ku ks pa ps sd ug ur",
    "OL": "sat",
    "MEETEI": "mni",
    "TIBETAN": "bo dz",
    "MYANMAR": "my",
    "THAI": "th",
    "LAO": "lo",
    "KHMER": "km",
    "ETHIOPIC": "am ti",
    "HEBREW": "he yi",
    "GREEK": "el",
    "ARMENIAN": "hy",
    "GEORGIAN": "ka",
    "HANGUL": "ko",
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
    "CJK": "ja yue zh",
    "MONGOLIAN": "mn",
    "THAANA": "dv",
}
_SUBTAGS = {"Latn": "LATIN", "Deva": "DEVANAGARI", "Beng": "BENGALI", "Arab": "ARABIC", "Cyrl": "CYRILLIC"} | {
    "Guru": "GURMUKHI",
    "Olck": "OL",
    "Mtei": "MEETEI",
}
_PLAIN_NAMES = {"OL": "Ol Chiki", "MEETEI": "Meetei Mayek", "CJK": "Han"}


def expected_scripts(language: str) -> frozenset[str] | None:
    """None for languages that are not known here; a script subtag (hi-Latn) decides alone."""
    primary, *subtags = language.split("-")
    for subtag in subtags:
        if subtag.title() in _SUBTAGS:
            return frozenset({_SUBTAGS[subtag.title()]})
    return frozenset(script for script, languages in _LANGUAGES_OF.items() if primary in languages.split()) or None


@lru_cache(maxsize=1 << 16)
def script_of(character: str) -> str | None:
    """None for what is no letter: marks, digits, punctuation, symbols."""
    if not unicodedata.category(character).startswith("L"):
        return None
    return unicodedata.name(character, "UNNAMED").split()[0]


def script_counts(text: str) -> Counter[str]:
    """Letters of each script."""
    counts = Counter(script_of(character) for character in text)
    del counts[None]
    return Counter({script: number for script, number in counts.items() if script is not None})


def plain_name(script: str) -> str:
    return _PLAIN_NAMES.get(script, script.capitalize())
