"""Checkpoints of the complex rotary form are continued by the real form, in every layout and under adapters."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.runs import ROOT, assert_close, figures, losses, train, train_well
from tests.support.warm import start_warm
from titan_speech.checkpoint.provenance import read_provenance

pytestmark = pytest.mark.slow

PAIRS_ENTRY = str(ROOT / "tests" / "support" / "pairs_train.py")
TO_2 = ("--training.target_tokens", "2048", "--checkpoint.cadence", "[{every = 2}]")
TO_4 = ("--training.target_tokens", "4096", "--checkpoint.cadence", "[{every = 2}]")
SCHEDULE = ("--lr_scheduler.decay", "constant", "--lr_scheduler.warmup_ratio", "0")
LAYOUTS = {
    "one process": (1, ()),
    "FSDP 2": (2, ()),
    "FSDP 4": (4, ()),
    "TP 2": (2, ("--parallelism.tensor_parallel_degree", "2")),
    "PP 2": (2, ("--parallelism.pipeline_parallel_degree", "2")),
    "TP 2 + FSDP 2": (4, ("--parallelism.tensor_parallel_degree", "2")),
}


def pairs_run(folder: Path, *words: str) -> dict[int, dict]:
    """Train in the complex form; the figures of each step."""
    finished = train(folder, *words, entry=PAIRS_ENTRY, start=start_warm)
    assert finished.returncode == 0, finished.output[-8000:]
    return figures(folder)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, dict]]:
    """A run of the complex form at step 2, and the steps that the complex form goes on to."""
    folder = tmp_path_factory.mktemp("pairs")
    words = ("--model.flavor", "debug_untied", *SCHEDULE)
    pairs_run(folder / "run", *words, *TO_2)
    shutil.copytree(folder / "run", folder / "longer")
    return folder / "run", pairs_run(folder / "longer", *words, *TO_4)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_goes_on_as_the_complex_form_does(
    old: tuple[Path, dict[int, dict]], tmp_path: Path, layout: str
) -> None:
    run, expected = old
    world_size, words = LAYOUTS[layout]
    shutil.copytree(run, tmp_path / "run")
    shared = ("--model.flavor", "debug_untied", *SCHEDULE, *TO_4, *words)
    found = losses(train_well(tmp_path / "run", *shared, world_size=world_size, start=start_warm))
    assert_close({step: found[step] for step in (3, 4)}, {step: losses(expected)[step] for step in (3, 4)})
    record = read_provenance(tmp_path / "run" / "checkpoint" / "step-4")
    assert record is not None
    assert record.reordered_from.endswith("step-2")


def test_an_adapter_and_its_base_of_the_complex_form_are_continued(tmp_path: Path) -> None:
    """The base is a checkpoint of the complex form, the adapter was trained on it there; both are reordered."""
    words = ("--model.flavor", "debug_untied", *SCHEDULE)
    pairs_run(tmp_path / "base", *words, *TO_2)
    adapter = (*words, "--lora.rank", "4", "--stage.from", str(tmp_path / "base"), "--stage.continue_data", "false")
    pairs_run(tmp_path / "run", *adapter, *TO_2)
    shutil.copytree(tmp_path / "run", tmp_path / "longer")
    expected = losses(pairs_run(tmp_path / "longer", *adapter, *TO_4))
    for name, world_size, layout in (("one", 1, ()), ("tp", 2, ("--parallelism.tensor_parallel_degree", "2"))):
        shutil.copytree(tmp_path / "run", tmp_path / name)
        found = losses(train_well(tmp_path / name, *adapter, *TO_4, *layout, world_size=world_size, start=start_warm))
        assert_close({step: found[step] for step in (3, 4)}, {step: expected[step] for step in (3, 4)})


def test_a_stage_loads_weights_and_moments_of_the_complex_form(tmp_path: Path) -> None:
    words = ("--model.flavor", "debug_untied", *SCHEDULE)
    pairs_run(tmp_path / "before", *words, *TO_2)
    stage = (*words, *TO_2, "--stage.from", str(tmp_path / "before"), "--stage.optimizer", "true")
    expected = losses(pairs_run(tmp_path / "pairs", *stage))
    assert_close(losses(train_well(tmp_path / "halves", *stage, start=start_warm)), expected)
