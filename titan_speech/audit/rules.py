"""What an audit looks for, and the largest share of samples that may have it.

In: a TOML file with rules as keys and tables of them for single languages, and options over both. Out: `RULES`, one row
per check of `checks.py`, and `Thresholds`. A threshold is a share of the samples the check applies to, in one language;
above it the audit fails. The defaults are strict where one finding means that a tool is broken, and wide where real
speech has the finding too; each says why. No numpy: the command line lists the rules in its help.

    duration = 0.02

    [language.en]
    duplicate-transcript = 0.5
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

import tomli

from titan_speech.errors import DataError


@dataclass(frozen=True)
class Rule:
    """One check; `name` is its key in options, thresholds and JSON."""

    name: str
    title: str
    finds: str
    max_share: float
    reason: str
    """For the threshold."""


RULES = (
    Rule(
        "code-range",
        "Codes in range",
        "codes that the codec's codebook does not have",
        0.0,
        "no codec makes one; a single one means wrong offsets or another codec",
    ),
    Rule(
        "unknown-token",
        "Unknown tokens",
        "transcripts whose ids hold the unknown token or do not decode back to the transcript",
        0.001,
        "byte-level tokenizers lose nothing; others lose a rare character",
    ),
    Rule(
        "duration",
        "Duration against codes",
        "end_time - start_time is not the length of the codes, within 2 codes and 2 %",
        0.01,
        "a wrong rate or shifted rows break nearly all samples, a bad recording one",
    ),
    Rule(
        "length",
        "Segment length",
        "segments of more than 40 s",
        0.01,
        "they do not fit 2,048 positions with their text: a run drops or splits them",
    ),
    Rule(
        "transcript",
        "Empty transcripts",
        "paired samples without a letter or digit in their transcript (danda and other punctuation is none)",
        0.005,
        "such a pair teaches speech out of nothing",
    ),
    Rule(
        "script",
        "Language against script",
        "texts with less than half of their letters in a script of their language",
        0.02,
        "names and borrowed words stand alone in short samples; wrong tags come by the file",
    ),
    Rule(
        "chars-per-sec",
        "Characters a second",
        "more than 5 robust spreads and 1 s from what the language's median gives, by the times",
        0.03,
        "spelt numbers and long pauses are real; more means that transcripts belong to other audio",
    ),
    Rule(
        "chars-per-code",
        "Characters a code",
        "more than 5 robust spreads and 1 s from what the language's median gives, by the codes",
        0.03,
        "as for characters a second; this one sees wrong codes where the times are right",
    ),
    Rule(
        "repeat",
        "Repeated codes",
        "one code in a row for 2 s or half of the sample: silence, or a stuck encoder",
        0.01,
        "a model learns to stay silent from few of these",
    ),
    Rule(
        "duplicate-transcript",
        "Repeated transcripts",
        "transcripts that other samples of the part have too",
        0.3,
        "greetings and prompts repeat; from a third on, few sentences are learnt by heart",
    ),
    Rule(
        "duplicate-audio",
        "Repeated audio",
        "codes that another sample of the part has too, all of them",
        0.005,
        "two recordings never give the same codes: a file was imported twice",
    ),
    Rule(
        "segment-order",
        "Segment order",
        "segments of one source whose order contradicts their times",
        0.0,
        "stitching and continuation would join what does not belong together",
    ),
    Rule(
        "speaker",
        "Speaker missing",
        "speech without speaker_id",
        1.0,
        "counted and never too much: only cloning needs it; --max-speaker 0 for a store that cloning reads",
    ),
)
RULE_NAMES = tuple(rule.name for rule in RULES)


@dataclass(frozen=True)
class Thresholds:
    """Largest allowed share by rule, and by language where one differs."""

    shares: Mapping[str, float] = field(default_factory=lambda: {rule.name: rule.max_share for rule in RULES})
    of_language: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def share(self, rule: str, language: str) -> float:
        return self.of_language.get(language, {}).get(rule, self.shares[rule])


def read_thresholds(file: Path | None, options: Mapping[str, float]) -> Thresholds:
    """`options` hold for every language, also for those the file names."""
    defaults = Thresholds()
    if file is None:
        return Thresholds({**defaults.shares, **options})
    content = _content(file)
    languages = content.pop("language", {})
    if not isinstance(languages, dict) or not all(isinstance(table, dict) for table in languages.values()):
        raise DataError(f"{file}: language must be tables such as [language.hi]")
    of_language = {
        name: {**_shares(table, f"{file}, [language.{name}]"), **options} for name, table in languages.items()
    }
    return Thresholds({**defaults.shares, **_shares(content, str(file)), **options}, of_language)


def _content(file: Path) -> dict[str, object]:
    try:
        return tomli.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"thresholds {file} cannot be read: {error}") from error
    except tomli.TOMLDecodeError as error:
        raise DataError(f"thresholds {file} is not TOML: {error}; expected lines such as duration = 0.01") from error


def _shares(table: Mapping[str, object], where: str) -> dict[str, float]:
    shares = {}
    for name, value in table.items():
        if name not in RULE_NAMES:
            near = get_close_matches(name, RULE_NAMES, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(RULE_NAMES)}"
            raise DataError(f"{where}: no check is called {name!r}; {hint}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise DataError(f"{where}: {name} is {value!r}; expected a share from 0 to 1, such as 0.01 for 1 %")
        shares[name] = float(value)
    return shares
