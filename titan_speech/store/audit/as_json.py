"""In: an audit. Out: its content as JSON, the sound left out."""

from __future__ import annotations

import json
from dataclasses import asdict

from titan_speech.store.audit.histogram import Histogram
from titan_speech.store.audit.read import AuditSample
from titan_speech.store.audit.report import AuditReport, CheckResult, Finding, LanguageReport
from titan_speech.store.audit.rules import RULES


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
        "languages": [_language(language) for language in report.languages],
        "worst": {rule: [_finding(finding) for finding in found] for rule, found in report.worst.items() if found},
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _language(language: LanguageReport) -> dict[str, object]:
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


def _finding(finding: Finding) -> dict[str, object]:
    return {**_sample(finding.sample), "severity": round(finding.severity, 4), "detail": finding.detail}


def _sample(sample: AuditSample) -> dict[str, object]:
    return {
        "sample_id": sample.sample_id,
        "part": sample.part,
        "language": sample.language,
        "num_tokens": len(sample.tokens_T),
        "text": sample.text,
    }
