"""What revision 3905444 wrote, before modules were moved and renamed, is read and continued by this one."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from tests.runs import ROOT, train_well
from tests.warm import start_warm
from titan_speech.checkpoint.verify import verify
from titan_speech.store.reader import open_store
from titan_speech.store.verify import verify_store

ASSET = ROOT / "tests" / "assets" / "revision_3905444.tar.xz"


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `run` (stopped at step 2 of 4), `initial` and `store`, and what that revision said of them."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ASSET) as archive:
        archive.extractall(folder, filter="data")
    return folder


def test_its_store_opens_and_is_sound(old: Path) -> None:
    expected = json.loads((old / "expected.json").read_text())
    manifest = open_store(old / "store").manifest
    assert manifest.fingerprint == expected["store_fingerprint"]
    assert manifest.num_samples == expected["store_num_samples"]
    assert verify_store(old / "store", num_workers=1).is_sound


def test_its_checkpoint_resumes_with_the_losses_it_went_on_to(old: Path) -> None:
    expected = json.loads((old / "expected.json").read_text())
    assert verify(old / "run" / "checkpoint" / "step-2", checksums=True).is_sound
    resumed = train_well(
        old / "run",
        *("--model.initial", str(old / "initial"), "--model.flavor", "initial", "--model.new_rows", "mean"),
        *("--training.target_tokens", "4096", "--checkpoint.cadence", "[{every = 2}]"),
        start=start_warm,
    )
    for step in (3, 4):
        assert resumed[step]["loss"] == expected["losses"][str(step)]
        assert resumed[step]["grad_norm"] == expected["grad_norms"][str(step)]
    assert 2 not in resumed  # it went on where it stood
