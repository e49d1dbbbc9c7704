"""The audit as one HTML file that needs no network: tables, histograms, samples to read and to listen to.

In: an audit report and the sound of its store. Out: HTML in pieces, rendered by `page.html.j2`. Names, ids and
transcripts are not trusted: the template escapes all of them, control characters are shown as `\\u001b`, also those
that turn the direction of text, and a content policy forbids scripts and requests. 16 languages with 5 players each
make 12 MB, nearly all of it sound, which is why the page is never in memory as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from titan_speech.audit.choose_samples import AuditSample
from titan_speech.audit.measures import Histogram
from titan_speech.audit.report import AuditReport, LanguageReport, NotRun, percent
from titan_speech.audit.rules import AUDIT_RULES, Rule
from titan_speech.audit.sound import AuditSound
from titan_speech.utils.printable import escape_on_page
from titan_speech.utils.text_table import counted

MAX_TEXT_CHARS = 400
_SECTIONS = {
    "by-language": "By language",
    "checks": "Checks and thresholds",
    "worst": "Worst samples",
    "listen": "Histograms and random samples",
}
TEXT_COLUMNS = ("Finds", "Why this threshold")
CHART_WIDTH, CHART_HEIGHT, TOP_MARGIN, BOTTOM_MARGIN = 320, 130, 6, 20
AXIS_Y = CHART_HEIGHT - BOTTOM_MARGIN


def page(report: AuditReport, sound: AuditSound, on_sample: Callable[[], None]) -> Iterator[str]:
    """Render the page.

    Args:
        report: what the audit found.
        sound: decodes samples to players, or says why they cannot be heard.
        on_sample: called after each of `report.num_shown` samples, whose decoding is most of the work.

    Returns:
        The page in pieces.
    """

    def mark_shown() -> str:
        on_sample()
        return ""

    def length_of(sample: AuditSample) -> str:
        num_tokens = len(sample.tokens_T)
        return f"{num_tokens / report.codes_per_sec:.1f} s" if sample.is_speech else counted(num_tokens, "id")

    environment = Environment(
        loader=PackageLoader("titan_speech.audit", ""),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=show_control_characters,
        keep_trailing_newline=True,
    )
    environment.filters["percent"] = _percent_unbroken
    environment.filters["shortened"] = _shortened
    return environment.get_template("page.html.j2").generate(
        report=report,
        sound=sound,
        summary=report.summary,
        facts=_facts(report, sound),
        sections=_SECTIONS,
        text_columns=TEXT_COLUMNS,
        language_columns=("Language", "Verdict", "Checked", "Stored", "Minutes", *(rule.title for rule in AUDIT_RULES)),
        check_columns=("Check", "Checked", "Found", "Above in", "At most", *TEXT_COLUMNS),
        check_rows=[_check_row(report, i, rule) for i, rule in enumerate(AUDIT_RULES)],
        charts_of=charts_of,
        length_of=length_of,
        mark_shown=mark_shown,
    )


def show_control_characters(value: object) -> object:
    """Escape control characters in a value of the template: terminals act on them, and browsers hide or obey them."""
    return escape_on_page(value) if type(value) is str else value


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_TEXT_CHARS else f"{text[:MAX_TEXT_CHARS]} …"


def _percent_unbroken(share: float) -> str:
    """With a space that does not break the line."""
    return percent(share).replace(" ", "\N{NO-BREAK SPACE}")


def _facts(report: AuditReport, sound: AuditSound) -> dict[str, str]:
    codec = report.store.manifest.codec
    return {
        "Store": f"{report.store.path}, fingerprint {report.store.fingerprint}",
        "Checked": f"{report.num_samples:,} of {counted(report.num_stored, 'sample')} in "
        f"{counted(len(report.parts), 'part')}, seed {report.seed}",
        "Codec": f"{codec.name}, hash {codec.hash[:16]}" if codec else "none",
        "Sound": sound.why_silent or "decoded by this codec; 8-bit mu-law, so a faint hiss is the page's",
        "Re-encoded": str(report.reencoded) if report.reencoded else "not compared: the codec is not at hand",
        "Checks": f"{report.num_run} of {len(AUDIT_RULES)} ran"
        + (f"; not run: {'; '.join(map(str, report.not_run))}" if report.not_run else ""),
    }


def _where_and_why(not_run: NotRun) -> str:
    return f"not run{'' if not_run.is_everywhere else ' in ' + ', '.join(not_run.languages)}: {not_run.reason}"


@dataclass(frozen=True)
class CheckRow:
    """One check over all languages."""

    rule: Rule
    num_checked: int
    """Samples it applied to."""
    not_run: str
    """Where it applied to no sample, and why; empty if it did everywhere."""
    num_found: int
    above_in: str
    """Languages above the threshold."""
    max_share: str


def _check_row(report: AuditReport, index: int, rule: Rule) -> CheckRow:
    results = {language.language: language.results[index] for language in report.languages}
    shares = [result.max_share for result in results.values()]
    low, high = _percent_unbroken(min(shares)), _percent_unbroken(max(shares))
    above = [language for language, result in results.items() if result.is_above_threshold]
    return CheckRow(
        rule=rule,
        num_checked=sum(result.num_checked for result in results.values()),
        not_run="; ".join(_where_and_why(each) for each in report.not_run if each.rule == rule.name),
        num_found=sum(result.num_found for result in results.values()),
        above_in=", ".join(above) or "none",
        max_share=low if min(shares) == max(shares) else f"{low} to {high}",
    )


@dataclass(frozen=True)
class Bar:
    """One bar of a chart, in units of the SVG's view box."""

    x: float
    y: float
    width: float
    height: float
    tooltip: str


@dataclass(frozen=True)
class HistogramChart:
    """A histogram as the template draws it; `label` says in words what the picture shows."""

    title: str
    caption: str
    label: str
    bars: tuple[Bar, ...]
    median_x: float | None
    axis_labels: tuple[tuple[float, str, str], ...]
    """Position, text-anchor and text."""
    width: int = CHART_WIDTH
    height: int = CHART_HEIGHT
    axis_y: int = AXIS_Y


def charts_of(language: LanguageReport) -> list[HistogramChart]:
    """The charts of the histograms that the language has."""
    charts = []
    if language.durations:
        charts.append(_chart("Duration", "s", language.durations))
    if language.chars_per_sec:
        charts.append(_chart("Characters per second", "per second", language.chars_per_sec))
    if language.code_usage:
        note = f"{language.num_distinct_codes:,} different, entropy {language.entropy_bits:.1f} bits"
        charts.append(_chart("Use of the codebook", "code", language.code_usage, with_median=False, note=note))
    return charts


def _chart(title: str, unit: str, histogram: Histogram, *, with_median: bool = True, note: str = "") -> HistogramChart:
    """`unit` is printed at the end of the axis."""
    start, stop, step = histogram.start, histogram.stop, histogram.width
    tallest = max(histogram.counts)
    peak = start + step * histogram.counts.index(tallest)
    median = f"median {_number(histogram.median)} {unit}" if with_median else ""
    caption = ", ".join(part for part in (f"{counted(histogram.num_values, 'value')}", median, note) if part)
    overflow = f", the last bar holds all from {_number(stop - step)} on" if with_median else ""
    width = CHART_WIDTH / len(histogram.counts)
    bars = []
    for i, count in enumerate(histogram.counts):
        if count:
            height = max(1.0, (AXIS_Y - TOP_MARGIN) * count / tallest)
            left = start + i * step
            tooltip = f"{_number(left)} to {_number(left + step)}: {count:,}"
            bars.append(Bar(i * width, AXIS_Y - height, max(width - 1, 1), height, tooltip))
    return HistogramChart(
        title=title,
        caption=caption,
        label=f"{title}: {caption}; tallest bar at {_number(peak)} {unit}{overflow}",
        bars=tuple(bars),
        median_x=CHART_WIDTH * min(1.0, (histogram.median - start) / (stop - start)) if with_median else None,
        axis_labels=(
            (0, "start", _number(start)),
            (CHART_WIDTH / 2, "middle", _number((start + stop) / 2)),
            (CHART_WIDTH, "end", f"{_number(stop)} {unit}"),
        ),
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
