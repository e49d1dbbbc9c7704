"""A result as Markdown: for the card of an export, for the terminal, for people.

In: results of one checkpoint. Out: for each a table of means with 95 % intervals by language and subset, which
recognizer was trusted in which language, and what was not measured and why. What was not measured is a word in the
table, never a zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from titan_speech.evaluate.result import Result
from titan_speech.evaluate.statistics import Interval, intervals
from titan_speech.hf.model_card import as_text

_NOT_MEASURED = "not measured"
MAX_SHARE, MAX_NAME = 1e6, 200
"""A file of others may say more, and no table has room for it."""
TRUST_HEADS = (
    "language", "recognizer", "recordings", "CER", "95 % interval", "through the codec", "right script", "answered",
    "trusted",
)  # fmt: skip


def summary(results: Sequence[Result]) -> str:
    """Sections of Markdown, one for each result."""
    return "\n".join(line for result in results for line in _section(result))


def _section(result: Result) -> Iterable[str]:
    scorers = ", ".join(f"{name} {version}" for name, version in sorted(result.key.scorers.items()))
    pack = f"Prompt pack {result.key.pack}, {len(result.clips):,} clips."
    yield as_text(f"{pack} Decoding: {decoding_text(result)}. Scorers: {scorers}.")
    if speed := (result.notes or {}).get("codes_per_sec"):
        yield f"Generated at {speed:,.0f} codes per second."
    yield "Means with 95 % intervals over the prompts."
    yield ""
    metrics = result.metrics
    yield from _table_head(("language", *metrics))
    found = {(one.metric, one.language, one.subset): one for one in intervals(result)}
    for language, subset in dict.fromkeys((language, subset) for _, language, subset in found):
        cells = [value_with_interval(found.get((metric, language, subset))) for metric in metrics]
        yield f"| {_cell(group_name(language, subset))} | " + " | ".join(cells) + " |"
    yield ""
    if result.trust:
        yield from _table_head(TRUST_HEADS)
        yield from (f"| {' | '.join(map(_cell, row))} |" for row in trust_rows(result))
        yield ""
    missing = [(metric, *found) for metric, reasons in result.missing().items() for found in reasons.items()]
    for metric, reason, count in sorted(missing, key=lambda one: -one[2])[:20]:
        yield f"- {as_text(metric)}: {count:,} clips have no value: {as_text(reason)}"
    if missing:
        yield ""


def decoding_text(result: Result) -> str:
    """The decoding parameters of a result."""
    parameters = sorted(result.key.decoding.items())
    return ", ".join(f"{name} {value if isinstance(value, str) else format(value, 'g')}" for name, value in parameters)


def failed_clips(result: Result, failed: Mapping[str, Iterable[str]]) -> str:
    """How many clips failed, with one of them.

    Args:
        result: of one evaluation.
        failed: its `failures()`; at least one.
    """
    prompt, reasons = next(iter(failed.items()))
    return (
        f"{len(failed):,} of {len({clip.prompt_id for clip in result.clips}):,} prompts failed in at least one metric, "
        f"such as {prompt}: {'; '.join(sorted(reasons))}"
    )


def _table_head(heads: Sequence[str]) -> Iterable[str]:
    yield "| " + " | ".join(map(_cell, heads)) + " |"
    yield "|" + " --- |" * len(heads)


def group_name(language: str, subset: str) -> str:
    """What a group of clips is called: `all`, `hi`, `hi: numbers`; the prompts of a language that are in no subset are
    `hi: no subset`."""
    return (language or "all") if subset == "*" else f"{language}: {subset or 'no subset'}"


def trust_rows(result: Result) -> list[tuple[str, ...]]:
    """The trust table of a result, a row of texts for each recognizer and language, under `TRUST_HEADS`."""
    return [_trust_row(row) for row in result.trust]


def _trust_row(row: dict[str, Any]) -> tuple[str, ...]:
    def percent(name: str) -> str:
        value = row.get(name)
        return f"{100 * value:.1f} %" if isinstance(value, float | int) and abs(value) < MAX_SHARE else "-"

    ends = percent("cer_low"), percent("cer_high")
    reasons = row.get("reasons")
    known = isinstance(reasons, list | tuple)
    verdict = "yes" if known and not reasons else f"no: {', '.join(map(str, reasons))}" if known else "-"
    return (
        *(str(row.get(name, "-"))[:MAX_NAME] for name in ("language", "asr", "num_prompts")),
        percent("cer"), "-" if "-" in ends else " to ".join(ends), percent("cer_codec"), percent("script"),
        percent("coverage"), verdict,
    )  # fmt: skip


def _cell(name: str) -> str:
    """A name of others in a table of Markdown."""
    return as_text(name).replace("|", "\\|")


def value_with_interval(one: Interval | None) -> str:
    """`0.12 [0.10, 0.15]`, or that it was not measured."""
    if one is None or one.mean is None:
        return _NOT_MEASURED
    ends = "" if one.low is None or one.high is None else f" [{one.low:.3g}, {one.high:.3g}]"
    return f"{one.mean:.3g}{ends}"
