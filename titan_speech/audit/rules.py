"""The checks of an audit and their thresholds.

In: a TOML file with check names as keys and one table per language, and options, which override both. Out:
`AUDIT_RULES`, one row per check of `checks.py`, and `Thresholds`. A threshold is the largest share of the samples of
one language that a check may find; above it the audit fails. The defaults are strict where one finding means a broken
tool, and wide where good speech has the finding too; each states its reason. No numpy: the command line lists the
checks in its help.

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
    """Why the threshold has this value."""
    needs: str
    """What a sample must have to be checked."""


AUDIT_RULES = (
    Rule(
        "code-range",
        "Codes in range",
        "codes that the codec's codebook does not have",
        0.0,
        "no codec emits such a code; a single one means wrong offsets or another codec",
        "speech",
    ),
    Rule(
        "unknown-token",
        "Unknown tokens",
        "transcripts whose ids hold the unknown token or do not decode back to the transcript",
        0.001,
        "byte-level tokenizers are lossless; others lose a rare character",
        "a transcript, or text",
    ),
    Rule(
        "duration",
        "Duration against codes",
        "end_time - start_time is not the length of the codes, within 2 codes and 2 %",
        0.01,
        "a wrong rate or shifted rows break nearly all samples, a bad recording one",
        "start_time and end_time",
    ),
    Rule(
        "length",
        "Segment length",
        "segments of more than 40 s",
        0.01,
        "they do not fit 2,048 positions with their text: a run drops or splits them",
        "speech",
    ),
    Rule(
        "transcript",
        "Empty transcripts",
        "paired samples without a letter or digit in their transcript (a danda or other punctuation does not count)",
        0.005,
        "such a pair is unaligned supervision: speech without text",
        "speech in a part with native transcripts",
    ),
    Rule(
        "script",
        "Language against script",
        "texts with less than half of their letters in a script of their language",
        0.02,
        "short samples may be only names and loan words; a wrong tag affects a whole file",
        "letters, in a language whose scripts are known",
    ),
    Rule(
        "chars-per-sec",
        "Characters per second",
        "robust z-score above 5 and more than 1 s from the language's median rate, by the times",
        0.03,
        "spelt numbers and long pauses are real; more means that transcripts belong to other audio",
        "a native transcript, start_time and end_time",
    ),
    Rule(
        "chars-per-code",
        "Characters per code",
        "robust z-score above 5 and more than 1 s from the language's median rate, by the codes",
        0.03,
        "as for characters per second; finds wrong codes where the times are right",
        "a native transcript",
    ),
    Rule(
        "repeat",
        "Repeated codes",
        "one code in a row for 2 s or half of the sample: silence, or a stuck encoder",
        0.01,
        "even a few teach the model to emit silence",
        "speech",
    ),
    Rule(
        "duplicate-transcript",
        "Repeated transcripts",
        "transcripts that occur in other samples of the part",
        0.3,
        "greetings and prompts repeat; from a third on, a few sentences would be memorized",
        "a native transcript",
    ),
    Rule(
        "duplicate-audio",
        "Repeated audio",
        "samples with exactly the codes of another sample of the part",
        0.005,
        "two recordings never give the same codes: a file was imported twice",
        "speech",
    ),
    Rule(
        "segment-order",
        "Segment order",
        "segments of one source whose order contradicts their times",
        0.0,
        "stitching and continuation would join segments that do not follow each other",
        "source_video_id, segment_order and start_time",
    ),
    Rule(
        "speaker",
        "Speaker missing",
        "speech without speaker_id",
        1.0,
        "never above the threshold: only voice cloning needs it; give --max-speaker 0 for a store used for cloning",
        "speech",
    ),
)
RULE_NAMES = tuple(rule.name for rule in AUDIT_RULES)


@dataclass(frozen=True)
class Thresholds:
    """Largest allowed share per check, and per language where it differs."""

    shares: Mapping[str, float] = field(default_factory=lambda: {rule.name: rule.max_share for rule in AUDIT_RULES})
    of_language: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def share(self, rule: str, language: str) -> float:
        return self.of_language.get(language, {}).get(rule, self.shares[rule])


def read_thresholds(file: Path | None, options: Mapping[str, float]) -> Thresholds:
    """Defaults, overridden by the file, overridden by options.

    Args:
        file: TOML file of shares, or None.
        options: shares per check; they hold for every language, also for those in the file.

    Raises:
        DataError: the file cannot be read, or has an unknown check or a value outside 0 to 1.
    """
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
