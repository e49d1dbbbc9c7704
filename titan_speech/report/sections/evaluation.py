"""Evaluations of checkpoints: scores over the steps with intervals, the worst clips, and prompts to listen to.

Read from evaluation/results and evaluation/audio of the run folder, which `titan-speech evaluate run` writes. Results
of one series (pack, decoding, scorers) are drawn together; another series is another block, and says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from titan_speech.errors import DataError
from titan_speech.evaluate.models.opinions import DNSMOS
from titan_speech.evaluate.result import PARITY_PREFIX, RESULTS_DIR, Result, ScoredClip, audio_path, read_result
from titan_speech.evaluate.statistics import Interval, intervals
from titan_speech.evaluate.summary import TRUST_HEADS, decoding_text, group_name, trust_rows
from titan_speech.model.exported_files import EVALUATION_FOLDER
from titan_speech.report.blocks import (
    Block,
    Cell,
    Charts,
    Paragraph,
    Section,
    SoundClip,
    SoundPrompt,
    SoundPrompts,
    Table,
)
from titan_speech.report.chart import Band, Chart, Line, value_text
from titan_speech.report.metrics_log import Curve
from titan_speech.report.run import Run
from titan_speech.report.sections.generation import MAX_CLIPS, MAX_PROMPTS, MAX_SOUND_BYTES, sound_of, spread
from titan_speech.report.sections.lines import x_name, x_per_step

MAX_RESULTS = 400
MAX_WORST = 8
ERROR_RATES = ("cer", "wer")
"""Metrics by which clips are the worst, the first that is there."""
HEARD = ("wer", "cer", "similarity", DNSMOS)
"""Metrics that come first on the page."""


@dataclass
class _Series:
    """Results that can be compared, by rising step."""

    run: Run
    results: list[Result] = field(default_factory=list)
    found: dict[int, list[Interval]] = field(default_factory=dict)
    """Intervals of each result, by its step."""

    def of(self, metric: str, language: str) -> list[tuple[int, Interval]]:
        """Steps at which a metric of a language was measured."""
        return [
            (step, one)
            for step, some in self.found.items()
            for one in some
            if (one.metric, one.language, one.subset) == (metric, language, "*") and one.mean is not None
        ]

    @property
    def languages(self) -> list[str]:
        return sorted({clip.language for result in self.results for clip in result.clips})


def evaluation(runs: Sequence[Run]) -> Section | None:
    """What evaluations of checkpoints found."""
    blocks: list[Block] = []
    for run in runs:
        series = _series(run)
        for number, one in enumerate(series):
            key = one.results[-1].key
            scorers = ", ".join(f"{name} {version}" for name, version in sorted(key.scorers.items()))
            name = f"{run.name}: " if len(runs) > 1 else ""
            different = "another series, not to be compared with the one above; " if number else ""
            decoding = decoding_text(one.results[-1]) or "not recorded"
            blocks.append(Paragraph(f"{name}{different}pack {key.pack}; decoding {decoding}; scored by {scorers}"))
            blocks.append(Charts(_charts(one, runs)))
            blocks += [_table(one), *_subsets(one), *_trust(one)]
            blocks += _worst(one)
        blocks += _exports(run)
        prompts = _prompts(run, series, MAX_SOUND_BYTES // len(runs))
        if prompts:
            blocks.append(SoundPrompts(prompts))
    if not blocks:
        return None
    lead = "What a pack of prompts sounds like at each checkpoint, with 95 % intervals over the prompts."
    return Section("evaluation", "Evaluation", lead, blocks)


def _series(run: Run) -> list[_Series]:
    found: dict[str, _Series] = {}
    paths = [
        path
        for path in (run.folder / EVALUATION_FOLDER / RESULTS_DIR).glob("*.json")
        if not path.name.startswith(PARITY_PREFIX)
    ]
    paths.sort(key=lambda path: (path.lstat().st_mtime_ns, path.name))  # of a step that was reached twice, the last
    if len(paths) > MAX_RESULTS:
        run.problems.append(f"{len(paths):,} evaluations are there; the page has the {MAX_RESULTS:,} that are newest")
    for path in paths[-MAX_RESULTS:]:
        content = run.json(path)
        if isinstance(content, dict) and "failed" in content:
            run.problems.append(f"step {content.get('step')} was not evaluated: {content['failed']}")
            continue
        try:
            result = read_result(path)
        except DataError as error:
            run.problems.append(str(error))
            continue
        if result.clips and result.step is not None:
            found.setdefault(result.key.series, _Series(run)).results.append(result)
    for one in found.values():
        one.results.sort(key=lambda result: result.step or 0)
        one.found = {result.step or 0: intervals(result) for result in one.results}
    return sorted(found.values(), key=lambda one: (-len(one.results), one.results[-1].key.series))


def _exports(run: Run) -> list[Block]:
    """Milestone exports that were compared with their checkpoints."""
    rows = []
    for path in sorted((run.folder / EVALUATION_FOLDER / RESULTS_DIR).glob(f"{PARITY_PREFIX}*.json"))[:MAX_RESULTS]:
        content = run.json(path)
        lines = content.get("parity") if isinstance(content, dict) else None
        if isinstance(lines, list) and lines:
            differs = bool(content.get("differs"))
            rows.append(
                (f"step {content.get('step')}", Cell(str(lines[-1]), "bad" if differs else "good"), str(lines[0]))
            )
    heads = ("Export", "Result", "Compared")
    return [Table(heads, rows, "Milestone exports against their checkpoints.", 3, last_is_words=True)] if rows else []


def _charts(series: _Series, runs: Sequence[Run]) -> list[Chart]:
    scale = x_per_step(series.run, runs)
    charts = []
    for metric in _heard_first(series.results[-1].metrics):
        names = ["", *series.languages] if len(series.languages) > 1 else [""]
        lines, bands = [], []
        for color, language in enumerate(names):
            points = series.of(metric, language)
            if not points:
                continue
            x_P = np.array([step * scale for step, _ in points])
            mean_P = np.array([one.mean for _, one in points], np.float64)
            lines.append(Line(language or "all", Curve(x_P, mean_P, mean_P, mean_P), color))
            ends = [(one.low, one.high) for _, one in points]
            if not language and all(low is not None for low, _ in ends):
                low_P, high_P = np.array(ends, np.float64).T
                bands.append(Band("95 % interval", x_P, low_P, high_P))
        charts.append(Chart(metric, "", tuple(lines), x_name=x_name(runs), bands=tuple(bands), size="small"))
    return charts


def _table(series: _Series) -> Table:
    """The newest result, a row per metric and a column per language: means with intervals."""
    newest = series.results[-1]
    found = {(one.metric, one.language): one for one in series.found[newest.step or 0] if one.subset == "*"}
    languages = ["", *series.languages] if len(series.languages) > 1 else series.languages
    rows = []
    for metric in _heard_first(newest.metrics):
        every = found.get((metric, ""))
        detectable = "-" if every is None or every.detectable is None else value_text(every.detectable)
        cells = [_cell(found.get((metric, language)), newest, language) for language in languages]
        rows.append([metric, *cells, detectable])
    heads = ("Metric", *(language or "all" for language in languages), "Detectable")
    speed = (newest.notes or {}).get("codes_per_sec")
    caption = (
        f"Step {newest.step:,}: {len(newest.clips):,} clips{f', {speed:,.0f} codes per second' if speed else ''}. "
        "Detectable: the smallest difference to another model that the prompts of all languages find with a power of "
        "80 %, if the errors of two models on a prompt are independent."
    )
    return Table(heads, rows, caption)


def _subsets(series: _Series) -> list[Block]:
    """The newest result by language and subset, a row for each of them."""
    newest = series.results[-1]
    found = {(one.metric, one.language, one.subset): one for one in series.found[newest.step or 0]}
    groups = dict.fromkeys((language, subset) for _, language, subset in found if subset != "*")
    metrics = _heard_first(newest.metrics)
    rows = [
        [
            group_name(language, subset),
            *(_cell(found.get((one, language, subset)), newest, language) for one in metrics),
        ]
        for language, subset in groups
    ]
    heads = ("Language and subset", *metrics)
    return [Table(heads, rows, f"Step {newest.step:,} by subset.", is_folded=True)] if rows else []


def _trust(series: _Series) -> list[Block]:
    """Which recognizer may judge which language, as it was measured on recordings."""
    rows = [(*row[:-1], Cell(row[-1], "good" if row[-1] == "yes" else "bad")) for row in trust_rows(series.results[-1])]
    caption = "Recognizers on recordings of known text. One that is not trusted in a language measures nothing there."
    return [Table(TRUST_HEADS, rows, caption, 2, last_is_words=True)] if rows else []


def _heard_first(metrics: Sequence[str]) -> list[str]:
    """Metrics of what people hear before those of waveform, codes and likelihood."""
    return sorted(metrics, key=lambda name: HEARD.index(name) if name in HEARD else len(HEARD))


def _cell(one: Interval | None, result: Result, language: str) -> Cell:
    if one is None or one.mean is None:
        clips = [clip for clip in result.clips if language in ("", clip.language)]
        reasons = Counter(
            clip.scores[one.metric].reason
            for clip in clips
            if one is not None and one.metric in clip.scores and one.subset in ("*", clip.subset)
        )
        return Cell("not measured", "soft", title="; ".join(f"{count}: {why}" for why, count in reasons.items()))
    text = value_text(one.mean)
    if one.low is not None and one.high is not None:
        text += f" [{value_text(one.low)}, {value_text(one.high)}]"
    missing = f"{one.num_missing} clips have no value" if one.num_missing else ""
    return Cell(text, "warn" if missing else "", title=missing)


def _worst(series: _Series) -> list[Block]:
    """The clips of the newest result that a person should hear first."""
    newest = series.results[-1]
    metric = next((name for name in ERROR_RATES if name in newest.metrics), None)
    if metric is None:
        return []
    measured = [(clip.scores[metric].value, clip) for clip in newest.clips if metric in clip.scores]
    ranked = sorted(((value, clip) for value, clip in measured if value), key=lambda one: -one[0])[:MAX_WORST]
    if not ranked:
        return []
    rows = [(clip.prompt_id, clip.language, value_text(value), clip.scores[metric].detail) for value, clip in ranked]
    heads = ("Prompt", "Language", metric, "Heard")
    return [Table(heads, rows, f"Worst clips of step {newest.step:,}.", 2, last_is_words=True, is_folded=True)]


def _prompts(run: Run, series: Sequence[_Series], max_bytes: int) -> list[SoundPrompt]:
    """The prompts that are the worst in the newest result whose audio was kept, the worst first, at several steps."""
    kept = [
        result
        for one in series
        for result in one.results
        if (run.folder / EVALUATION_FOLDER / audio_path(result.key.id, "")).parent.is_dir()
    ]
    if not kept:
        return []
    kept.sort(key=lambda result: result.step or 0)
    chosen = [kept[place] for place in spread(list(range(len(kept))), MAX_CLIPS)]
    worst = {clip.prompt_id: clip.language for clip in sorted(kept[-1].clips, key=_badness)}
    prompts: list[SoundPrompt] = []
    used = 0
    folder = run.folder / EVALUATION_FOLDER
    for prompt_id, language in list(worst.items())[:MAX_PROMPTS]:
        found: list[SoundClip] = []
        for result in chosen:
            clip = next((one for one in result.clips if one.prompt_id == prompt_id), None)
            sound = clip and sound_of(folder / audio_path(result.key.id, prompt_id), max_bytes - used)
            if clip and sound:
                used += len(sound)
                found.append(SoundClip(f"step {result.step:,}", sound, _note(clip), "soft"))
        if found:
            prompts.append(SoundPrompt(f"{language} · {prompt_id}", "", language, found))
    return prompts


def _badness(clip: ScoredClip) -> float:
    values = (clip.scores[name].value for name in ERROR_RATES if name in clip.scores)
    return -next((value for value in values if value is not None), 0.0)


def _note(clip: ScoredClip) -> str:
    metric = next((name for name in ERROR_RATES if name in clip.scores), None)
    value = clip.scores[metric].value if metric else None
    return "" if value is None else f"{metric} {value_text(value)}"
