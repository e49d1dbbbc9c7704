"""What an audit found, per language, and as JSON.

In: counts, histograms and samples of check_samples.py. Out: `AuditReport`, with the verdict and what the page shows of
it; `to_json` writes it without the sound.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from titan_speech.audit.choose_samples import AuditSample, ChosenPart
from titan_speech.audit.measures import Histogram
from titan_speech.audit.reencode import Reencoded
from titan_speech.audit.rules import AUDIT_RULES, Rule
from titan_speech.store.reader import Store
from titan_speech.utils.printable import escape_controls


def percent(share: float) -> str:
    """Two digits, and no power of ten for 100."""
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"


@dataclass(frozen=True)
class CheckResult:
    """One check in one language."""

    rule: Rule
    num_checked: int
    """Samples it applies to."""
    num_found: int
    max_share: float

    @property
    def share(self) -> float:
        return self.num_found / self.num_checked if self.num_checked else 0.0

    @property
    def is_above_threshold(self) -> bool:
        return self.share > self.max_share


@dataclass(frozen=True)
class AuditFinding:
    """A sample that a check found."""

    sample: AuditSample
    severity: float
    detail: str


@dataclass(frozen=True)
class LanguageReport:
    """One language; a histogram without values is None."""

    language: str
    num_stored: int
    num_samples: int
    duration_sec: float
    """Audio of the codes that were checked."""
    results: tuple[CheckResult, ...]
    durations: Histogram | None
    chars_per_sec: Histogram | None
    code_usage: Histogram | None
    num_distinct_codes: int
    entropy_bits: float
    random: tuple[AuditSample, ...]

    @property
    def verdict(self) -> str:
        if not any(result.num_checked for result in self.results):
            return "not checked"
        return "above threshold" if self.above_threshold else "good"

    @property
    def above_threshold(self) -> list[CheckResult]:
        return [result for result in self.results if result.is_above_threshold]


@dataclass(frozen=True)
class NotRun:
    """A check that applied to no sample of these languages, and why."""

    rule: str
    languages: tuple[str, ...]
    is_everywhere: bool
    """Whether these are all languages of the store."""
    reason: str

    def __str__(self) -> str:
        where = "" if self.is_everywhere else f" of {', '.join(self.languages)}"
        return f"{self.rule}{where}: {self.reason}"


@dataclass(frozen=True)
class AuditReport:
    """The findings of an audit; `not_run` says which checks applied to no sample, and why."""

    store: Store
    seed: int
    codes_per_sec: float
    parts: tuple[ChosenPart, ...]
    languages: tuple[LanguageReport, ...]
    worst: dict[str, tuple[AuditFinding, ...]]
    not_run: tuple[NotRun, ...]
    reencoded: Reencoded | None = None
    """None without the codec."""

    @property
    def num_run(self) -> int:
        """Checks that applied to a sample of any language."""
        results = (language.results for language in self.languages)
        return sum(any(result.num_checked for result in of_rule) for of_rule in zip(*results, strict=True))

    @property
    def num_samples(self) -> int:
        return sum(language.num_samples for language in self.languages)

    @property
    def num_stored(self) -> int:
        return sum(language.num_stored for language in self.languages)

    @property
    def num_shown(self) -> int:
        """Samples on the page: the worst, and the random ones of each language."""
        return sum(map(len, self.worst.values())) + sum(len(language.random) for language in self.languages)

    @property
    def is_good(self) -> bool:
        return not any(language.above_threshold for language in self.languages) and not self.is_shifted

    @property
    def is_shifted(self) -> bool:
        """Whether codes are shifted, by what the codec gives back."""
        return self.reencoded is not None and self.reencoded.shift != 0

    @property
    def summary(self) -> str:
        """The verdict over all languages."""
        above = [language.language for language in self.languages if language.above_threshold]
        text = f"above thresholds in {', '.join(above)}" if above else "within thresholds"
        return f"{text}, but codes are shifted" if self.is_shifted else text


def to_json(report: AuditReport) -> str:
    manifest = report.store.manifest
    content = {
        "store": {
            "path": str(report.store.path),
            "name": manifest.name,
            "fingerprint": report.store.fingerprint,
            "codec": asdict(manifest.codec) if manifest.codec else None,
            "tokenizer": manifest.tokenizer.fingerprint,
        },
        "seed": report.seed,
        "num_stored": report.num_stored,
        "num_samples": report.num_samples,
        "is_good": report.is_good,
        "reencoded": str(report.reencoded) if report.reencoded else None,
        "not_checked": [str(each) for each in report.not_run],
        "rules": [
            {"name": r.name, "title": r.title, "finds": r.finds, "default_max_share": r.max_share, "reason": r.reason}
            for r in AUDIT_RULES
        ],
        "parts": [
            {"part": p.part.name, "num_stored": p.part.num_samples, "num_samples": p.num_samples} for p in report.parts
        ],
        "languages": [_language_json(language) for language in report.languages],
        "worst": {rule: [_finding_json(f) for f in found] for rule, found in report.worst.items() if found},
    }
    return escape_controls(json.dumps(content, indent=1, ensure_ascii=False)) + "\n"


def _language_json(language: LanguageReport) -> dict[str, object]:
    """One language of the JSON. Keys and verdicts keep the words they have had from the first version on: scripts read
    them."""
    return {
        "language": language.language,
        "num_stored": language.num_stored,
        "num_samples": language.num_samples,
        "duration_sec": round(language.duration_sec, 2),
        "verdict": "too much" if language.above_threshold else language.verdict,
        "checks": [
            {
                "rule": result.rule.name,
                "num_checked": result.num_checked,
                "num_found": result.num_found,
                "share": round(result.share, 6),
                "max_share": result.max_share,
                "is_too_much": result.is_above_threshold,
            }
            for result in language.results
        ],
        "duration_sec_histogram": asdict(language.durations) if language.durations else None,
        "chars_per_sec_histogram": asdict(language.chars_per_sec) if language.chars_per_sec else None,
        "code_usage_histogram": asdict(language.code_usage) if language.code_usage else None,
        "num_distinct_codes": language.num_distinct_codes,
        "entropy_bits": round(language.entropy_bits, 3),
        "random": [_sample_json(sample) for sample in language.random],
    }


def _finding_json(finding: AuditFinding) -> dict[str, object]:
    return {**_sample_json(finding.sample), "severity": round(finding.severity, 4), "detail": finding.detail}


def _sample_json(sample: AuditSample) -> dict[str, object]:
    return {
        "sample_id": sample.sample_id,
        "part": sample.part,
        "language": sample.language,
        "num_tokens": len(sample.tokens_T),
        "text": sample.text,
    }
