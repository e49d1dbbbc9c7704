"""Pairs in a voice, end to end: a model that clones two speakers answers in their voices, a speaker encoder scores the
answers, preference training goes on from the pairs, and a bound of similarity holds it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.evaluation_models import package
from tests.support.runs import ROOT, figures, metrics_lines, train, train_well
from titan_speech.store.reader import open_store
from titan_speech.store.sample import SampleInfo
from titan_speech.store.writer import StoreWriter
from titan_speech.tokenization.text_tokenizer import TextTokenizer

pytestmark = pytest.mark.slow
CONFIG = "tests/assets/preference.toml"
PER_SPEAKER = 6


def write_speakers(path: Path) -> None:
    """Short recordings of a woman and of a man."""
    demo = open_store(ROOT / "demo_data")
    parts = {part.name: part for part in demo.parts}
    with StoreWriter(
        path,
        name="speakers",
        codec=demo.manifest.codec,
        tokenizer=TextTokenizer.load(ROOT / "tokenizer" / "tiny"),
        normalization_version="1",
        licence="as in demo_data",
    ) as writer:
        for name in ("asterisk.en.speech", "asterisk.it.speech"):
            part = parts[name]
            numbers = np.flatnonzero((part.code_len_N >= 40) & (part.code_len_N <= 55))[:PER_SPEAKER]
            for i in numbers.tolist():
                row = part.row(i)
                info = SampleInfo(
                    sample_id=row.sample_id, dataset_source="speakers", language="en", speaker_id=row.speaker_id
                )
                writer.add_speech(info, np.array(part.codes(i)), {"native": row.transcript_native or ""})


def run(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "titan_speech", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_pairs_in_a_voice_are_answered_scored_and_trained_on_within_a_bound_of_similarity(tmp_path: Path) -> None:
    package("resemblyzer")
    write_speakers(tmp_path / "speakers")
    store = ("--data.source.0.store", str(tmp_path / "speakers"), "--data.source.0.task", "clone")
    learned = ("--preference.loss", "none", "--optimizer.lr", "4e-3", "--training.global_batch_tokens", "512")
    steps = ("--training.target_tokens", str(150 * 512), "--checkpoint.cadence", "[{every = 150}]")
    steps += ("--checkpoint.max_rms_growth", "100")
    sft = train_well(tmp_path / "sft", *store, *learned, *steps, config=CONFIG)
    print("loss", sft[150]["loss"])
    assert sft[150]["loss"] < 0.3
    prompts = ("--prompts", str(tmp_path / "speakers"), "--output", str(tmp_path / "pairs"), "--task", "clone")
    scored = ("--codec", "embedded", "--voice", "resemblyzer", "--reward", "similarity=1", "--temperature", "1.6")
    answered = ("--answers", "3", "--max-sec", "1.4", "--margin", "0.01")
    print(run("align", "pairs", "--run", str(tmp_path / "sft"), *prompts, *scored, *answered))
    record = json.loads((tmp_path / "pairs" / "pairs.json").read_text())
    pairs = record["pairs"]
    assert all(pair["chosen"]["similarity"] > pair["rejected"]["similarity"] for pair in pairs)
    assert np.mean([pair["chosen"]["similarity"] for pair in pairs]) > 0.7
    gold = ("--output", str(tmp_path / "gold"), "--num-ce", "1", "--num-decode", "1", "--by", "sample")
    run("store", "held-out", str(tmp_path / "pairs"), *gold)
    dpo = ("--data.source.0.store", str(tmp_path / "pairs"), "--stage.from", str(tmp_path / "sft"))
    dpo += ("--optimizer.lr", "1e-5", "--checkpoint.max_rms_growth", "100")
    dpo += ("--stage.continue_data", "false", "--data.phase", "dpo", "--training.seq_len", "512")
    dpo += ("--data.held_out", str(tmp_path / "gold"), "--generation_check.every_steps", "2")
    dpo += ("--generation_check.codec", "embedded", "--generation_check.voice", "resemblyzer")
    dpo += ("--generation_check.max_codes", "70", "--generation_check.bounds_from_step", "2")
    bound = "--generation_check.stop_below"
    train_well(tmp_path / "dpo", *dpo, bound, "{similarity = 0.6}", config=CONFIG)
    events = [one for one in metrics_lines(tmp_path / "dpo") if one.get("event") == "generation"]
    print("similarity", [one["generation/similarity"] for one in events])
    assert [one["step"] for one in events] == [0, 2, 4]
    assert all(0.6 < one["generation/similarity"] < 1 for one in events)
    assert figures(tmp_path / "dpo")[4]["preference/pairs"] > 0
    run("report", str(tmp_path / "dpo"))
    page = (tmp_path / "dpo" / "report.html").read_text()
    assert "Speaker similarity" in page
    assert "Accuracy" in page
    left = train(tmp_path / "left", *dpo, bound, "{similarity = 0.999}", config=CONFIG)
    assert left.returncode != 0
    assert "step 2 left its bounds: similarity 0." in left.output
