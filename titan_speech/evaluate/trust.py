"""Which ASR may judge which language: measured on recordings of known text before it judges any model.

In: recordings with transcripts, the same through the codec, and recognizers. Out: `TrustTable`, a JSON file: for each
language and recognizer the CER on the recordings with its interval, the CER on their resyntheses, the share of the
transcript in the right script, and how many clips it answered; trusted or not, and why. In a language whose recognizers
all fail the bounds, error rates are "not measured", never zero; of several trusted ones that of the lowest CER judges.

A recognizer is trusted by what it makes of recordings. The resyntheses show what the codec costs, which is the ceiling
of every model. The bounds are settings that stand in the table. A table holds for the versions of recognizers it was
measured with; of another version it says nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from titan_speech.errors import DataError
from titan_speech.evaluate.clip import Clip, Score, mean
from titan_speech.evaluate.models.base import Failure
from titan_speech.evaluate.models.isolation import RunningModel
from titan_speech.evaluate.normalization.lattice import NO_SPELLINGS, Spellings
from titan_speech.evaluate.normalization.scoring import DEFAULT_RULES, ScoringRules, can_romanize, romanized
from titan_speech.evaluate.result import ResultKey, make_result
from titan_speech.evaluate.scorers.edit_distance import count_errors
from titan_speech.evaluate.scorers.words import NOT_MEASURED, transcribe, word_scores
from titan_speech.evaluate.statistics import intervals
from titan_speech.tokenization.languages import script_of
from titan_speech.utils.files import write_atomically
from titan_speech.utils.json_text import read_json_file
from titan_speech.utils.record_types import check_types
from titan_speech.utils.text_table import table_lines

TRUST_VERSION = 1


@dataclass(frozen=True)
class TrustBounds:
    """What a recognizer must reach on recordings of a language."""

    max_cer: float = 0.15
    """Upper end of the 95 % interval of its CER."""
    min_script: float = 0.95
    """Share of the letters of its transcripts that are in the language's script."""
    min_coverage: float = 0.95
    """Share of clips that it answered at all."""
    min_prompts: int = 20


@dataclass(frozen=True)
class TrustRow:
    """One recognizer in one language."""

    language: str
    asr: str
    asr_version: str
    num_prompts: int
    cer: float | None
    """On recordings."""
    cer_low: float | None
    cer_high: float | None
    wer: float | None
    cer_codec: float | None
    """On the same through the codec; None if they were not given."""
    script: float | None
    coverage: float
    cer_romanized: float | None
    """Of both texts in rough Latin letters: low where the recognizer heard right and wrote in the wrong script."""
    reasons: tuple[str, ...]
    """Why it is not trusted; none if it is."""

    @property
    def is_trusted(self) -> bool:
        return not self.reasons


@dataclass(frozen=True)
class TrustTable:
    """The rows of all languages and recognizers."""

    bounds: TrustBounds
    rows: tuple[TrustRow, ...]
    rules: str
    """Version of the rules that texts were compared by."""
    about: str = ""
    """What it was measured on."""
    version: int = TRUST_VERSION

    def chosen(self, language: str, versions: Mapping[str, str]) -> tuple[str | None, str]:
        """The recognizer that judges a language.

        Args:
            language: BCP 47 tag; its primary subtag counts.
            versions: of the recognizers at hand, by name.

        Returns:
            Its name, or None and the reason.
        """
        primary = language.split("-")[0]
        rows = [row for row in self.rows if row.language == primary]
        if not rows:
            return None, f"the trust table has no row for {primary}"
        current = [row for row in rows if versions.get(row.asr) == row.asr_version]
        if not current:
            return None, f"the trust table of {primary} was measured with other recognizers: {rows[0].asr}"
        trusted = sorted((row for row in current if row.is_trusted), key=lambda row: row.cer or 0.0)
        if not trusted:
            return None, "; ".join(
                f"{row.asr} is not trusted in {primary}: {', '.join(row.reasons)}" for row in current
            )
        return trusted[0].asr, ""

    def __str__(self) -> str:
        """16 hex digits of what it decides, for a scorer's version."""
        content = json.dumps([asdict(row) for row in self.rows], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def as_rows(self) -> list[dict[str, Any]]:
        """For a result."""
        return [asdict(row) | {"reasons": list(row.reasons)} for row in self.rows]

    def lines(self) -> list[str]:
        """The table for a terminal."""
        header = (
            "language", "ASR", "prompts", "CER", "interval", "codec", "script", "answered", "romanized", "trusted",
        )  # fmt: skip
        return table_lines([header, *(_cells(row) for row in self.rows)], "<<>")

    def write(self, path: Path) -> None:
        """Write the JSON file.

        Raises:
            DataError: it cannot be written.
        """
        try:
            write_atomically(path, json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")
        except OSError as error:
            raise DataError(f"the trust table cannot be written to {path}: {error}; give another path") from error


def measure_trust(
    recordings: Sequence[Clip],
    recognizers: Sequence[RunningModel],
    resynthesized: Sequence[Clip] = (),
    bounds: TrustBounds = TrustBounds(),
    rules: ScoringRules = DEFAULT_RULES,
    spellings: Spellings = NO_SPELLINGS,
    about: str = "",
) -> TrustTable:
    """Measure recognizers on recordings of known text.

    Args:
        recordings: with transcripts, in the languages that are asked about.
        recognizers: which are measured.
        resynthesized: the same clips through the codec.
        bounds: that decide.
        rules: how texts are compared.
        spellings: accepted spellings.
        about: what the recordings are.
    """
    by_language: dict[str, list[Clip]] = defaultdict(list)
    for clip in recordings:
        by_language[clip.language.split("-")[0]].append(clip)
    through_codec = {clip.prompt_id: clip for clip in resynthesized}
    rows = []
    for recognizer in recognizers:
        for language, clips in sorted(by_language.items()):
            decoded = [through_codec[clip.prompt_id] for clip in clips if clip.prompt_id in through_codec]
            rows.append(_row(language, recognizer, clips, decoded, bounds, rules, spellings))
    rows.sort(key=lambda row: (row.language, row.asr))
    return TrustTable(bounds, tuple(rows), rules.version, about)


def _row(
    language: str,
    recognizer: RunningModel,
    clips: list[Clip],
    decoded: list[Clip],
    bounds: TrustBounds,
    rules: ScoringRules,
    spellings: Spellings,
) -> TrustRow:
    heard = transcribe(recognizer, clips)
    scores = _scores(clips, heard, rules, spellings)
    found = intervals(make_result(ResultKey("", "", {}, {}), clips, scores), ["cer"])[0]
    answered = sum(isinstance(text, str) and bool(text.strip()) for text in heard)
    decoded_scores = _scores(decoded, transcribe(recognizer, decoded), rules, spellings)
    row = TrustRow(
        language=language,
        asr=recognizer.model.name,
        asr_version=recognizer.model.version,
        num_prompts=len(clips),
        cer=_rounded(found.mean),
        cer_low=_rounded(found.low),
        cer_high=_rounded(found.high),
        wer=_rounded(mean([one["wer"] for one in scores])),
        cer_codec=_rounded(mean([one["cer"] for one in decoded_scores])),
        script=_rounded(mean([one["asr_script"] for one in scores])),
        coverage=answered / max(len(clips), 1),
        cer_romanized=_rounded(_romanized_cer(clips, heard)) if can_romanize() else None,
        reasons=(),
    )
    return replace(row, reasons=tuple(_reasons(row, bounds)))


def _scores(
    clips: Sequence[Clip], heard: Sequence[str | Failure], rules: ScoringRules, spellings: Spellings
) -> list[dict[str, Score]]:
    """As in scorers/words.py; a clip without an answer has every word wrong: what an ASR leaves out is its error."""
    return [
        word_scores(clip.text, "" if isinstance(text, Failure) else text, clip.language, rules, spellings)
        for clip, text in zip(clips, heard, strict=True)
    ]


def _romanized_cer(clips: Sequence[Clip], heard: Sequence[str | Failure]) -> float | None:
    """CER of both texts in Latin letters."""
    errors = letters = 0
    for clip, text in zip(clips, heard, strict=True):
        expected = romanized(clip.text).replace(" ", "")
        found = "" if isinstance(text, Failure) else romanized(text).replace(" ", "")
        counted = count_errors([(tuple(expected),)], found)
        errors, letters = errors + counted.errors, letters + counted.num_reference
    return errors / letters if letters else None


def _reasons(row: TrustRow, bounds: TrustBounds) -> list[str]:
    reasons = []
    if row.num_prompts < bounds.min_prompts:
        reasons.append(f"{row.num_prompts} recordings, expected at least {bounds.min_prompts}")
    if row.coverage < bounds.min_coverage:
        reasons.append(f"answered {row.coverage:.0%} of them, expected {bounds.min_coverage:.0%}")
    if script_of(row.language) is None:
        reasons.append(f"the script of {row.language} is not known, so its transcripts cannot be checked")
    elif row.script is None or row.script < bounds.min_script:
        share = "no letters" if row.script is None else f"{row.script:.0%}"
        reasons.append(f"{share} in the right script, expected {bounds.min_script:.0%}")
    if row.cer_high is None or row.cer_high > bounds.max_cer:
        highest = "unknown" if row.cer_high is None else f"up to {row.cer_high:.1%}"
        reasons.append(f"CER {highest}, expected at most {bounds.max_cer:.0%}")
    return reasons


def _cells(row: TrustRow) -> tuple[str, ...]:
    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f} %"

    interval = (
        "-" if row.cer_low is None or row.cer_high is None else f"{100 * row.cer_low:.1f} to {100 * row.cer_high:.1f}"
    )
    verdict = "yes" if row.is_trusted else f"{NOT_MEASURED}: {', '.join(row.reasons)}"
    return (
        row.language, row.asr, str(row.num_prompts), percent(row.cer), interval, percent(row.cer_codec),
        percent(row.script), percent(row.coverage), percent(row.cer_romanized), verdict,
    )  # fmt: skip


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def read_trust_table(path: Path) -> TrustTable:
    """Read a trust table.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        content = read_json_file(path)
        if content["version"] != TRUST_VERSION:
            raise DataError(f"{path} has version {content['version']!r}, this titan_speech reads {TRUST_VERSION}")
        rows = tuple(TrustRow(**row | {"reasons": tuple(row["reasons"])}) for row in content["rows"])
        table = TrustTable(**content | {"bounds": TrustBounds(**content["bounds"]), "rows": rows})
        check_types(table)
    except OSError as error:
        raise DataError(
            f"no trust table at {path}: {error}; titan-speech evaluate trust measures one on recordings"
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is no trust table, or is damaged ({error!r}); measure it again") from error
    return table
