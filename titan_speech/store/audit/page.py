"""The audit as one HTML file that needs no network: tables, histograms, samples to read and to listen to.

In: an audit and the sound that belongs to its store. Out: HTML. Transcripts and ids come from anywhere: all of them
are escaped, isolated from the page's direction, and a content policy forbids scripts and requests. There is no
script: players, folding and keyboard are the browser's own. 16 languages with 5 players each make 12 MB, of which the
sound is nearly all.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator
from html import escape

from titan_speech.store.audit.charts import figure
from titan_speech.store.audit.read import AuditSample
from titan_speech.store.audit.report import AuditReport, CheckResult, Finding, LanguageReport, percent
from titan_speech.store.audit.rules import RULES
from titan_speech.store.audit.sound import Sound
from titan_speech.store.audit.style import STYLE

MAX_TEXT_CHARS = 400
_WORDY = ("Finds", "Why this threshold")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; media-src data:"


def page(report: AuditReport, sound: Sound, on_sample: Callable[[], None]) -> Iterator[str]:
    """In pieces, as the sound of a large page need not be in memory at once; `on_sample` is called after each of
    `report.num_shown` samples, whose decoding is most of the work."""
    name = escape(report.store.manifest.name)
    yield (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Audit of {name}</title><style>{STYLE}</style></head>\n<body>\n"
    )
    yield f"<header><h1>Audit of {name}</h1>\n{_summary(report, sound)}</header>\n<main>\n"
    yield _language_table(report)
    yield _rule_table(report)
    yield from _worst(report, sound, on_sample)
    yield from _languages(report, sound, on_sample)
    yield "</main>\n</body></html>\n"


def _summary(report: AuditReport, sound: Sound) -> str:
    manifest, bad = report.store.manifest, [x.language for x in report.languages if x.too_much]
    verdict = f"above thresholds in {', '.join(bad)}" if bad else "within thresholds"
    codec = f"{manifest.codec.name}, hash {manifest.codec.hash[:16]}" if manifest.codec else "none"
    facts = {
        "Store": f"{report.store.path}, fingerprint {report.store.fingerprint}",
        "Looked at": f"{report.num_samples:,} of {report.num_stored:,} samples in {len(report.parts)} parts, "
        f"seed {report.seed}",
        "Codec": codec,
        "Sound": sound.why_silent or "decoded by this codec; 8-bit mu-law, so a faint hiss is the page's",
        "Not checked": "; ".join(report.not_checked) or "nothing was left out",
    }
    items = "".join(f"<dt>{key}</dt><dd>{escape(value)}</dd>" for key, value in facts.items())
    links = "".join(f'<li><a href="#{anchor}">{title}</a></li>' for anchor, title in _SECTIONS.items())
    return (
        f"<p>{_verdict(not bad, verdict)}</p>\n<dl class=facts>{items}</dl>\n"
        f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n'
    )


_SECTIONS = {
    "by-language": "By language",
    "checks": "Checks and thresholds",
    "worst": "Worst samples",
    "listen": "Histograms and random samples",
}


def _verdict(is_good: bool, words: str) -> str:
    return f'<span class="verdict {"good" if is_good else "bad"}">{escape(words)}</span>'


def _heading(anchor: str) -> str:
    return f'<h2 id="{anchor}">{_SECTIONS[anchor]}</h2>\n'


def _table(label: str, caption: str, head: Iterable[str], rows: Iterable[str]) -> str:
    """Wide tables scroll by themselves, with the keyboard too."""
    cells = "".join(f'<th scope="col"{" class=words" if cell in _WORDY else ""}>{cell}</th>' for cell in head)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{label}"><table>'
        f"<caption><span>{caption}</span></caption>"
        f"<thead><tr>{cells}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>\n"
    )


def _language_table(report: AuditReport) -> str:
    caption = (
        "Share of samples that a check found, of those it applies to. Red with !: too much. A dash: it applies to none."
    )
    head = ("Language", "Verdict", "Looked at", "Stored", "Minutes", *(escape(rule.title) for rule in RULES))
    rows = (_language_row(language) for language in report.languages)
    return _heading("by-language") + _table("Findings by language", caption, head, rows)


def _language_row(language: LanguageReport) -> str:
    name = escape(language.language)
    verdict = _verdict(not language.too_much, language.verdict)
    cells = "".join(_share_cell(result) for result in language.results)
    return (
        f'<tr><th scope="row"><a href="#lang-{name}">{name}</a></th><td>{verdict}</td><td>{language.num_samples:,}</td>'
        f"<td>{language.num_stored:,}</td><td>{language.duration_sec / 60:,.1f}</td>{cells}</tr>\n"
    )


def _share_cell(result: CheckResult) -> str:
    if not result.num_checked:
        return '<td class="none"><span aria-label="not checked">–</span></td>'
    words = f"{result.num_found:,} of {result.num_checked:,}; at most {_unbroken(result.max_share)}"
    kind = ' class="bad"' if result.is_too_much else ' class="none"' if not result.num_found else ""
    mark = "!&nbsp;" if result.is_too_much else ""
    return f'<td{kind} title="{words}">{mark}{_unbroken(result.share) if result.num_found else "0"}</td>'


def _unbroken(share: float) -> str:
    return percent(share).replace(" ", "&nbsp;")


def _rule_table(report: AuditReport) -> str:
    caption = "What is looked for, which share may have it in any one language, and why."
    head = ("Check", "Found", "Above in", "At most", *_WORDY)
    rows = []
    for place, rule in enumerate(RULES):
        results = [(language.language, language.results[place]) for language in report.languages]
        found = sum(result.num_found for _, result in results)
        above = ", ".join(escape(language) for language, result in results if result.is_too_much) or "none"
        link = f'<a href="#worst-{rule.name}">{escape(rule.title)}</a>' if found else escape(rule.title)
        rows.append(
            f'<tr><th scope="row">{link}<br><code class="small soft">{rule.name}</code></th><td>{found:,}</td>'
            f"<td>{above}</td><td>{_allowed([result.max_share for _, result in results])}</td>"
            f'<td class="words">{escape(rule.finds)}</td><td class="words">{escape(rule.reason)}</td></tr>\n'
        )
    return _heading("checks") + _table("Checks and thresholds", caption, head, rows)


def _allowed(shares: list[float]) -> str:
    low, high = min(shares), max(shares)
    return _unbroken(low) if low == high else f"{_unbroken(low)} to {_unbroken(high)}"


def _worst(report: AuditReport, sound: Sound, on_sample: Callable[[], None]) -> Iterator[str]:
    yield _heading("worst")
    if not any(report.worst.values()):
        yield "<p>No check found anything.</p>\n"
    for rule in RULES:
        findings = report.worst[rule.name]
        if findings:
            yield f'<h3 id="worst-{rule.name}">{escape(rule.title)}</h3>\n'
            yield f'<p class="soft small">{escape(rule.finds)}</p>\n<ul class="samples">\n'
            for finding in findings:
                yield _item(finding.sample, report, sound, finding)
                on_sample()
            yield "</ul>\n"


def _languages(report: AuditReport, sound: Sound, on_sample: Callable[[], None]) -> Iterator[str]:
    yield _heading("listen")
    for language in report.languages:
        name = escape(language.language)
        yield f'<details id="lang-{name}" open><summary><strong>{name}</strong>'
        yield f'<span class="soft">{language.num_samples:,} samples</span></summary>\n'
        yield f'<div class="charts">{"".join(_figures(language))}</div>\n'
        if language.random:
            number = len(language.random)
            yield f'<h3>{number} random sample{"" if number == 1 else "s"}</h3>\n<ul class="samples">\n'
            for sample in language.random:
                yield _item(sample, report, sound)
                on_sample()
            yield "</ul>\n"
        yield "</details>\n"


def _figures(language: LanguageReport) -> Iterator[str]:
    if language.durations:
        yield figure("Duration", "s", language.durations)
    if language.chars_per_sec:
        yield figure("Characters a second", "a second", language.chars_per_sec)
    if language.code_usage:
        note = f"{language.num_distinct_codes:,} different, entropy {language.entropy_bits:.1f} bits"
        yield figure("Use of the codebook", "code", language.code_usage, with_median=False, note=note)


def _item(sample: AuditSample, report: AuditReport, sound: Sound, finding: Finding | None = None) -> str:
    language = escape(sample.language)
    said = f'<bdi class="said" lang="{language}">{_shown(sample.text)}</bdi>' if sample.text else _no_words(sample)
    found = f'<span class="found">{_shown(finding.detail)}</span>' if finding else ""
    length = (
        f"{len(sample.tokens_T) / report.codes_per_sec:.1f} s" if sample.is_speech else f"{len(sample.tokens_T):,} ids"
    )
    facts = f"{language} · {length} · <bdi>{_shown(sample.sample_id)}</bdi>"
    return f'<li>{said}{found}<span class="soft small">{facts}</span>{_player(sample, sound)}</li>\n'


def _no_words(sample: AuditSample) -> str:
    words = "no transcript" if sample.is_speech else "text shown with --tokenizer only"
    return f'<span class="soft">{words}</span>'


def _player(sample: AuditSample, sound: Sound) -> str:
    if not sample.is_speech:
        return ""
    if sound.codec is None:
        return '<span class="soft small">not audible</span>'
    label = escape(f"Sample {_visible(sample.sample_id)}")
    return f'<audio controls preload="metadata" aria-label="{label}" src="{sound.data_uri(sample)}"></audio>'


def _shown(text: str | None) -> str:
    """Escaped, with control characters made visible and a bound on its length."""
    text = text or ""
    return escape(_visible(text[:MAX_TEXT_CHARS])) + (" …" if len(text) > MAX_TEXT_CHARS else "")


def _visible(text: str) -> str:
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) == "Cc" and c not in "\n\t" else c for c in text
    )
