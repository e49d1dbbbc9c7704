"""In: a histogram. Out: an inline SVG figure with a caption, which says in words too what it shows."""

from __future__ import annotations

from html import escape

from titan_speech.store.audit.histogram import Histogram

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
