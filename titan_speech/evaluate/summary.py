"""A result as Markdown: for the card of an export, for the terminal, for people.

In: results of one checkpoint. Out: for each a table of means with 95 % intervals by language, with what was not
measured and why. What was not measured is a word in the table, never a zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from titan_speech.evaluate.result import Result
from titan_speech.evaluate.statistics import Interval, intervals
from titan_speech.hf.model_card import as_text

_NOT_MEASURED = "not measured"


def summary(results: Sequence[Result]) -> str:
    """Sections of Markdown, one for each result."""
    return "\n".join(line for result in results for line in _section(result))


def _section(result: Result) -> Iterable[str]:
    decoding = ", ".join(
        f"{name} {value if isinstance(value, str) else format(value, 'g')}"
        for name, value in sorted(result.key.decoding.items())
    )
    scorers = ", ".join(f"{name} {version}" for name, version in sorted(result.key.scorers.items()))
    pack = f"Prompt pack {result.key.pack}, {len(result.clips):,} clips."
    yield as_text(f"{pack} Decoding: {decoding}. Scorers: {scorers}.")
    if speed := (result.notes or {}).get("codes_per_sec"):
        yield f"Generated at {speed:,.0f} codes per second."
    yield "Means with 95 % intervals over the prompts."
    yield ""
    metrics = result.metrics
    yield "| language | " + " | ".join(map(_cell, metrics)) + " |"
    yield "| --- |" + " --- |" * len(metrics)
    found = {(one.metric, one.language): one for one in intervals(result) if one.subset == "*"}
    for language in dict.fromkeys(language for _, language in found):
        cells = [value_with_interval(found.get((metric, language))) for metric in metrics]
        yield f"| {_cell(language) or 'all'} | " + " | ".join(cells) + " |"
    yield ""
    reasons = Counter(
        (metric, score.reason) for clip in result.clips for metric, score in clip.scores.items() if score.value is None
    )
    for (metric, reason), count in reasons.most_common(20):
        yield f"- {as_text(metric)}: {count:,} clips have no value: {as_text(reason)}"
    if reasons:
        yield ""


def _cell(name: str) -> str:
    """A name of others in a table of Markdown."""
    return as_text(name).replace("|", "\\|")


def value_with_interval(one: Interval | None) -> str:
    """`0.12 [0.10, 0.15]`, or that it was not measured."""
    if one is None or one.mean is None:
        return _NOT_MEASURED
    ends = "" if one.low is None or one.high is None else f" [{one.low:.3g}, {one.high:.3g}]"
    return f"{one.mean:.3g}{ends}"
