"""Generation checks: their measures over the steps, and the speech itself to listen to.

The sound is that which the run decoded (generation/step-N/K.wav). Runs without a codec keep ids only: their measures
are shown, and that nothing can be heard.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from titan_speech.report.blocks import Block, Charts, Paragraph, Section, SoundClip, SoundPrompt, SoundPrompts, Tone
from titan_speech.report.chart import Chart
from titan_speech.report.run import Run
from titan_speech.report.sections.lines import chart, names_of
from titan_speech.utils.json_text import is_number

MAX_PROMPTS = 16
MAX_CLIPS = 8
"""Of each prompt: the first check, the last one, and some between."""
MAX_SOUND_BYTES = 24 << 20
"""Of one page, so that it opens at once."""
MAX_WAV_BYTES = 4 << 20

MEASURES: tuple[tuple[str, str, str, bool], ...] = (
    ("stop_failure", "Without a stop", "of prompts", True),
    ("length_ratio", "Length", "generated / recorded", False),
    ("loop", "Ends in a loop", "of prompts", True),
    ("invalid_tokens", "Tokens that are no codes", "of tokens", True),
    ("special_tokens", "Special tokens", "of tokens", True),
    ("repeats", "Repeated codes", "of codes", True),
    ("ngram_repeats", "Repeated 4-grams", "of 4-grams", True),
    ("code_entropy_bits", "Entropy of codes", "bits", False),
    ("silence", "Silence", "of the sound", True),
    ("f0_range_semitones", "Range of pitch", "semitones", False),
    ("syllables_per_sec", "Rate of speech", "syllables per second", False),
    ("similarity", "Speaker similarity", "cosine", False),
)
_STEP_FILE = re.compile(r"step-(\d{1,15})\.json")


def generation(runs: Sequence[Run]) -> Section | None:
    """What the model says to fixed prompts."""
    if not names_of(runs, "generation/"):
        return None
    charts: list[Chart] = []
    for name, title, unit, is_share in MEASURES:
        options: dict[str, Any] = {"is_share": True} if is_share else {"from_zero": True}
        charts.append(chart(runs, title, unit, {f"generation/{name}": name}, size="small", **options))
    blocks: list[Block] = [Charts(charts)]
    budget = MAX_SOUND_BYTES // len(runs)
    for run in runs:
        prompts = _prompts(run, budget)
        if len(runs) > 1 and prompts:
            blocks.append(Paragraph(run.name))
        if prompts:
            blocks.append(SoundPrompts(prompts))
        if prompts and not any(clip.sound for prompt in prompts for clip in prompt.clips):
            blocks.append(Paragraph(f"{run.name}: no sound was kept; set generation_check.codec to decode it.", "soft"))
    lead = (
        "The same prompts of the held-out sets at every check. A run can have a falling loss and say nothing: "
        "a model that never stops, loops or leaves the codes shows it here."
    )
    return Section("generation", "Generation checks", lead, blocks)


def _prompts(run: Run, max_bytes: int) -> list[SoundPrompt]:
    folder = run.folder / "generation"
    steps = {int(match[1]) for path in folder.glob("step-*.json") if (match := _STEP_FILE.fullmatch(path.name))}
    chosen = spread(sorted(step for step in steps if step <= run.log.last_step or not run.log.last_step), MAX_CLIPS)
    clips: dict[tuple[str, str], list[SoundClip]] = {}
    texts: dict[tuple[str, str], tuple[str, str]] = {}
    used = 0
    for step in chosen:
        records = run.json(folder / f"step-{step}.json")
        for number, record in enumerate(records[:MAX_PROMPTS] if isinstance(records, list) else ()):
            if not isinstance(record, dict):
                continue
            key = str(record.get("sample_id")), str(record.get("task"))
            texts.setdefault(key, (str(record.get("text") or ""), str(record.get("language") or "")))
            sound = sound_of(folder / f"step-{step}" / f"{number}.wav", max_bytes - used)
            used += len(sound)
            note, tone = _note(record)
            clips.setdefault(key, []).append(SoundClip(f"step {step:,}", sound, note, tone))
    return [
        SoundPrompt(f"{texts[key][1]} · {key[1]} · {key[0]}", texts[key][0], texts[key][1], found)
        for key, found in clips.items()
    ]


def spread(steps: list[int], count: int) -> list[int]:
    """At most `count` of them: the first, the last, and some between."""
    if len(steps) <= count:
        return steps
    return [steps[round(i * (len(steps) - 1) / (count - 1))] for i in range(count)]


def sound_of(path: Path, max_bytes: int) -> str:
    """A wav file as a data URI; empty if the file is missing, or too large for the page."""
    try:
        size = path.stat().st_size
        if path.is_symlink() or size > min(MAX_WAV_BYTES, max_bytes * 3 // 4):
            return ""
        content = path.read_bytes()[: size + 1]
    except OSError:
        return ""
    return "data:audio/wav;base64," + base64.b64encode(content).decode() if content[:4] == b"RIFF" else ""


def _note(record: dict[str, Any]) -> tuple[str, Tone]:
    """What went wrong with a sample, or how long it is."""

    def value(name: str) -> float:
        found = record.get(name)
        return float(found) if isinstance(found, bool) or is_number(found) else 0.0

    wrong = [
        text
        for is_wrong, text in (
            (value("loop") > 0, "loop"),
            (value("stop_failure") > 0, "no stop"),
            (value("invalid_tokens") > 0.02, f"{100 * value('invalid_tokens'):.0f} % no codes"),
            (value("silence") > 0.9, "silence"),
        )
        if is_wrong
    ]
    ratio = f"{value('length_ratio'):.2f} of the length"
    return (", ".join(wrong), "warn") if wrong else (ratio, "soft")
