"""Reward training (`titan-speech align grpo`): rewards and scores over the steps, parity before them, what was said.

Read from the job's folder (align/job_files.py), while it trains or after it. The histogram is of the differences of
log-probabilities of the same tokens: sampler and trainer ought to be one model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from titan_speech.align.job_files import BREACHES_NAME, MEANS_PREFIX, PARITY_NAME, ROLLOUTS_NAME
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
from titan_speech.report.chart import value_text
from titan_speech.report.run import Run
from titan_speech.report.sections.generation import MAX_CLIPS, MAX_PROMPTS, MAX_SOUND_BYTES, sound_of, spread
from titan_speech.report.sections.lines import chart, names_of
from titan_speech.utils.json_text import is_number

MAX_BINS = 64
LEADING = ("reward", "kl", "lr")
"""Drawn large, before the scores."""
_STEP_FILE = re.compile(r"step-(\d{1,15})\.json")


def alignment(runs: Sequence[Run]) -> Section | None:
    """What reward training did."""
    names = names_of(runs, MEANS_PREFIX)
    if not names:
        return None
    leading = [chart(runs, name, "", {f"{MEANS_PREFIX}{name}": name}) for name in LEADING if name in names]
    scores = [
        chart(runs, name, "", {f"{MEANS_PREFIX}{name}": name}, size="small") for name in names if name not in LEADING
    ]
    blocks: list[Block] = [Charts(leading), Charts(scores, "Scores, mean over the answers of a step")]
    budget = MAX_SOUND_BYTES // len(runs)
    for run in runs:
        blocks += [*_parity(run), *_breaches(run)]
        if prompts := _rollouts(run, budget):
            blocks += [Paragraph(f"Answers of {run.name} while it trained"), SoundPrompts(prompts)]
    lead = "Reward and scores of sampled answers. A reward that rises while another score leaves its range is hacked."
    return Section("alignment", "Reward training", lead, blocks)


def _number(value: Any) -> float:
    return float(value) if is_number(value) else 0.0


def _parity(run: Run) -> list[Block]:
    """A histogram: a row per bin, a bar per way."""
    found = run.json(run.folder / PARITY_NAME)
    if not isinstance(found, dict) or not isinstance(found.get("apart"), dict):
        return []
    borders = found.get("edges")
    edges = [_number(edge) for edge in borders[: MAX_BINS + 1]] if isinstance(borders, list) else []
    ways = {str(name): one for name, one in list(found["apart"].items())[:4] if isinstance(one, dict)}
    total = max(1.0, _number(found.get("num_tokens")))
    rows = []
    for number, (low, high) in enumerate(pairwise(edges)):
        counts = [_number(_at(one.get("counts"), number)) for one in ways.values()]
        first = "0" if number == 0 else f"{low:.0e}"
        bars = [Cell(f"{count:,.0f}", share=min(1.0, count / total)) for count in counts]
        rows.append((f"{first} to {high:.0e}", *bars))
    rows.append(("most", *(value_text(_number(one.get("greatest"))) for one in ways.values())))
    caption = (
        f"{run.name}: tokens by how far their log-probability is from the trainer's, in nats, before the first step "
        f"({total:,.0f} tokens of {_number(found.get('num_answers')):,.0f} answers)"
    )
    return [Table(("nats", *ways), rows, caption)]


def _at(values: Any, number: int) -> Any:
    return values[number] if isinstance(values, list) and number < len(values) else 0


def _breaches(run: Run) -> list[Block]:
    found = run.json(run.folder / BREACHES_NAME)
    rows = [
        (
            f"{_number(one.get('step')):,.0f}",
            Cell(str(one.get("breach")), "warn"),
            f"{_number(one.get('back_to')):,.0f}",
            value_text(_number(one.get("lr"))),
        )
        for one in (found if isinstance(found, list) else ())
        if isinstance(one, dict)
    ]
    heads = ("At step", "Bound that was left", "Back to step", "Rate from there")
    return [Table(heads, rows, f"{run.name}: where a bound was left", num_words=2)] if rows else []


def _rollouts(run: Run, max_bytes: int) -> list[SoundPrompt]:
    folder = run.folder / ROLLOUTS_NAME
    steps = sorted(int(match[1]) for path in folder.glob("step-*.json") if (match := _STEP_FILE.fullmatch(path.name)))
    clips: dict[str, list[SoundClip]] = {}
    texts: dict[str, tuple[str, str]] = {}
    used = 0
    for step in spread(steps, MAX_CLIPS):
        records = run.json(folder / f"step-{step}.json")
        for record in records if isinstance(records, list) else ():
            if not isinstance(record, dict) or not isinstance(record.get("answers"), list):
                continue
            name = str(record.get("sample_id"))
            if name not in texts and len(texts) >= MAX_PROMPTS:
                continue
            texts.setdefault(name, (str(record.get("text") or ""), str(record.get("language") or "")))
            for answer in record["answers"][:MAX_CLIPS]:
                if not isinstance(answer, dict):
                    continue
                number = int(_number(answer.get("number")))
                sound = sound_of(folder / f"step-{step}" / f"{number}.wav", max_bytes - used)
                used += len(sound)
                clips.setdefault(name, []).append(SoundClip(f"step {step:,}", sound, _note(answer), "soft"))
    return [
        SoundPrompt(f"{texts[name][1]} · {name}", texts[name][0], texts[name][1], found)
        for name, found in clips.items()
    ]


def _note(answer: dict[str, Any]) -> str:
    scores = answer.get("scores")
    shown = ("num_codes", "similarity", "cer", "dnsmos")
    some = {name: scores[name] for name in shown if name in scores} if isinstance(scores, dict) else {}
    parts = [f"{name} {value_text(_number(value))}" for name, value in some.items()]
    return ", ".join([f"reward {value_text(_number(answer.get('reward')))}", *parts])
