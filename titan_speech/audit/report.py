"""What an audit found, language by language.

In: the chosen samples, the checks, the thresholds. Out: `AuditReport`: counts and shares of every check in every
language, histograms, the worst samples of each check, and random ones. Samples are kept while the report is made
(codes are views of the store's files), so 10,000 cost 30 MB.

Shapes: C codes of the codebook.

In: an audit. Out: its content as JSON, the sound left out.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import xxhash

from titan_speech.audit.checks import CHECKS, AuditContext, rate_per_code, rate_per_sec
from titan_speech.audit.measures import MIN_SAMPLES, Histogram, code_usage, histogram, spread_of
from titan_speech.audit.rules import RULES, Rule, Thresholds
from titan_speech.audit.sample import AuditSample, ChosenPart, read_samples
from titan_speech.errors import DataError
from titan_speech.store.reader import Store
from titan_speech.tokenization.text_tokenizer import TextTokenizer

NUM_WORST = 8


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
    def is_too_much(self) -> bool:
        return self.share > self.max_share


@dataclass(frozen=True)
class AuditFinding:
    """A sample that a check found."""

    sample: AuditSample
    severity: float
    detail: str


@dataclass(frozen=True)
class LanguageReport:
    """One language; histograms are None where it has nothing of the kind."""

    language: str
    num_stored: int
    num_samples: int
    duration_sec: float
    """Of the codes that were looked at."""
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
        return "too much" if self.too_much else "good"

    @property
    def too_much(self) -> list[CheckResult]:
        return [result for result in self.results if result.is_too_much]


@dataclass(frozen=True)
class AuditReport:
    """All that was found; `not_checked` says in words what was left out and why."""

    store: Store
    seed: int
    codes_per_sec: float
    parts: tuple[ChosenPart, ...]
    languages: tuple[LanguageReport, ...]
    worst: dict[str, tuple[AuditFinding, ...]]
    not_checked: tuple[str, ...]

    @property
    def num_samples(self) -> int:
        return sum(language.num_samples for language in self.languages)

    @property
    def num_stored(self) -> int:
        return sum(language.num_stored for language in self.languages)

    @property
    def num_shown(self) -> int:
        """Samples of the page: the worst, and the random ones of each language."""
        return sum(map(len, self.worst.values())) + sum(len(language.random) for language in self.languages)

    @property
    def is_good(self) -> bool:
        return not any(language.too_much for language in self.languages)


def audit(
    store: Store,
    parts: Sequence[ChosenPart],
    tokenizer: TextTokenizer | None,
    thresholds: Thresholds,
    *,
    seed: int,
    num_codes: int,
    num_random: int,
    on_read: Callable[[], None] = lambda: None,
) -> AuditReport:
    """`on_read` hears of each sample that was read, which is most of the work."""
    samples: dict[str, list[AuditSample]] = defaultdict(list)
    for part in parts:
        for sample in read_samples(part, tokenizer):
            samples[part.part.language].append(sample)
            on_read()
    codes_per_sec = store.manifest.codec.codes_per_sec if store.manifest.codec else 1.0
    context = _context(samples, codes_per_sec, num_codes, tokenizer)
    worst: dict[str, list[AuditFinding]] = {rule.name: [] for rule in RULES}
    languages = []
    for language in sorted(samples):
        results = _results(samples[language], context, thresholds, worst)
        num_stored = sum(part.part.num_samples for part in parts if part.part.language == language)
        languages.append(_language(language, num_stored, samples[language], context, results, num_random, seed))
    if not any(result.num_checked for language in languages for result in language.results):
        raise DataError(
            f"nothing of {store.path} can be checked: it holds text only, whose words need its tokenizer; "
            "give --tokenizer"
        )
    return AuditReport(
        store=store,
        seed=seed,
        codes_per_sec=codes_per_sec,
        parts=tuple(parts),
        languages=tuple(languages),
        worst={name: _most_severe(findings) for name, findings in worst.items()},
        not_checked=tuple(_not_checked(languages, tokenizer, _too_few(samples, context))),
    )


def _context(
    samples: dict[str, list[AuditSample]], codes_per_sec: float, num_codes: int, tokenizer: TextTokenizer | None
) -> AuditContext:
    def usual(rates: Iterable[float | None]) -> list[float]:
        return [rate for rate in rates if rate is not None]

    return AuditContext(
        codes_per_sec=codes_per_sec,
        num_codes=num_codes,
        tokenizer=tokenizer,
        chars_per_sec={name: spread_of(usual(map(rate_per_sec, some))) for name, some in samples.items()},
        chars_per_code={name: spread_of(usual(map(rate_per_code, some))) for name, some in samples.items()},
    )


def _results(
    samples: list[AuditSample], context: AuditContext, thresholds: Thresholds, worst: dict[str, list[AuditFinding]]
) -> tuple[CheckResult, ...]:
    """Also adds what was found to `worst`."""
    results = []
    for rule in RULES:
        pairs = [(sample, CHECKS[rule.name](sample, context)) for sample in samples]
        answers = [(sample, answer) for sample, answer in pairs if answer is not None]
        found = [AuditFinding(sample, a.severity, a.detail) for sample, a in answers if a.severity > 0]
        worst[rule.name] += found
        max_share = thresholds.share(rule.name, samples[0].language)
        results.append(CheckResult(rule, len(answers), len(found), max_share))
    return tuple(results)


def _most_severe(findings: list[AuditFinding]) -> tuple[AuditFinding, ...]:
    """The worst of each language come before the second worst of any."""
    order = sorted(findings, key=lambda f: (-f.severity, f.sample.language, f.sample.sample_id))
    rank: dict[str, int] = defaultdict(int)
    ranked = []
    for finding in order:
        ranked.append((rank[finding.sample.language], finding))
        rank[finding.sample.language] += 1
    return tuple(finding for _, finding in sorted(ranked, key=lambda pair: pair[0])[:NUM_WORST])


def _language(
    language: str,
    num_stored: int,
    samples: list[AuditSample],
    context: AuditContext,
    results: tuple[CheckResult, ...],
    num_random: int,
    seed: int,
) -> LanguageReport:
    speech = [sample for sample in samples if sample.is_speech]
    seconds = [len(sample.tokens_T) / context.codes_per_sec for sample in speech]
    rates = [rate for rate in map(rate_per_sec, speech) if rate is not None]
    size = max([context.num_codes, *(int(sample.tokens_T.max()) + 1 for sample in speech)])
    counts_C = np.zeros(size, np.int64)
    for sample in speech:
        counts_C += np.bincount(sample.tokens_T, minlength=size)
    shares = counts_C[counts_C > 0] / max(1, counts_C.sum())
    return LanguageReport(
        language=language,
        num_stored=num_stored,
        num_samples=len(samples),
        duration_sec=sum(seconds),
        results=results,
        durations=histogram(seconds),
        chars_per_sec=histogram(rates),
        code_usage=code_usage(counts_C) if speech else None,
        num_distinct_codes=len(shares),
        entropy_bits=float(-(shares * np.log2(shares)).sum()) if len(shares) else 0.0,
        random=_random(speech, num_random, seed),
    )


def _random(speech: list[AuditSample], number: int, seed: int) -> tuple[AuditSample, ...]:
    """By a hash of their ids: the first ten of a hundred are those of an audit that asks for ten."""
    order = sorted(speech, key=lambda s: xxhash.xxh3_64_intdigest(f"listen/{s.sample_id}".encode(), seed))
    return tuple(order[:number])


def _too_few(samples: dict[str, list[AuditSample]], context: AuditContext) -> dict[str, list[str]]:
    """By check of a rate, the languages that have rates, but not enough of them to know the usual one."""
    rates = (
        ("chars-per-sec", rate_per_sec, context.chars_per_sec),
        ("chars-per-code", rate_per_code, context.chars_per_code),
    )
    return {
        rule: [
            name
            for name, some in sorted(samples.items())
            if usual[name] is None and any(rate(sample) is not None for sample in some)
        ]
        for rule, rate, usual in rates
    }


def _not_checked(
    languages: list[LanguageReport], tokenizer: TextTokenizer | None, too_few: dict[str, list[str]]
) -> Iterable[str]:
    if tokenizer is None:
        yield "unknown-token, and the words of text-only parts: give --tokenizer, the one the store was built with"
    for rule, names in too_few.items():
        if names:
            some = f"fewer than {MIN_SAMPLES} transcribed samples; raise --samples if the store has more"
            yield f"{rule} of {', '.join(names)}: {some}"
    told = {rule for rule, names in too_few.items() if names} | (set() if tokenizer else {"unknown-token"})
    idle = [
        rule.name
        for place, rule in enumerate(RULES)
        if rule.name not in told and not any(x.results[place].num_checked for x in languages)
    ]
    if idle:
        yield f"{', '.join(idle)}: no sample has what these compare"


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
        "not_checked": report.not_checked,
        "rules": [
            {"name": r.name, "title": r.title, "finds": r.finds, "default_max_share": r.max_share, "reason": r.reason}
            for r in RULES
        ],
        "parts": [
            {"part": p.part.name, "num_stored": p.part.num_samples, "num_samples": p.num_samples} for p in report.parts
        ],
        "languages": [_language_json(language) for language in report.languages],
        "worst": {rule: [_finding(finding) for finding in found] for rule, found in report.worst.items() if found},
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _language_json(language: LanguageReport) -> dict[str, object]:
    return {
        "language": language.language,
        "num_stored": language.num_stored,
        "num_samples": language.num_samples,
        "duration_sec": round(language.duration_sec, 2),
        "verdict": language.verdict,
        "checks": [_result(result) for result in language.results],
        "duration_sec_histogram": _histogram(language.durations),
        "chars_per_sec_histogram": _histogram(language.chars_per_sec),
        "code_usage_histogram": _histogram(language.code_usage),
        "num_distinct_codes": language.num_distinct_codes,
        "entropy_bits": round(language.entropy_bits, 3),
        "random": [_sample(sample) for sample in language.random],
    }


def _result(result: CheckResult) -> dict[str, object]:
    return {
        "rule": result.rule.name,
        "num_checked": result.num_checked,
        "num_found": result.num_found,
        "share": round(result.share, 6),
        "max_share": result.max_share,
        "is_too_much": result.is_too_much,
    }


def _histogram(histogram: Histogram | None) -> dict[str, object] | None:
    return None if histogram is None else asdict(histogram)


def _finding(finding: AuditFinding) -> dict[str, object]:
    return {**_sample(finding.sample), "severity": round(finding.severity, 4), "detail": finding.detail}


def _sample(sample: AuditSample) -> dict[str, object]:
    return {
        "sample_id": sample.sample_id,
        "part": sample.part,
        "language": sample.language,
        "num_tokens": len(sample.tokens_T),
        "text": sample.text,
    }
