"""The doctor: every check has a row, what failed stops what needs it, the exit code says whether a run can start."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.slow.test_overfit import english_samples, write_config
from tests.support.runs import ROOT
from titan_speech.cli.main import main
from titan_speech.doctor import checks, small_run
from titan_speech.doctor.examination import CHECKS, Request, examine
from titan_speech.doctor.outcome import DoctorOutcome, Verdict, is_ready, table
from titan_speech.doctor.training_process import Trained, train
from titan_speech.errors import ConfigError, DataError
from titan_speech.exit_codes import EXIT_DONE
from titan_speech.preflight.config_checks import load_config
from titan_speech.store.reader import open_store
from titan_speech.tokenization.vocabulary import CODES_PER_SEC
from titan_speech.training.jsonl_log import JsonlLogger
from titan_speech.training.sinks.webhook import WEBHOOK_VARIABLE

DEMO = ["--job.config_file", str(ROOT / "train_configs" / "demo.toml")]


def request(*words: str, within_sec: float = 30.0) -> Request:
    return Request([*DEMO, *words], "demo.toml", None, 0, "h100", within_sec)


def test_every_check_is_named_and_what_has_no_time_is_skipped() -> None:
    outcomes = list(examine(request()))
    assert tuple(one.check for one in outcomes) == CHECKS
    assert outcomes[0].verdict is Verdict.PASS
    assert {one.verdict for one in outcomes[1:]} == {Verdict.SKIPPED}, "30 s are less than any of these gets"
    assert is_ready(outcomes)


def test_a_configuration_with_mistakes_fails_with_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["doctor", DEMO[1], "--training.seq_len", "500", "--optimizer.lr", "-1", "--json"]
    assert main(words) == 1
    printed = capsys.readouterr()
    assert "  configuration: FAIL (0 s); next: stores\n" in printed.err
    assert printed.err.endswith("  throughput: skipped (0 s)\n")
    found = json.loads(printed.out)
    assert not found["ready"]
    assert [one["verdict"] for one in found["checks"]] == ["FAIL"] + ["skipped"] * 7
    assert "optimizer.lr" in found["checks"][0]["advice"]
    assert "global_batch_tokens" in found["checks"][0]["advice"]


def test_a_store_with_a_cut_file_fails_and_a_run_without_held_out_samples_is_warned_of(tmp_path: Path) -> None:
    config = load_config(DEMO).config
    assert checks.stores(config).verdict is Verdict.WARN
    shutil.copytree(ROOT / "demo_data", tmp_path / "demo_data")
    cut = tmp_path / "demo_data" / "asterisk.en.speech" / "00000.tokens"
    cut.write_bytes(cut.read_bytes()[:-2])
    broken = request("--data.stores.demo_data", str(tmp_path / "demo_data"), within_sec=100.0)
    outcomes = {one.check: one for one in examine(broken)}
    assert outcomes["stores"].verdict is Verdict.FAIL
    assert "00000.tokens" in outcomes["stores"].advice
    assert outcomes["throughput"].verdict is Verdict.SKIPPED


@pytest.mark.parametrize("shift", [0, 1])
def test_a_store_whose_codes_are_shifted_against_the_held_out_set_fails(tmp_path: Path, gold: Path, shift: int) -> None:
    samples = [
        replace(sample, codes_F=np.minimum(sample.codes_F, 65_535 - shift) + shift)
        for sample in english_samples(250, 10, 2_000)
    ]
    config = write_config(tmp_path, samples, steps=1, packs=1, seq_len=256, lr=1e-3)
    words = ["--job.config_file", str(config), "--data.held_out", str(gold), "--validation.every_steps", "0"]
    found = checks.stores(load_config(words).config)
    assert found.verdict is (Verdict.FAIL if shift else Verdict.PASS), found
    assert ("are shifted by +1 against held-out ones" in found.advice) == bool(shift)
    if shift:
        audited = checks.audit(load_config(words).config)
        assert audited.verdict is Verdict.FAIL
        assert "they are shifted by +1, import them again" in audited.advice


def test_a_held_out_set_that_the_run_would_refuse_is_refused(gold: Path) -> None:
    words = ["--data.held_out", str(gold), "--validation.languages", "xx"]
    with pytest.raises(ConfigError, match="has no scored sample of xx"):
        checks.stores(load_config([*DEMO, *words]).config)


def test_an_audit_reads_samples_of_every_language() -> None:
    outcome = checks.audit(load_config(DEMO).config)
    assert outcome.verdict is Verdict.PASS
    assert outcome.found == "400 samples of 16 languages"


def test_the_small_run_is_made_of_the_runs_own_samples_and_is_sound(tmp_path: Path) -> None:
    small = small_run.prepare(load_config(DEMO).config, tmp_path)
    config = load_config(["--job.config_file", str(small.config)]).config
    assert config.model.flavor == "debug"
    store = open_store(tmp_path / "store")
    assert store.manifest.num_samples == small_run.NUM_SAMPLES
    parts = [part for part in open_store(ROOT / "demo_data").parts if part.kind == "speech"]
    codes = {tuple(part.codes(i)) for part in parts for i in range(part.num_samples)}
    assert {tuple(store.parts[0].codes(i)) for i in range(small_run.NUM_SAMPLES)} <= codes


def test_the_small_run_reads_only_what_its_source_reads(tmp_path: Path) -> None:
    words = ["--data.source.tts.datasets", "espeak", "--data.source.tts.where", "duration_sec >= 2"]
    small_run.prepare(load_config([*DEMO, *words]).config, tmp_path)
    [part] = open_store(tmp_path / "store").parts
    parts = [part for part in open_store(ROOT / "demo_data").parts if part.kind == "speech"]
    read = {tuple(one.codes(i)) for one in parts if one.dataset_source == "espeak" for i in range(one.num_samples)}
    assert {tuple(part.codes(i)) for i in range(small_run.NUM_SAMPLES)} <= read
    assert part.code_len_N.min() >= 2 * CODES_PER_SEC
    with pytest.raises(DataError, match=r"source tts reads 0 transcribed samples of 30 codes or more of .*expected 4"):
        small_run.prepare(load_config([*DEMO, "--data.source.tts.where", "duration_sec > 99"]).config, tmp_path)


def test_the_small_run_has_the_transcripts_that_its_source_reads(tmp_path: Path) -> None:
    words = ["--data.source.tts.datasets", "espeak", "--data.source.tts.transcript", "romanized"]
    small_run.prepare(load_config([*DEMO, *words]).config, tmp_path)
    [part] = open_store(tmp_path / "store").parts
    texts = [part.row(i).transcript_native for i in range(part.num_samples)]
    assert all(text is not None and text.isascii() for text in texts)


def test_a_run_whose_time_is_over_while_it_starts_is_skipped_and_not_failed(tmp_path: Path) -> None:
    small = small_run.prepare(load_config(DEMO).config, tmp_path)
    assert small_run.overfit(small, 1.0).verdict is Verdict.SKIPPED
    assert not small_run.has_checkpoint(small)
    log = JsonlLogger(small.folder / "metrics.jsonl")
    log.log({"loss": 3.0}, 1)
    log.close()
    assert small_run.resume(small, 1.0).verdict is Verdict.SKIPPED


def test_a_loss_that_is_not_finite_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = small_run.SmallRun(tmp_path, tmp_path / "doctor.toml", "a text", 30, 128)
    log = JsonlLogger(tmp_path / "metrics.jsonl")
    for step in range(1, 5):
        log.log({"loss": math.nan if step > 1 else 12.0}, step)
    monkeypatch.setattr(small_run, "train", lambda words, within_sec: Trained(EXIT_DONE, "", False))
    assert small_run.overfit(small, 60).verdict is Verdict.FAIL
    monkeypatch.setattr(small_run, "train", lambda *_: _two_more(log))
    assert small_run.resume(small, 60).verdict is Verdict.FAIL


def _two_more(log: JsonlLogger) -> Trained:
    for step in (5, 6):
        log.log({"loss": math.nan}, step)
    return Trained(EXIT_DONE, "", False)


@pytest.mark.parametrize(
    ("num_codes", "stopped", "loss", "verdict"),
    [
        (29, True, 0.2, Verdict.PASS),
        (80, False, 0.2, Verdict.FAIL),
        (0, True, 0.2, Verdict.FAIL),
        (2, True, 4.0, Verdict.SKIPPED),
        (80, False, math.nan, Verdict.SKIPPED),
    ],
)
def test_speech_is_judged_once_the_samples_are_learned(
    num_codes: int, stopped: bool, loss: float, verdict: Verdict
) -> None:
    assert small_run.judge_speech(num_codes, 30, stopped, loss).verdict is verdict


def test_what_the_doctor_trains_sends_nobody_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WEBHOOK_VARIABLE, "https://example.invalid/a-secret")
    shown = train(["-c", f"import os; print(os.environ.get({WEBHOOK_VARIABLE!r}))"], 60)
    assert shown.output.strip() == "None"


def test_the_table_ends_with_what_to_do() -> None:
    outcomes = [
        DoctorOutcome("configuration", Verdict.PASS, "30 steps", sec=0.1),
        DoctorOutcome("stores", Verdict.FAIL, "a\nb", "first\nsecond", 1.0),
    ]
    assert table(outcomes) == [
        "check          verdict   time  found",
        "configuration  pass     0.1 s  30 steps",
        "stores         FAIL     1.0 s  a\\u000ab",
        "",
        "what to do",
        "  stores (FAIL): first",
        "    second",
        "",
        "not ready: 1 pass, 1 fail",
    ]
