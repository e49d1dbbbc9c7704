"""The GPU cases on a machine without one: files that load, and a dry run whose JSON has the shape of a measured one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.fake_data import write_stand_ins
from benchmarks.record import read_report
from benchmarks.suite import config_words
from benchmarks.suites.train_step import GPU_CASES, GpuCase
from tests.support.runs import ROOT
from titan_speech.config.budget import Budget
from titan_speech.data.plan import DataPlan
from titan_speech.preflight.config_checks import load_config


@pytest.mark.parametrize("case", GPU_CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("world_size", [8, 32])
def test_every_gpu_case_has_the_batch_of_the_published_runs(case: GpuCase, world_size: int) -> None:
    words = config_words(ROOT / case.config, case.words(world_size))
    config = load_config(list(words), world_size=world_size).config
    budget = Budget.from_config(config)
    packs = 4 if case.name == "sft_8b" else 8  # more do not fit on 8 GPUs
    assert (budget.tokens_per_step, budget.local_batch_packs, budget.seq_len) == (524_288, packs, 2048)
    assert (config.compile.enable, config.training.mixed_precision_param) == (True, "bfloat16")
    assert (config.float8.recipe == "none") == ("float8" not in case.name)
    assert {source.train_on for source in config.data.source} == {"target" if "sft" in case.name else "all"}


@pytest.mark.slow
def test_a_dry_run_writes_a_report_that_says_that_nothing_was_measured(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "benchmarks.run", "train_step", "--dry-run", "--json", str(report)]
    done = subprocess.run([*command, "--only", "pt_1b"], cwd=ROOT, capture_output=True, text=True, check=True)
    found = read_report(report)
    (case,) = found.cases
    assert found.is_dry_run
    assert "No GPU was measured" in found.note
    assert "no GPU was measured" in done.stdout
    assert "took 2 steps of 2 layers 2,048 wide" in str(case.config["dry_run"])
    assert {"tokens_per_sec_per_gpu", "mfu", "split"} <= case.not_measured.keys()
    assert not case.figures


STAND_INS = (("pt_1b", "llama3", 193_920, 3), ("sft_1b", "llama3", 193_920, 1), ("pt_0.6b", "qwen3", 217_600, 3))


@pytest.mark.slow
def test_stand_in_data_are_read_by_the_gpu_cases_at_the_published_vocabulary(tmp_path: Path) -> None:
    for name, family, num_rows, num_sources in STAND_INS:
        write_stand_ins(tmp_path / family, family, num_samples=400)
        places = {"tokenizer.path": str(tmp_path / family / "tokenizer")}
        stores = {f"data.source.{i}.store": str(tmp_path / family / "store") for i in range(num_sources)}
        words = config_words(ROOT / f"benchmarks/settings/{name}.toml", places | stores)
        plan = DataPlan.load(load_config(list(words)).config)
        assert plan.vocabulary.num_rows == num_rows
        assert plan.pack(10**6).num_trained_tokens > 1000
