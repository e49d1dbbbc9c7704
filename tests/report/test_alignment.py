"""The page of a reward training: what it did, parity before it, and its answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from titan_speech.align.job_files import BREACHES_NAME, PARITY_NAME, SETTINGS_NAME, append_step, cut_steps, read_steps
from titan_speech.align.parity import LogProbabilityDifference, PolicyParity
from titan_speech.align.rollouts import Rollouts
from titan_speech.evaluate.parity import BOUNDS
from titan_speech.report.page import page
from titan_speech.report.run import open_runs


def write_job(folder: Path, text: str = "press one") -> Path:
    folder.mkdir()
    apart = {
        "transformers": LogProbabilityDifference.of(np.array([2e-7, 3e-7, 5e-6])),
        "generator": LogProbabilityDifference.of(np.array([2e-7, 4e-5, 1e-6])),
    }
    parity = PolicyParity(1, 3, apart, BOUNDS["float32"])
    (folder / PARITY_NAME).write_text(json.dumps(parity.record()))
    (folder / SETTINGS_NAME).write_text('{"num_steps": 4}')
    (folder / BREACHES_NAME).write_text('[{"step": 3, "breach": "kl 2 is above 1", "back_to": 1, "lr": 1e-6}]')
    for step in (1, 2):
        append_step(folder, step, {"reward": -1.0 / step, "kl": 0.1, "lr": 1e-6, "num_codes": 7.0})
    rollouts = Rollouts.__new__(Rollouts)
    answer: dict[str, Any] = {"reward": -1.0, "scores": {"num_codes": 7.0}, "wav": np.zeros(320, np.float32)}
    rollouts.kept = [{"sample_id": "s1", "language": "en", "text": text, "answers": [answer]}]
    rollouts.write_kept(folder, 1)
    return folder


def test_a_job_has_a_page_with_parity_breaches_and_answers_that_can_be_heard(tmp_path: Path) -> None:
    html = page(open_runs([write_job(tmp_path / "job.work")]))
    assert "Reward training" in html
    assert "kl 2 is above 1" in html
    assert "50%" in html  # two steps of four
    assert "3 tokens of 1 answers" in html
    assert html.count("data:audio/wav") == 1
    assert "reward -1, num_codes 7" in html
    assert "config.toml cannot be read" not in html


def test_what_a_job_wrote_is_escaped_and_damage_leaves_a_page(tmp_path: Path) -> None:
    folder = write_job(tmp_path / "job.work", "<script>alert(1)</script>")
    (folder / "rollouts" / "step-2.json").write_text('[{"answers": [3, {"number": "x", "scores": 1}]}, 4]')
    (folder / PARITY_NAME).write_text('{"apart": {"a": {"counts": 5}}, "edges": 3}')
    html = page(open_runs([folder]))
    huge = "1" + "0" * 400
    (folder / PARITY_NAME).write_text(f'{{"apart": {{"a": {{"greatest": {huge}}}}}, "edges": [1, {huge}]}}')
    page(open_runs([folder]))
    assert "<script>alert(1)" not in html
    assert "&lt;script&gt;alert(1)" in html


def test_steps_after_a_checkpoint_are_made_again(tmp_path: Path) -> None:
    folder = write_job(tmp_path / "job.work")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"event": "parity", "step": 0}\n{"step": 3, "align/rew')  # killed while it wrote
    assert [one["step"] for one in read_steps(folder)] == [1, 2]
    cut_steps(folder, 1)
    assert [one["reward"] for one in read_steps(folder)] == [-1.0]
    assert (folder / "rollouts" / "step-1.json").exists()
    cut_steps(folder, 0)
    assert read_steps(folder) == []
    assert not (folder / "rollouts" / "step-1.json").exists()
    assert not (folder / "rollouts" / "step-1").exists(), "the sound of answers that are made again"


def test_a_preference_run_shows_its_pairs_and_those_that_were_held_out(tmp_path: Path) -> None:
    folder = tmp_path / "dpo"
    folder.mkdir()
    (folder / "config.toml").write_text("[job]\n")
    names = ("loss", "accuracy", "margin", "chosen_reward", "rejected_reward", "chosen_logp", "rejected_logp")
    values = {f"preference/{name}": 0.5 for name in names}
    held_out = {f"validation/gold/{name}": value for name, value in values.items()}
    lines = [{"step": 1, **values, "preference/loss/source/pairs": 0.5}]
    lines += [{"step": 1, "event": "validation", "set": "gold", **held_out}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    html = page(open_runs([folder]))
    assert "Preference training" in html
    assert "Held-out pairs of gold" in html
    assert "Loss of pairs" in html
    assert "Drift of chosen answers" not in html  # it was not logged
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    assert "Preference training" not in page(open_runs([folder]))
