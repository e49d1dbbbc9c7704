"""The audit page's style: light and dark by the reader's setting, one column on a phone, nothing loaded.

In: a histogram. Out: an inline SVG figure with a caption, which says in words too what it shows.

The audit as one HTML file that needs no network: tables, histograms, samples to read and to listen to.

In: an audit and the sound that belongs to its store. Out: HTML. Transcripts and ids come from anywhere: all of them
are escaped, isolated from the page's direction, and a content policy forbids scripts and requests. There is no
script: players, folding and keyboard are the browser's own. 16 languages with 5 players each make 12 MB, of which the
sound is nearly all.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator
from html import escape

from titan_speech.audit.measures import Histogram
from titan_speech.audit.report import AuditFinding, AuditReport, CheckResult, LanguageReport, percent
from titan_speech.audit.rules import RULES
from titan_speech.audit.sample import AuditSample
from titan_speech.audit.sound import Sound

STYLE = """
:root { color-scheme: light dark;
  --ink: #1c1e21; --soft: #5a6068; --ground: #ffffff; --panel: #f5f6f8; --line: #d9dde2; --bar: #3467b5;
  --good: #1b6e3a; --good-ground: #e3f4e8; --bad: #a3211c; --bad-ground: #fce6e4; --mark: #c2571a; }
@media (prefers-color-scheme: dark) { :root {
  --ink: #e6e8eb; --soft: #a3abb5; --ground: #15171a; --panel: #1e2125; --line: #363b42; --bar: #7aa7ea;
  --good: #7fd69a; --good-ground: #16321f; --bad: #ff9d95; --bad-ground: #43191a; --mark: #f0a06c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 88rem; padding: 1rem clamp(.75rem, 3vw, 2rem) 4rem; color: var(--ink);
  background: var(--ground); line-height: 1.5; overflow-wrap: anywhere;
  font-family: system-ui, "Segoe UI", Roboto, "Noto Sans", "Noto Sans Devanagari", "Noto Sans Bengali",
    "Noto Sans Tamil", "Noto Sans Telugu", "Noto Sans Kannada", "Noto Sans Malayalam", "Noto Sans Gujarati",
    "Noto Sans Gurmukhi", "Noto Sans Oriya", sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; padding-top: .5rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
p { max-width: 46rem; margin: .4rem 0; }
a { color: var(--bar); }
code { font-size: .9em; }
.soft, caption, figcaption, dt { color: var(--soft); }
.small { font-size: .85rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem .9rem; list-style: none; margin: .75rem 0; padding: 0; }
dl.facts { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: .75rem 0; font-size: .9rem; }
dd { margin: 0; }
.verdict { display: inline-block; padding: 0 .5rem; border-radius: .25rem; font-weight: 600; white-space: nowrap; }
.verdict.good { color: var(--good); background: var(--good-ground); }
.verdict.bad { color: var(--bad); background: var(--bad-ground); }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: .375rem; margin: .75rem 0; }
.scroll:focus-visible, summary:focus-visible, a:focus-visible { outline: 3px solid var(--mark); outline-offset: 2px; }
table { border-collapse: collapse; font-size: .82rem; width: 100%; overflow-wrap: normal; }
caption { text-align: left; padding: .5rem .6rem; }
caption span { display: block; position: sticky; left: .6rem; max-width: min(46rem, calc(100vw - 3.5rem)); }
th, td { padding: .3rem .5rem; text-align: right; border-top: 1px solid var(--line); font-variant-numeric: tabular-nums;
  vertical-align: top; }
thead th { color: var(--soft); font-weight: 600; vertical-align: bottom; line-height: 1.2; min-width: 3.9rem; }
th:first-child, .words { text-align: left; }
td.words { min-width: 14rem; }
tbody th { position: sticky; left: 0; background: var(--ground); font-weight: 600; }
td.bad { color: var(--bad); background: var(--bad-ground); font-weight: 600; }
td.none { color: var(--soft); }
details { border: 1px solid var(--line); border-radius: .375rem; margin: .5rem 0; padding: 0 .75rem; }
details[open] { padding-bottom: .75rem; }
summary { cursor: pointer; padding: .5rem 0; }
summary .soft { margin-left: .5rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)); gap: 1rem;
  margin: .5rem 0; }
figure { margin: 0; padding: .5rem .75rem; background: var(--panel); border-radius: .375rem; }
figcaption { font-size: .85rem; }
svg { display: block; width: 100%; height: auto; }
svg .bar { fill: var(--bar); } svg .axis { stroke: var(--soft); stroke-width: 1; }
svg .median { stroke: var(--mark); stroke-width: 2; stroke-dasharray: 4 3; }
svg text { fill: var(--soft); font: 12px system-ui, sans-serif; }
ul.samples { list-style: none; margin: .5rem 0; padding: 0; display: grid; gap: .6rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); }
ul.samples > li { background: var(--panel); border-radius: .375rem; padding: .6rem .75rem; display: flex;
  flex-direction: column; gap: .25rem; min-width: 0; }
.said { font-size: 1.05rem; }
.found { color: var(--bad); font-size: .9rem; }
audio { width: 100%; height: 2.5rem; margin-top: auto; }
"""

WIDTH, HEIGHT, TOP, BOTTOM = 320, 130, 6, 20


def figure(title: str, unit: str, histogram: Histogram, *, with_median: bool = True, note: str = "") -> str:
    """`unit` stands at the end of the axis."""
    median = f"median {_number(histogram.median)} {unit}" if with_median else ""
    words = ", ".join(part for part in (f"{histogram.num_values:,} values", median, note) if part)
    last = f"the last bar holds all from {_number(histogram.stop - histogram.width)} on"
    label = f"{title}: {words}; tallest bar at {_number(_peak(histogram))} {unit}" + (
        f", {last}" if with_median else ""
    )
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
        f"{_bars(histogram)}{_median_line(histogram) if with_median else ''}{_axis(histogram, unit)}</svg>"
        f"<figcaption><strong>{escape(title)}</strong><br>{escape(words)}</figcaption></figure>"
    )


def _bars(histogram: Histogram) -> str:
    tallest, width = max(histogram.counts) or 1, WIDTH / len(histogram.counts)
    room = HEIGHT - TOP - BOTTOM
    bars = []
    for i, count in enumerate(histogram.counts):
        height = max(1.0, room * count / tallest) if count else 0.0
        start = histogram.start + i * histogram.width
        tip = f"{_number(start)} to {_number(start + histogram.width)}: {count:,}"
        bars.append(
            f'<rect class="bar" x="{i * width:.1f}" y="{HEIGHT - BOTTOM - height:.1f}" width="{max(width - 1, 1):.1f}" '
            f'height="{height:.1f}"><title>{tip}</title></rect>'
            if count
            else ""
        )
    return "".join(bars)


def _median_line(histogram: Histogram) -> str:
    x = WIDTH * min(1.0, (histogram.median - histogram.start) / (histogram.stop - histogram.start))
    return f'<line class="median" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{HEIGHT - BOTTOM}"/>'


def _axis(histogram: Histogram, unit: str) -> str:
    y, middle = HEIGHT - BOTTOM, (histogram.start + histogram.stop) / 2
    return (
        f'<line class="axis" x1="0" x2="{WIDTH}" y1="{y}" y2="{y}"/>'
        f'<text x="0" y="{HEIGHT - 4}">{_number(histogram.start)}</text>'
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 4}" text-anchor="middle">{_number(middle)}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT - 4}" text-anchor="end">{_number(histogram.stop)} {escape(unit)}</text>'
    )


def _peak(histogram: Histogram) -> float:
    return histogram.start + histogram.width * histogram.counts.index(max(histogram.counts))


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


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


def _item(sample: AuditSample, report: AuditReport, sound: Sound, finding: AuditFinding | None = None) -> str:
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
