"""Run the checks on the chosen samples of every language.

In: the chosen samples, the checks, the thresholds. Out: `AuditReport`: counts and shares of every check in every
language, histograms, the worst samples of each check, and random ones. Samples are kept while the report is made (codes
are views of the store's files), so 10,000 cost 30 MB.

Shapes: C codes of the codebook.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import xxhash

from titan_speech.audit.checks import AUDIT_CHECKS, AuditContext, rate_per_code, rate_per_sec
from titan_speech.audit.choose_samples import AuditSample, ChosenPart, read_samples
from titan_speech.audit.measures import MIN_SAMPLES, RateDistribution, code_usage, histogram, rate_distribution
from titan_speech.audit.report import AuditFinding, AuditReport, CheckResult, LanguageReport, NotRun
from titan_speech.audit.rules import AUDIT_RULES, Thresholds
from titan_speech.errors import DataError
from titan_speech.store.reader import Store
from titan_speech.tokenization.text_tokenizer import TextTokenizer

NUM_WORST = 8


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
    """Run every check on the chosen samples.

    Args:
        store: the store under audit.
        parts: its chosen samples (`draw.choose`).
        tokenizer: the store's tokenizer; without it token ids and the words of text-only parts are not checked.
        thresholds: the largest allowed share per check and language.
        seed: chooses the random samples of the page.
        num_codes: size of the codec's codebook.
        num_random: random samples per language for the page.
        on_read: called after each sample that was read, which is most of the work.

    Raises:
        DataError: no check applies to any sample.
    """
    samples: dict[str, list[AuditSample]] = defaultdict(list)
    for part in parts:
        for sample in read_samples(part, tokenizer):
            samples[part.part.language].append(sample)
            on_read()
    codes_per_sec = store.manifest.codec.codes_per_sec if store.manifest.codec else 1.0
    context = _context(samples, codes_per_sec, num_codes, tokenizer)
    worst: dict[str, list[AuditFinding]] = {rule.name: [] for rule in AUDIT_RULES}
    languages = []
    for language in sorted(samples):
        results = _check_samples(samples[language], context, thresholds, worst)
        num_stored = sum(part.part.num_samples for part in parts if part.part.language == language)
        languages.append(_language_report(language, num_stored, samples[language], context, results, num_random, seed))
    if not any(result.num_checked for language in languages for result in language.results):
        raise DataError(
            f"no sample of {store.path} can be checked: it holds text only, and its words need its tokenizer; "
            "give --tokenizer"
        )
    return AuditReport(
        store=store,
        seed=seed,
        codes_per_sec=codes_per_sec,
        parts=tuple(parts),
        languages=tuple(languages),
        worst={name: _most_severe(findings) for name, findings in worst.items()},
        not_run=tuple(_not_run(languages, tokenizer, _too_few(samples, context))),
    )


def _context(
    samples: dict[str, list[AuditSample]], codes_per_sec: float, num_codes: int, tokenizer: TextTokenizer | None
) -> AuditContext:
    def distributions(rate: Callable[[AuditSample], float | None]) -> dict[str, RateDistribution | None]:
        return {
            language: rate_distribution(r for sample in some if (r := rate(sample)) is not None)
            for language, some in samples.items()
        }

    return AuditContext(
        codes_per_sec=codes_per_sec,
        num_codes=num_codes,
        tokenizer=tokenizer,
        chars_per_sec=distributions(rate_per_sec),
        chars_per_code=distributions(rate_per_code),
    )


def _check_samples(
    samples: list[AuditSample], context: AuditContext, thresholds: Thresholds, worst: dict[str, list[AuditFinding]]
) -> tuple[CheckResult, ...]:
    """Run all checks on the samples of one language; findings are also added to `worst`."""
    results = []
    for rule in AUDIT_RULES:
        outcomes = [(sample, AUDIT_CHECKS[rule.name](sample, context)) for sample in samples]
        found = [
            AuditFinding(sample, o.severity, o.detail) for sample, o in outcomes if o is not None and o.severity > 0
        ]
        worst[rule.name] += found
        num_checked = sum(outcome is not None for _, outcome in outcomes)
        max_share = thresholds.share(rule.name, samples[0].language)
        results.append(CheckResult(rule, num_checked, len(found), max_share))
    return tuple(results)


def _most_severe(findings: list[AuditFinding]) -> tuple[AuditFinding, ...]:
    """The worst sample of each language comes before the second worst of any."""
    order = sorted(findings, key=lambda f: (-f.severity, f.sample.language, f.sample.sample_id))
    rank: dict[str, int] = defaultdict(int)
    ranked = []
    for finding in order:
        ranked.append((rank[finding.sample.language], finding))
        rank[finding.sample.language] += 1
    return tuple(finding for _, finding in sorted(ranked, key=lambda pair: pair[0])[:NUM_WORST])


def _language_report(
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
        random=_random_samples(speech, num_random, seed),
    )


def _random_samples(speech: list[AuditSample], number: int, seed: int) -> tuple[AuditSample, ...]:
    """Chosen by a hash of their ids: 100 samples include the 10 of an audit that asks for 10."""
    order = sorted(speech, key=lambda s: xxhash.xxh3_64_intdigest(f"listen/{s.sample_id}".encode(), seed))
    return tuple(order[:number])


def _too_few(samples: dict[str, list[AuditSample]], context: AuditContext) -> dict[str, list[str]]:
    """Per check of a rate, the languages with fewer rates than a median needs."""
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


def _not_run(
    languages: list[LanguageReport], tokenizer: TextTokenizer | None, too_few: dict[str, list[str]]
) -> Iterable[NotRun]:
    """For each check the languages in which it applied to no sample, by reason."""
    for index, rule in enumerate(AUDIT_RULES):
        idle = [each.language for each in languages if not each.results[index].num_checked]
        is_everywhere = len(idle) == len(languages)
        few = [name for name in idle if name in too_few.get(rule.name, ())]
        rest = [name for name in idle if name not in few]
        if rule.name == "unknown-token" and tokenizer is None:
            reason = "give --tokenizer, the one the store was built with; without it the words of text are not checked"
        else:
            reason = f"no sample has {rule.needs}"
        if few:
            reason_few = f"fewer than {MIN_SAMPLES} transcribed samples; raise --samples if the store has more"
            yield NotRun(rule.name, tuple(few), is_everywhere and not rest, reason_few)
        if rest:
            yield NotRun(rule.name, tuple(rest), is_everywhere and not few, reason)
