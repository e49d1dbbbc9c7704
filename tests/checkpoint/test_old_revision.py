"""What revision 3905444 wrote, before modules were moved and renamed, is read and continued by this one.

Its Llama rotated neighbours as complex numbers, so its weights and moments are reordered when they are loaded.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.support.runs import ROOT, train_well
from tests.support.warm import start_warm
from titan_speech.checkpoint.dcp_reader import SafeFileSystemReader, load_into
from titan_speech.checkpoint.provenance import read_provenance
from titan_speech.checkpoint.verify import verify
from titan_speech.config.resolved import save_resolved
from titan_speech.hf.export import WeightsCheckpoint, export
from titan_speech.model.backbones import HALVES
from titan_speech.preflight.config_checks import load_config
from titan_speech.store.reader import open_store
from titan_speech.store.verify import verify_store

ASSET = ROOT / "tests" / "assets" / "revision_3905444.tar.xz"
STEP_4 = ROOT / "tests" / "assets" / "revision_3905444_step_4.safetensors"


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


TOLERANCE = 1e-6
"""Relative, of losses and of the largest entry of each tensor: the two rotary forms add a head's products in another
order. The largest gap measured is 2e-7."""


def test_its_checkpoint_resumes_with_the_steps_it_went_on_to(old: Path) -> None:
    expected = json.loads((old / "expected.json").read_text())
    assert verify(old / "run" / "checkpoint" / "step-2", checksums=True).is_sound
    resumed = train_well(
        old / "run",
        *("--model.initial", str(old / "initial"), "--model.flavor", "initial", "--model.new_rows", "mean"),
        *("--training.target_tokens", "4096", "--checkpoint.cadence", "[{every = 2}]"),
        start=start_warm,
    )
    for step in (3, 4):
        assert resumed[step]["loss"] == pytest.approx(expected["losses"][str(step)], rel=TOLERANCE)
        assert resumed[step]["grad_norm"] == pytest.approx(expected["grad_norms"][str(step)], rel=TOLERANCE)
    assert 2 not in resumed  # it went on where it stood
    step_4 = old / "run" / "checkpoint" / "step-4"
    found, theirs = _read(step_4), _in_halves(load_file(STEP_4))
    for name, tensor in theirs.items():
        assert _gap(found[name], tensor) < TOLERANCE, name
    record = read_provenance(step_4)
    assert record is not None
    assert (record.rotary, Path(record.reordered_from).name) == (HALVES, "step-2")


def test_its_checkpoint_is_exported_to_the_bytes_it_was_exported_to(old: Path, tmp_path: Path) -> None:
    run = old / "run"
    loaded = load_config(["--job.config_file", str(run / "config.toml"), "--job.dump_folder", str(run)])
    save_resolved(loaded, run)
    export(WeightsCheckpoint.open(run / "checkpoint" / "step-2"), tmp_path / "hf", torch.float32)
    with safe_open(STEP_4, "pt") as asset:
        expected = asset.metadata()["export_of_step_2_sha256"]
    assert hashlib.sha256((tmp_path / "hf" / "model.safetensors").read_bytes()).hexdigest() == expected


def _read(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The tensors that the asset has of step 4."""
    state = {name: torch.empty_like(value) for name, value in load_file(STEP_4).items() if "export." not in name}
    load_into(state, SafeFileSystemReader(checkpoint), no_dist=True)
    return state


def _in_halves(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What revision 3905444 saved at step 4, with its own export's order of queries and keys: not this code's."""
    layer, exported = "layers.0.attention.qkv_linear", "export.model.layers.0.self_attn"
    native = {name: value for name, value in state.items() if "export." not in name}
    native[f"{layer}.wq.weight"] = state[f"{exported}.q_proj.weight"]
    native[f"{layer}.wk.weight"] = state[f"{exported}.k_proj.weight"]
    before = torch.cat([state[f"{layer}.{name}.weight"] for name in ("wq", "wk", "wv")])
    after = torch.cat([native[f"{layer}.{name}.weight"] for name in ("wq", "wk", "wv")])
    order = [int((before == row).all(1).nonzero()) for row in after]  # rows of random weights are all different
    for moment in ("exp_avg", "exp_avg_sq"):
        name = f"optimizer.state.{layer}.wqkv.weight.{moment}"
        native[name] = native[name][order]
    return native


def _gap(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())
