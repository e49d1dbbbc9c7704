"""The mixture: what the data plan gives each stream up to now, against what was read or trained; and epochs.

Planned are the tokens of the packs that the phases of the run assign to each stream up to the last step, in closed
form. Actual are those that the run counted in its batches: two ways of knowing the same number. A language that is
planned and never counted, or differs by more than `TOLERANCE`, is marked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from titan_speech.data.phase_report import StreamSummary, summarize_phases
from titan_speech.errors import TitanSpeechError
from titan_speech.report.blocks import Block, Cell, Charts, Paragraph, Section, Table
from titan_speech.report.run import Run
from titan_speech.report.sections.lines import small_charts
from titan_speech.utils.text_table import amount

TOLERANCE = 0.1
"""Of a planned share that is above 1 %."""
MIN_SHARE = 0.01
MAX_UNFOLDED = 12
"""Streams whose epochs are shown without a click."""


@dataclass(frozen=True)
class Share:
    """Planned and actual share of a source or language, 0 to 1; `actual` is None if it was not counted."""

    name: str
    planned: float
    actual: float | None

    @property
    def is_off(self) -> bool:
        if self.actual is None:
            return False
        return self.planned >= MIN_SHARE and abs(self.actual - self.planned) > TOLERANCE * self.planned


def mixture(runs: Sequence[Run]) -> Section | None:
    """Planned and actual mixture of every run."""
    blocks: list[Block] = []
    for run in runs:
        streams = _streams(run)
        if not streams:
            continue
        if len(runs) > 1:
            blocks.append(Paragraph(run.name))
        for group, title in (("source", "source"), ("language", "language")):
            blocks.append(_shares_table(run, streams, group, title))
        blocks.append(_epochs_table(streams))
    share_charts = small_charts(runs, "read_tokens/language/", "tokens per record", from_zero=True)
    if share_charts:
        blocks.append(Charts(share_charts, "Tokens read by language"))
    if not blocks:
        return None
    lead = "Shares of the tokens of packs up to the newest checkpoint (planned) and of those counted (actual)."
    return Section("data", "Data and mixture", lead, blocks)


def _streams(run: Run) -> list[StreamSummary]:
    """What all phases of a run read of each stream."""
    newest = run.checkpoint_folder / run.checkpoints[-1].name if run.checkpoints else None
    try:
        phases = summarize_phases(run.folder, newest)
    except (TitanSpeechError, OSError, ValueError, ZeroDivisionError, OverflowError) as error:
        run.problems.append(f"the phases of the data cannot be read: {error}")
        return []
    return [stream for phase in phases for stream in phase.streams]


def counted(run: Run, group: str) -> tuple[str, dict[str, float]]:
    """Which tokens were counted by `group`, and their numbers over all records."""
    for kind in ("read_tokens", "trained_tokens"):
        prefix = f"{kind}/{group}/"
        found = {name: sum(run.log.column(prefix + name).values) for name in run.log.names(prefix)}
        if found:
            return kind.replace("_", " "), found
    return "", {}


def shares(planned: Mapping[str, float], actual: Mapping[str, float]) -> list[Share]:
    """Both mixtures by name, the largest planned first."""
    total_planned, total_actual = sum(planned.values()) or 1.0, sum(actual.values())
    return [
        Share(
            name,
            planned.get(name, 0.0) / total_planned,
            actual.get(name, 0.0) / total_actual if total_actual else None,
        )
        for name in sorted({*planned, *actual}, key=lambda name: (-planned.get(name, 0.0), name))
    ]


def _shares_table(run: Run, streams: Sequence[StreamSummary], group: str, title: str) -> Table:
    planned: dict[str, float] = defaultdict(float)
    for stream in streams:
        source, _, language = stream.name.rpartition(".")
        planned[source if group == "source" else language] += stream.num_tokens or stream.share
    what, actual = counted(run, group)
    is_same = what == "read tokens"
    rows, found_shares = [], shares(planned, actual)
    most = max((max(share.planned, share.actual or 0.0) for share in found_shares), default=0.0) or 1.0
    for share in found_shares:
        tone = "warn" if is_same and share.is_off else ""
        found = "–" if share.actual is None else f"{share.actual:.2%}"
        difference = "–" if share.actual is None else f"{100 * (share.actual - share.planned):+.2f}"
        rows.append(
            (
                share.name,
                Cell(f"{share.planned:.2%}", share=share.planned / most),
                Cell(found, tone, share=None if share.actual is None else share.actual / most),
                Cell(difference, tone),
                amount(actual.get(share.name, 0.0), "tokens"),
            )
        )
    note = "" if is_same else " Trained tokens leave out prompts, so they differ from the plan by tasks."
    return Table(
        (title.capitalize(), "Planned", f"Actual ({what or 'not counted'})", "Difference, points", "Counted"),
        rows,
        f"Mixture by {title}.{note}",
    )


def _epochs_table(streams: Sequence[StreamSummary]) -> Table:
    rows = [
        (
            stream.name,
            f"{stream.share:.2%}",
            amount(stream.num_tokens, "tokens"),
            Cell(f"{stream.num_epochs:.3g}", share=min(1.0, stream.num_epochs)),
            Cell(f"{stream.num_epochs_in_all:.3g}", "warn" if stream.num_epochs_in_all > 4 else ""),
            "resumed" if stream.status == "carried" else stream.status,
        )
        for stream in sorted(streams, key=lambda stream: -stream.num_epochs)
    ]
    heads = ("Stream", "Share of its phase", "Read", "Epochs read", "Epochs in all", "Beginning")
    caption = "Epochs of each source and language; above four, more tokens of it add little."
    return Table(heads, rows, caption, last_is_words=True, is_folded=len(rows) > MAX_UNFOLDED)
