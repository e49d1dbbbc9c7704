"""Evaluations of checkpoints on the page: scores with intervals, series apart, what failed, what was kept to hear."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.report.run_folders import write_run
from titan_speech.codec.wav import wav_bytes
from titan_speech.evaluate.clip import Score
from titan_speech.evaluate.result import Result, ResultKey, ScoredClip, audio_path, result_path
from titan_speech.evaluate.summary import summary
from titan_speech.model.exported_files import EVALUATION_FOLDER
from titan_speech.report.blocks import SoundPrompts
from titan_speech.report.page import page
from titan_speech.report.run import open_runs
from titan_speech.report.sections.evaluation import evaluation
from titan_speech.report.sections.generation import MAX_PROMPTS


def write(run: Path, step: int, scorers: dict[str, str], rates: list[float | None]) -> Result:
    clips = []
    for number, rate in enumerate(rates):
        score = Score.missing("ASR not trusted for hi") if rate is None else Score(rate, 5.0, detail=f"heard <{rate}>")
        language = "hi" if rate is None else "en"
        clips.append(ScoredClip(f"p{number}", language, "", 0, {"cer": score, "seconds": Score(1.5)}))
    result = Result(ResultKey(f"weights of {step}", "pack", {"seed": 0.0}, scorers), tuple(clips), step, f"step {step}")
    result.write(run / EVALUATION_FOLDER / result_path(result.key.id))
    return result


def test_series_are_drawn_apart_and_what_was_not_measured_says_why(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    rates = [0.1, 0.5, 0.2, 0.3, 0.9, 0.25, None]
    write(run, 10, {"asr": "1"}, rates)
    newest = write(run, 20, {"asr": "1"}, [rate and rate / 2 for rate in rates])
    other = replace(newest.key, decoding={"seed": 0.0, "temperature": 0.7})
    replace(newest, key=other).write(run / EVALUATION_FOLDER / result_path(other.id))
    failed = {"failed": "step-30 was removed", "step": 30, "series": "x", "id": "y"}
    (run / EVALUATION_FOLDER / result_path("y")).write_text(json.dumps(failed))
    (run / EVALUATION_FOLDER / result_path("z")).write_text("{")
    wav = run / EVALUATION_FOLDER / audio_path(newest.key.id, "p4")
    wav.parent.mkdir(parents=True)
    wav.write_bytes(wav_bytes(np.zeros(800, np.float32), 16_000))
    (one,) = open_runs([run])
    section = evaluation([one])
    assert section is not None
    text = page([one])
    assert text.count("another series") == 1
    assert "decoding seed 0;" in text
    assert "decoding seed 0, temperature 0.7;" in text, "what differs is said"
    assert "not measured" in text
    assert "7: ASR not trusted" not in text
    assert "1: ASR not trusted for hi" in text
    assert "heard &lt;0.45&gt;" in text
    assert text.index("heard &lt;0.45&gt;") < text.index("heard &lt;0.25&gt;"), "the worst first"
    assert "data:audio/wav;base64" in text
    assert "step 30 was not evaluated: step-30 was removed" in text
    assert "z.json" in text


def test_subsets_and_recognizers_are_on_the_page_and_in_the_card(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    scores = [Score(0.1 + 0.01 * number, 5.0) for number in range(12)]
    clips = [
        ScoredClip(f"p{number}", "en", "numbers" if number % 2 else "", 0, {"cer": score})
        for number, score in enumerate(scores)
    ]
    row = {"language": "en", "asr": "<tiny>", "num_prompts": 40, "cer": 0.013, "cer_low": 0.005, "cer_high": 0.029}
    known = row | {"cer_codec": 0.032, "script": 1.0, "coverage": 1.0, "reasons": []}
    trust = (
        known,
        known | {"language": "hi", "cer": 1e300, "script": None, "reasons": ["6 % in the right script"]},
        {},
    )
    key = ResultKey("weights", "pack", {"seed": 0.0}, {"asr": "1"})
    result = Result(key, tuple(clips), 10, "step 10", trust, {"codes_per_sec": 71.2})
    result.write(run / EVALUATION_FOLDER / result_path(key.id))
    text, card = page(open_runs([run])), summary([result])
    for name in ("en: numbers", "en: no subset"):
        assert name in text
        assert f"| {name} | 0.1" in card
    assert "| en | &lt;tiny> | 40 | 1.3 % | 0.5 % to 2.9 % | 3.2 % | 100.0 % | 100.0 % | yes |" in card
    assert "| hi | &lt;tiny> | 40 | - | 0.5 % to 2.9 % | 3.2 % | - | 100.0 % | no: 6 % in the right script |" in card
    assert "| - | - | - | - | - | - | - | - | - |" in card, "a row of others says nothing"
    assert "&lt;tiny&gt;" in text
    assert "no: 6 % in the right script" in text
    assert "0.5 % to 2.9 %" in text
    assert "71 codes per second" in text
    assert "Detectable" in text


def test_the_worst_prompts_of_the_newest_result_are_heard_at_every_step(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    rates = [number / 100 for number in range(MAX_PROMPTS + 4)]
    for step, some in ((10, rates[::-1]), (20, rates)):
        result = write(run, step, {"asr": "1"}, list(some))
        for clip in result.clips:
            wav = run / EVALUATION_FOLDER / audio_path(result.key.id, clip.prompt_id)
            wav.parent.mkdir(parents=True, exist_ok=True)
            wav.write_bytes(wav_bytes(np.zeros(80, np.float32), 16_000))
    (one,) = open_runs([run])
    section = evaluation([one])
    assert section is not None
    (shown,) = (block.prompts for block in section.blocks if isinstance(block, SoundPrompts))
    assert [prompt.title for prompt in shown] == [f"en · p{number}" for number in range(MAX_PROMPTS + 3, 3, -1)]
    assert all([clip.label for clip in prompt.clips] == ["step 10", "step 20"] for prompt in shown)


def test_of_many_evaluations_the_newest_are_shown_and_the_page_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("titan_speech.report.sections.evaluation.MAX_RESULTS", 2)
    run = write_run(tmp_path / "run")
    for order, step in enumerate((30, 10, 20, 40)):
        key = write(run, step, {"asr": "1"}, [0.5] * 6).key
        os.utime(run / EVALUATION_FOLDER / result_path(key.id), (order, order))
    (one,) = open_runs([run])
    text = str(evaluation([one]))
    assert "Step 40: 6 clips" in text
    assert one.problems == ["4 evaluations are there; the page has the 2 that are newest"]


def test_a_run_without_evaluations_has_no_section(tmp_path: Path) -> None:
    assert evaluation(open_runs([write_run(tmp_path / "run")])) is None
