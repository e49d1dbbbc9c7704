"""Measures that the checks and the report share: speaking rates, scripts, histograms.

Rates. In: characters per second or per code of a language's samples. Out: `RateDistribution`, the robust z-score of one
rate. Rates are compared by their logarithm, where twice as fast is as far from the median as half as fast. The scale
is the median absolute deviation (MAD) times 1.4826, the standard deviation of a normal distribution: it holds with up
to half of the samples wrong, where one wrong sample moves mean and standard deviation.

Scripts. In: a BCP 47 tag, a text. Out: names of scripts. A letter's script is the first word of its Unicode name
(DEVANAGARI LETTER KA), which holds for all living scripts and needs no table of ranges; 0.5 us per character once it
is cached. Languages without a row in `_LANGUAGES_OF` are not checked.

Histograms. In: values. Out: `Histogram` with bins of equal width; the last bin also counts all values above it, so that
one segment of an hour does not squeeze all others into one bar.
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

from titan_speech.tokenization.languages import SCRIPTS

MIN_SAMPLES = 20
MAD_TO_SIGMA = 1.4826
MIN_LOG_MAD = 0.05
"""5 %, in log units: where most samples have the same rate, a few per cent of difference is not an outlier."""


@dataclass(frozen=True)
class RateDistribution:
    """Median of a rate, and its scaled median absolute deviation in log units."""

    median: float
    log_mad: float

    def robust_z(self, rate: float) -> float:
        """Distance from the median in scaled MADs; infinite for a rate of 0."""
        return abs(math.log(rate / self.median)) / self.log_mad if rate > 0 else math.inf


def rate_distribution(rates: Iterable[float]) -> RateDistribution | None:
    """The distribution of a language's rates; None for fewer than 20, too few for a median."""
    positive = np.array([rate for rate in rates if rate > 0])
    if len(positive) < MIN_SAMPLES:
        return None
    logs = np.log(positive)
    center = float(np.median(logs))
    log_mad = MAD_TO_SIGMA * float(np.median(np.abs(logs - center)))
    return RateDistribution(math.exp(center), max(log_mad, MIN_LOG_MAD))


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
_SCRIPT_NAMES = {"OL": "Ol Chiki", "MEETEI": "Meetei Mayek", "CJK": "Han"}


def expected_scripts(language: str) -> frozenset[str] | None:
    """Scripts of a language tag, None for an unknown language; a script subtag (hi-Latn) decides alone."""
    primary, *subtags = language.split("-")
    for subtag in subtags:
        if subtag.title() in SCRIPTS:
            return frozenset({SCRIPTS[subtag.title()].split("_")[0].upper()})
    return frozenset(script for script, languages in _LANGUAGES_OF.items() if primary in languages.split()) or None


@lru_cache(maxsize=1 << 16)
def script_of(character: str) -> str | None:
    """The script of a letter; None for marks, digits, punctuation and symbols."""
    if not unicodedata.category(character).startswith("L"):
        return None
    return unicodedata.name(character, "UNNAMED").split()[0]


def script_counts(text: str) -> Counter[str]:
    """Number of letters per script."""
    return Counter(script for character in text if (script := script_of(character)) is not None)


def script_name(script: str) -> str:
    return _SCRIPT_NAMES.get(script, script.capitalize())


NUM_BINS = 32


@dataclass(frozen=True)
class Histogram:
    """Bin i counts start + i * width <= value < start + (i + 1) * width; the last bin also counts all values above."""

    start: float
    width: float
    counts: tuple[int, ...]
    num_values: int
    median: float

    @property
    def stop(self) -> float:
        return self.start + self.width * len(self.counts)


def histogram(values: Sequence[float]) -> Histogram | None:
    """A histogram from 0 to about the 99th percentile; None without values."""
    if not values:
        return None
    array = np.asarray(values, np.float64)
    stop = _round_up(max(float(np.percentile(array, 99)), 1e-9))
    width = stop / NUM_BINS
    bins = np.minimum((array / width).astype(np.int64), NUM_BINS - 1)
    counts = np.bincount(bins, minlength=NUM_BINS)
    return Histogram(0.0, width, tuple(map(int, counts)), len(array), float(np.median(array)))


def _round_up(value: float) -> float:
    """Round up to 1, 1.2, 1.6, 2, 3, 4, 6 or 8 times a power of ten."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(step * power for step in (1, 1.2, 1.6, 2, 3, 4, 6, 8, 10) if value <= step * power * (1 + 1e-9)))


def code_usage(counts_C: NDArray[np.int64]) -> Histogram:
    """How often the codes of each of 64 equal ranges of the codebook occur; the median is that of the 64 counts."""
    num_bins = min(64, len(counts_C))
    sums = [int(part.sum()) for part in np.array_split(counts_C, num_bins)]
    return Histogram(0.0, len(counts_C) / num_bins, tuple(sums), int(counts_C.sum()), float(np.median(sums)))
