"""Token files that change while a run has them mapped: found between batches; one that is cut is named."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.plan_samples import World, make_world
from tests.support.runs import ROOT
from titan_speech.data.loader import PlanDataset
from titan_speech.data.plan import DataPlan
from titan_speech.errors import DataError
from titan_speech.store.mapped_files import MappedFiles, mapped_files
from titan_speech.store.reader import open_store


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path, num_samples=60)


def mapped_tokens() -> Path:
    """A token file that this process has mapped."""
    return next(path for path in mapped_files._files if path.suffix == ".tokens")


def overwrite(path: Path) -> None:
    """Other bytes in place, and the time of the last change set back as some tools do."""
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"\1" * 64)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("titan_speech.store.mapped_files.CHECK_EVERY_SEC", 0.0)
    monkeypatch.setattr("titan_speech.store.mapped_files.MAX_SHARE", 1e9)
    monkeypatch.setattr(mapped_files, "_next_sec", 0.0)  # an earlier test of this process may have set it ahead
    mapped_files.forget()


@pytest.mark.usefixtures("at_once")
def test_batches_end_with_the_name_of_a_file_that_was_changed_in_place(world: World) -> None:
    batches = PlanDataset(DataPlan.load(world.three_tasks()))
    batches.__getitems__(list(range(40)))
    path = mapped_tokens()
    overwrite(path)
    with pytest.raises(DataError, match=rf"{path.name} was changed while this run read it: .*saved before"):
        batches.__getitems__([41])


@pytest.mark.usefixtures("at_once")
def test_a_file_that_was_touched_copied_over_by_itself_or_replaced_by_another_of_its_name_is_fine(world: World) -> None:
    batches = PlanDataset(DataPlan.load(world.three_tasks()))
    expected = batches.__getitems__(list(range(40)))
    path = mapped_tokens()
    path.touch()
    path.write_bytes(path.read_bytes())
    np.testing.assert_array_equal(batches.__getitems__(list(range(40))).ids_BS, expected.ids_BS)
    other = shutil.copy(path, path.with_suffix(".new"))
    overwrite(Path(other))
    os.replace(other, path)  # the mapping is of the old file
    np.testing.assert_array_equal(batches.__getitems__(list(range(40))).ids_BS, expected.ids_BS)
    mapped_files.forget()


def test_files_are_looked_at_again_only_when_it_is_time(world: World) -> None:
    mapped_files.forget()
    part = next(part for part in open_store(world.store).parts if part.num_samples and str(part.kind) == "speech")
    part.codes(0)
    watched = MappedFiles()
    watched.check()
    for path, (state, recorded) in mapped_files._files.items():
        watched.add(path, state, recorded)
    assert watched._files
    overwrite(next(iter(watched._files)))
    watched.check()  # less than 10 s after the last
    with pytest.raises(DataError, match="was changed while this run read it"):
        watched.check(now=True)
    mapped_files.forget()


CUT = """
import os, sys
from pathlib import Path
from tests.support.plan_samples import make_world
from titan_speech.data.loader import SpeechDataLoader, worker_error
from titan_speech.data.plan import DataPlan
from titan_speech.store import mapped_files
from titan_speech.utils.bus_errors import name_cut_files

mapped_files.CHECK_EVERY_SEC = 1e9  # the check between batches would find it first
name_cut_files(3)
world = make_world(Path(sys.argv[1]), num_samples=400)
plan = DataPlan.load(world.three_tasks())
config = SpeechDataLoader.Config(plan=plan, packs_per_step=4, num_workers=int(sys.argv[2]), num_prefetch_batches=1)
loader = SpeechDataLoader(config, dp_world_size=1, dp_rank=0, local_batch_size=4)
batches = iter(loader)
for _ in range(20):
    next(batches)
try:
    for path in world.store.rglob("*.tokens"):
        os.truncate(path, 0)
    for _ in range(200):
        next(batches)
except Exception as raised:  # as the trainer does: torch raises the death of a worker wherever the main thread is
    error = worker_error(raised) or raised
    print(f"raised: {type(error).__name__}: {error}", file=sys.stderr)
    sys.exit(4)
"""


@pytest.mark.parametrize(("num_workers", "code"), [(0, 3), (1, 4)])
def test_a_file_that_is_cut_while_it_is_mapped_is_named(tmp_path: Path, num_workers: int, code: int) -> None:
    script = tmp_path / "cut.py"
    script.write_text(CUT)
    ended = subprocess.run(
        [sys.executable, str(script), str(tmp_path), str(num_workers)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == code, ended.stderr
    assert ".tokens was cut while it was mapped (SIGBUS): about " in ended.stderr
    assert "it has 0 bytes now" in ended.stderr
    assert "Current thread" in ended.stderr
    if num_workers:
        assert "raised: DataError: a worker process of the dataloader ended" in ended.stderr
        assert re.search("(its own message|a message of its own) above", ended.stderr)  # whichever torch noticed first
