"""One short run: what it leaves behind, and how it ends when something is wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.support.runs import ROOT, SMALL, train, train_well
from titan_speech.exit_codes import EXIT_BAD_INPUT
from titan_speech.preflight.config_checks import load_config
from titan_speech.train import main

TWO_STEPS = ("--training.target_tokens", "2048")


@pytest.fixture(scope="module")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train_well(folder, *TWO_STEPS, "--metrics.tensorboard", "true", "--metrics.wandb", "true")
    return folder


def test_figures_are_complete_and_consistent(short_run: Path) -> None:
    from tests.support.runs import figures

    record = figures(short_run)[2]
    assert record["tokens_seen"] == 2048
    assert {"loss", "grad_norm", "lr", "memory_peak_gib", "step_time_sec", "data_wait_fraction"} <= record.keys()
    assert "mfu" not in record  # no peak is known for a CPU
    assert {"loss/kind/code", "loss/kind/text", "loss/kind/special"} <= record.keys()
    assert 0 <= record["pad_fraction"] < 0.5
    tokens, trained = record["tokens_per_sec_per_gpu"], record["trained_tokens_per_sec_per_gpu"]
    assert 0 < trained < tokens
    assert record["audio_sec_per_sec"] < tokens / 50
    read = [value for name, value in record.items() if name.startswith("read_tokens/source/")]
    assert sum(read) == 1024, "all packs of one step"


def test_tensorboard_and_wandb_have_the_figures_of_the_log(short_run: Path) -> None:
    from tests.support.runs import figures

    (events,) = (short_run / "tb").glob("events.out.*")
    accumulator = EventAccumulator(str(events.parent))
    accumulator.Reload()
    written = {event.step: event.value for event in accumulator.Scalars("loss")}
    expected = {step: record["loss"] for step, record in figures(short_run).items()}
    assert written == pytest.approx(expected, rel=1e-6)
    assert list((short_run / "wandb").rglob("run-*.wandb"))


def test_the_saved_configuration_is_the_one_that_ran(short_run: Path) -> None:
    asked = [*TWO_STEPS, "--metrics.tensorboard", "true", "--metrics.wandb", "true"]
    saved = load_config(["--job.config_file", str(short_run / "config.toml")]).config
    ran = load_config(["--job.config_file", str(ROOT / SMALL), "--job.dump_folder", str(short_run), *asked]).config
    assert saved == ran


def test_a_flipped_bit_ends_the_run_with_the_file_and_the_slot(tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(ROOT / "demo_data", store)
    for tokens in store.glob("*.speech/00000.tokens"):
        codes = np.fromfile(tokens, "<u2")
        codes[len(codes) // 2] ^= 1
        codes.tofile(tokens)
    where = [word for i in range(3) for word in (f"--data.source.{i}.store", str(store))]
    finished = train(tmp_path / "run", *where)
    assert finished.returncode != 0
    assert "sha256" in finished.output
    assert "00000.tokens" in finished.output
    assert "slot" in finished.output


BAD_INPUTS = {
    "misspelt": (("--training.seq_length", "128"), "seq_len"),
    "no-store": (("--data.source.tts.store", "nowhere"), "nowhere"),
    "degrees": (("--parallelism.tensor_parallel_degree", "3"), "expected a divisor of the world size 1"),
    "no-checkpoint": (("--checkpoint.initial_load_path", "nowhere"), "no complete checkpoint there"),
    "attention": (("--model.attention", "varlen"), "needs CUDA"),
    "step": (("--checkpoint.load_step", "7"), "checkpoint.load_step = 7: no complete checkpoint"),
    "no-model": (("--model.initial", "nowhere"), 'model.initial: found no folder "nowhere"'),
}


@pytest.mark.parametrize(("override", "message"), BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_bad_input_ends_before_anything_is_written(
    tmp_path: Path,
    override: tuple[str, str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(ROOT)
    code = main(["--job.config_file", SMALL, "--job.dump_folder", str(tmp_path / "run"), *override])
    assert code == EXIT_BAD_INPUT
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_bad_input_is_said_without_a_traceback_under_torchrun(tmp_path: Path) -> None:
    finished = train(tmp_path / "run", "--training.seq_len", "256", "--job.dump_folder", "README.md")
    assert finished.returncode != 0
    said = finished.output.split("torch/distributed/elastic")[0]
    assert "job.dump_folder" in said
    assert "Traceback" not in said
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["log.txt"]


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    wild = ("--optimizer.lr", "1e30", "--lr_scheduler.end_lr", "1e30", "--training.max_norm", "1e30")
    finished = train(tmp_path, *wild, "--checkpoint.cadence.0.every", "2", "--metrics.log_every_steps", "8")
    assert finished.returncode != 0
    assert "not finite" in finished.output
    assert not list((tmp_path / "checkpoint").glob("step-*/.metadata"))


def test_a_damaged_checkpoint_is_named_with_a_way_out(short_run: Path, tmp_path: Path) -> None:
    shutil.copytree(short_run, tmp_path / "run")
    shard = max((tmp_path / "run" / "checkpoint" / "step-2").glob("*.distcp"), key=lambda path: path.stat().st_size)
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    finished = train(tmp_path / "run", "--training.target_tokens", "4096")
    assert finished.returncode != 0
    assert "titan_speech: " in finished.output
    assert "step 2: damaged" in finished.output
