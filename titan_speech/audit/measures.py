"""How fast a language is spoken here, and how far one sample lies from that.

In: rates (characters a second, characters a code) of a language's samples. Out: their median and spread, and the
distance of one rate from the median in spreads. Rates are compared by their logarithm, where twice as fast lies as
far as half as fast. The spread is the median absolute deviation scaled to a normal's standard deviation: with up to
half the samples wrong it still says what the others do, where one wrong sample moves mean and deviation at once.

Which scripts a language is written in, and which a text is written in.

In: a BCP 47 tag, a text. Out: names of scripts. A letter's script is the first word of its Unicode name (DEVANAGARI
LETTER KA), which holds for all living scripts and needs no table of ranges; 0.5 us a character once it was met.
Languages without a row here are not judged.

Counting values into bins.

In: values. Out: `Histogram`, whose bins are equal in width and whose ends hold what lies beyond, so that one segment
of an hour does not squeeze all others into one bar.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

MIN_SAMPLES = 20
MAD_TO_SIGMA = 1.4826
SMALLEST_SPREAD = 0.05
"""In log units, 5 %: where most samples have one rate, a few per cent off is no outlier."""


@dataclass(frozen=True)
class Spread:
    """Median of a rate and its robust spread in log units."""

    median: float
    spread: float

    def distance(self, rate: float) -> float:
        """Spreads from the median; infinite for a rate of 0."""
        return abs(math.log(rate / self.median)) / self.spread if rate > 0 else math.inf


def spread_of(rates: Iterable[float]) -> Spread | None:
    """None of fewer than 20: too few to say what is usual."""
    positive = np.array([rate for rate in rates if rate > 0])
    if len(positive) < MIN_SAMPLES:
        return None
    logs = np.log(positive)
    centre = float(np.median(logs))
    spread = MAD_TO_SIGMA * float(np.median(np.abs(logs - centre)))
    return Spread(math.exp(centre), max(spread, SMALLEST_SPREAD))


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


NUM_BINS = 32


@dataclass(frozen=True)
class Histogram:
    """Bin i holds start + i * width <= value < start + (i + 1) * width; the last one also all above."""

    start: float
    width: float
    counts: tuple[int, ...]
    num_values: int
    median: float

    @property
    def stop(self) -> float:
        return self.start + self.width * len(self.counts)


def histogram(values: Sequence[float]) -> Histogram | None:
    """From 0 to the 99th percentile or so; None without values."""
    if not values:
        return None
    array = np.asarray(values, np.float64)
    stop = _round_up(max(float(np.percentile(array, 99)), 1e-9))
    width = stop / NUM_BINS
    bins = np.minimum((array / width).astype(np.int64), NUM_BINS - 1)
    counts = np.bincount(bins, minlength=NUM_BINS)
    return Histogram(0.0, width, tuple(map(int, counts)), len(array), float(np.median(array)))


def _round_up(value: float) -> float:
    """To 1, 1.2, 1.6, 2, 3, 4, 6 or 8 times a power of ten."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(step * power for step in (1, 1.2, 1.6, 2, 3, 4, 6, 8, 10) if value <= step * power * (1 + 1e-9)))


def code_usage(counts_C: NDArray[np.int64]) -> Histogram:
    """How often the codes of each of 64 equal ranges of the codebook occur; the median is that of the ranges."""
    num_bins = min(64, len(counts_C))
    sums = [int(part.sum()) for part in np.array_split(counts_C, num_bins)]
    return Histogram(0.0, len(counts_C) / num_bins, tuple(sums), int(counts_C.sum()), float(np.median(sums)))
