"""Checkpoints with weights that left their band are marked, and nothing goes on from them by itself."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.checkpoint_folders import write_checkpoint
from tests.support.runs import figures, train, train_well
from tests.support.s3_server import BUCKET, S3Server
from tests.support.warm import start_warm
from titan_speech.checkpoint.choose_start import FRESH, choose_start
from titan_speech.checkpoint.commit import MARKER, Checkpoint, newest_unsuspected, read_commit, suspicion
from titan_speech.checkpoint.initial_load import choose_initial_load
from titan_speech.checkpoint.provenance import Provenance
from titan_speech.checkpoint.suspect import SquareSums, WeightBand
from titan_speech.checkpoint.upload.remote import Prefix, newest_full
from titan_speech.checkpoint.upload.transfer import list_address, push
from titan_speech.cli.main import main
from titan_speech.config.budget import Budget
from titan_speech.config.schema_operations import CheckpointConfig
from titan_speech.errors import CheckpointError
from titan_speech.exit_codes import EXIT_UNHEALTHY
from titan_speech.generate.load import _checkpoint
from titan_speech.preflight.config_checks import load_config
from titan_speech.storage.s3 import client_of
from titan_speech.storage.s3_url import S3Url

RUN = Provenance(vocabulary="v", grammar="g", model="llama3 debug", global_batch_tokens=1024)


def marked(checkpoint: Path, suspect: str = "its weights grew") -> Path:
    commit = read_commit(checkpoint)
    assert commit is not None
    (checkpoint / MARKER).write_text(replace(commit, suspect=suspect).to_json())
    return checkpoint


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Steps 10 and 30 are good, 20 and 40 suspect."""
    folder = tmp_path / "run" / "checkpoint"
    for step in (10, 20, 30, 40):
        checkpoint = write_checkpoint(folder, step)
        (folder / "provenance" / f"step-{step}.json").unlink()  # of random text
        commit = read_commit(checkpoint)
        assert commit is not None
        files = tuple(file for file in commit.files if file.role != "beside")
        (checkpoint / MARKER).write_text(replace(commit, files=files).to_json())
    marked(folder / "step-20")
    marked(folder / "step-40")
    return folder


def judged(band: WeightBand, *weights: dict[str, torch.Tensor]) -> str:
    """What is found of pieces that as many ranks wrote."""
    pieces: list[tuple[str, SquareSums]] = []
    for of_rank in weights:
        pieces += zip(of_rank, band.measure(list(of_rank), list(of_rank.values())), strict=True)
    return band.reason(pieces)


def test_a_weight_is_suspect_when_its_rms_left_the_band_and_not_when_it_was_zero_at_first() -> None:
    start = {"w1": torch.full((64, 8), 0.02), "w2": torch.full((8,), -0.02), "bias": torch.zeros(8)}
    band = WeightBand(start, max_growth=4)
    assert judged(band, start) == ""
    assert judged(band, {**start, "bias": torch.full((8,), 0.079), "w1": start["w1"] * 3.9}) == ""
    assert judged(band, {**start, "w2": start["w2"] * 4.1}).endswith("w2 from 0.02 to 0.082")
    assert "bias from 0 to 0.09" in judged(band, {**start, "bias": torch.full((8,), 0.09)})
    assert "inf" in judged(band, {**start, "w1": torch.full((64, 8), 1e30)})
    band.accept()  # as if it were good
    assert judged(band, {**start, "w1": torch.full((64, 8), 1e30)}) == ""
    assert judged(WeightBand(start, max_growth=0), {"w1": start["w1"] * 100}) == ""
    assert judged(WeightBand({}, max_growth=4), {"w1": start["w1"] * 100}) == ""


def test_shards_are_judged_as_the_whole_weight_is() -> None:
    """One row of many grew: the rms of its shard left the band, that of the weight did not."""
    whole = torch.full((64, 8), 0.02)
    grown = whole.clone()
    grown[:2] *= 20
    shards = [(whole[:4], grown[:4]), (whole[4:], grown[4:])]
    assert (
        WeightBand({"w": whole}, 4).reason([("w", one) for one in WeightBand({"w": whole}, 4).measure(["w"], [grown])])
        == ""
    )
    pieces = [("w", WeightBand({"w": before}, 4).measure(["w"], [now])[0]) for before, now in shards]
    assert WeightBand({}, 4).reason(pieces) == ""
    assert WeightBand({}, 4).reason(pieces[:1])


def test_a_run_resumes_from_the_newest_that_is_not_suspect_or_from_a_suspect_one_that_is_named(run: Path) -> None:
    start = choose_start(CheckpointConfig(), run, RUN)
    assert start.step == 30
    assert start.passed_over[0].startswith("step 40: suspect: its weights grew (checkpoint.load_step = 40")
    named = choose_start(CheckpointConfig(load_step=40), run, RUN)
    assert (named.step, named.suspect) == (40, "its weights grew")
    named = choose_start(CheckpointConfig(initial_load_path=str(run / "step-40")), run / "elsewhere", RUN)
    assert named.suspect == "its weights grew"
    for step in (10, 30):
        marked(run / f"step-{step}")
    with pytest.raises(CheckpointError, match=r"nothing in .* can be resumed from: step 40: suspect: its weights grew"):
        choose_start(CheckpointConfig(), run, RUN)


def test_a_stage_and_a_sample_take_the_newest_that_is_not_suspect_and_say_so(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = load_config(["--job.config_file", "tests/assets/small.toml"]).config
    stage = replace(config.stage, from_=str(run), continue_data=False)
    start = choose_initial_load(replace(config, stage=stage), RUN, Budget.from_config(config)).start
    assert (start.checkpoint, start.suspect) == (run / "step-30", "")
    assert start.passed_over == ("step-40: suspect: its weights grew; name it to start from it",)
    stage = replace(stage, from_=str(run / "step-40"))
    start = choose_initial_load(replace(config, stage=stage), RUN, Budget.from_config(config)).start
    assert (start.checkpoint, start.suspect) == (run / "step-40", "its weights grew")
    with caplog.at_level(logging.WARNING):
        assert _checkpoint(run, None).step == 30
        assert "step-30 is taken; newer ones are suspect: step 40: its weights grew" in caplog.text
        assert _checkpoint(run, 20).step == 20
        assert "step-20 is suspect: its weights grew" in caplog.text
    only = [Checkpoint(run / f"step-{step}", step) for step in (20, 40)]
    assert newest_unsuspected(only) == (only[1], f"{run}/step-40 is suspect: its weights grew")


def test_the_commands_show_the_mark_and_bytes_stay_sound(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "list", str(run)]) == 0
    assert [" SUSPECT: its weights grew" in line for line in capsys.readouterr().out.splitlines()[1:]] == [
        False,
        True,
        False,
        True,
    ]
    assert main(["checkpoint", "verify", str(run / "step-40")]) == 0
    assert "sound, " in (shown := capsys.readouterr().out)
    assert "SUSPECT: its weights grew" in shown
    assert main(["checkpoint", "inspect", str(run / "step-40")]) == 0
    assert "\nSUSPECT: its weights grew\n" in capsys.readouterr().out
    assert "suspect" not in (run / "step-30" / MARKER).read_text()  # earlier versions read it


def test_the_mark_is_known_at_an_address(run: Path, s3_server: S3Server, tmp_path: Path) -> None:
    settings, url = s3_server.settings(tmp_path / "cache"), f"s3://{BUCKET}/suspect-run"
    push(run.parent, run, url, settings)
    prefix = Prefix(client_of(settings), S3Url.parse(url))
    assert newest_full(prefix) == "step-30"
    assert prefix.read("step-40").suspect == "its weights grew"
    assert "step-40 is suspect: its weights grew" in list_address(url, settings)
    manifest = json.loads(prefix.read("step-30").to_json())
    assert manifest.pop("suspect") == ""


@pytest.mark.slow
def test_a_run_that_diverged_names_its_last_good_checkpoint_keeps_it_and_resumes_from_it(tmp_path: Path) -> None:
    settings = ("--checkpoint.cadence", "[{every = 2}]", "--training.target_tokens", "8192")
    settings += ("--checkpoint.keep_last_full", "1", "--checkpoint.keep_last_model_only", "0")
    settings += ("--checkpoint.milestone_every_steps", "0", "--training.local_batch_packs", "1")
    hot = ("--optimizer.lr", "1e6", "--health.max_skipped_steps", "3")
    train_well(tmp_path, *settings, "--training.target_tokens", "2048", start=start_warm)
    assert suspicion(tmp_path / "checkpoint" / "step-2") == ""

    stopped = train(tmp_path, *settings, *hot, world_size=2, start=start_warm)
    assert stopped.returncode == EXIT_UNHEALTHY, stopped.output[-4000:]
    assert (
        "The last good checkpoint is step 2: a restart resumes from there, not from the suspect step" in stopped.output
    )
    assert "are sound" not in stopped.output
    assert "the rms of weights grew more than 4 times" in suspicion(tmp_path / "checkpoint" / "step-4") + stopped.output
    assert "all steps since step 4 were skipped" in stopped.output
    assert (tmp_path / "checkpoint" / "step-2").is_dir()

    resumed = train(tmp_path, *settings, start=start_warm)
    assert resumed.returncode == 0, resumed.output[-4000:]
    assert "Newer, and not usable: step 6: suspect: " in resumed.output
    assert figures(tmp_path)[8]["loss"] is not None
    start = choose_start(CheckpointConfig(verify_checksums=False), tmp_path / "checkpoint", _identity(tmp_path))
    assert (start.step, start.suspect) == (8, "")
    assert start.step != FRESH


def _identity(run: Path) -> Provenance:
    record = json.loads((run / "checkpoint" / "provenance" / "step-8.json").read_text())
    return Provenance(*(record[name] for name in ("vocabulary", "grammar", "model", "global_batch_tokens")))
