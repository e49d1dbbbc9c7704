"""LoRA checkpoints: merged, exported and loaded by peft they give the same logits, and only on their own base."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from transformers import AutoModelForCausalLM

from tests.support.hf_folders import ALL_KINDS, Backbone, write_backbone
from tests.support.runs import ROOT, SMALL
from titan_speech.checkpoint.commit import read_commit
from titan_speech.checkpoint.lora_base import open_base
from titan_speech.checkpoint.provenance import Provenance, read_provenance
from titan_speech.checkpoint.verify import verify, write_marker
from titan_speech.cli.main import main
from titan_speech.config.resolved import RESOLVED_NAME, save_resolved
from titan_speech.errors import CheckpointError
from titan_speech.exit_codes import EXIT_BAD_INPUT
from titan_speech.generate.load import load_run
from titan_speech.hf.config_json import model_shape
from titan_speech.hf.expand import expand
from titan_speech.hf.export import WeightsCheckpoint, export
from titan_speech.hf.lora_export import base_of, load_adapted
from titan_speech.hf.peft_folder import export_adapter
from titan_speech.hf.row_initialization import NewRows
from titan_speech.model.lora import ADAPTER_B, is_trained
from titan_speech.model.spec import model_spec
from titan_speech.preflight.config_checks import load_config
from titan_speech.tokenization.prompt_template import Grammar
from titan_speech.tokenization.text_tokenizer import TextTokenizer


@dataclass(frozen=True)
class AdapterRun:
    """A run folder with an adapter at step 5, and the Hugging Face folder that is its base."""

    run: Path
    base: Path
    kind: Backbone


def write_adapter_run(folder: Path, base: Path, family: str, *more: str) -> Path:
    """As a LoRA run leaves it, with an adapter of random values."""
    words = ["--job.config_file", str(ROOT / SMALL), "--job.dump_folder", str(folder), "--lora.rank", "4", *more]
    words += ["--model.initial", str(base), "--model.flavor", "initial", "--model.family", family]
    loaded = load_config([*words, "--tokenizer.path", str(base)])
    folder.mkdir(parents=True)
    save_resolved(loaded, folder)
    tokenizer, lora = TextTokenizer.load(base), loaded.config.lora
    grammar, shape = Grammar(tokenizer.vocabulary()), model_shape(loaded.config.model)
    model = model_spec(shape, "dense", grammar.vocabulary.num_rows, None, lora).model.build()
    torch.manual_seed(7)
    with torch.no_grad():
        model.init_weights()
    state = {name: value for name, value in model.state_dict().items() if is_trained(name, lora)}
    for name, value in state.items():
        if name.endswith(ADAPTER_B):
            value.normal_(std=0.1)
    checkpoint = folder / "checkpoint" / "step-5"
    dcp.save(state, checkpoint_id=str(checkpoint), no_dist=True)
    Provenance(
        grammar.vocabulary.fingerprint,
        grammar.fingerprint,
        f"{family} initial",
        1024,
        backbone=shape,
        lora=str(lora),
        base=str(base),
        base_fingerprint=open_base(base).fingerprint,
    ).write(checkpoint)
    write_marker(checkpoint)
    return folder


@pytest.fixture(scope="module", params=ALL_KINDS, ids=lambda kind: kind.name)
def adapter_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AdapterRun:
    return make(tmp_path_factory.mktemp(request.param.name), request.param)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> AdapterRun:
    return make(tmp_path_factory.mktemp("tiny"), Backbone())


def make(folder: Path, kind: Backbone) -> AdapterRun:
    write_backbone(folder / "plain", kind)
    expand(folder / "plain", folder / "base", NewRows(), lambda _: None)
    return AdapterRun(write_adapter_run(folder / "run", folder / "base", kind.family), folder / "base", kind)


def some_ids(num_rows: int) -> torch.Tensor:
    return torch.randint(0, num_rows, (1, 70), generator=torch.Generator().manual_seed(3))


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    positions = torch.arange(ids.shape[1]).unsqueeze(0)
    with torch.no_grad():
        return model(ids, positions, model.get_attention_masks(positions))


def adapted(run: Path, *, merge: bool) -> Any:
    checkpoint = WeightsCheckpoint.open(run)
    assert checkpoint.provenance is not None
    base = base_of(checkpoint.path, run, checkpoint.provenance)
    num_rows = checkpoint.grammar.vocabulary.num_rows
    return load_adapted(checkpoint.path, base, checkpoint.config, checkpoint.shape, num_rows, merge=merge)


def test_a_merged_adapter_gives_the_logits_of_base_and_adapter(adapter_run: AdapterRun, tmp_path: Path) -> None:
    beside = adapted(adapter_run.run, merge=False)
    ids = some_ids(beside.config.vocab_size)
    expected = logits(beside, ids)
    torch.testing.assert_close(logits(load_run(adapter_run.run).model, ids), expected, rtol=1e-4, atol=1e-4)
    export(WeightsCheckpoint.open(adapter_run.run), tmp_path / "hf", torch.float32)
    with torch.no_grad():
        exported = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")(ids).logits
        base = AutoModelForCausalLM.from_pretrained(adapter_run.base)(ids).logits
    torch.testing.assert_close(exported, expected, rtol=1e-4, atol=1e-4)
    assert (base - expected).abs().max() > 0.1, "the adapter changes nothing, so the test shows nothing"


def test_peft_loads_the_adapter_on_the_base_with_the_same_logits(adapter_run: AdapterRun, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    export_adapter(WeightsCheckpoint.open(adapter_run.run), tmp_path / "adapter")
    theirs = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(adapter_run.base), tmp_path / "adapter"
    )
    ids = some_ids(theirs.config.vocab_size)
    with torch.no_grad():
        found = theirs(ids).logits
    torch.testing.assert_close(found, logits(adapted(adapter_run.run, merge=False), ids), rtol=1e-4, atol=1e-4)


def test_a_merged_run_is_a_run_like_any_other(tiny: AdapterRun, tmp_path: Path, capsys: Any) -> None:
    words = ["model", "merge", "--checkpoint", str(tiny.run), "--output", str(tmp_path / "merged")]
    assert main(words) == 0
    assert "step 5, adapter and base in one" in capsys.readouterr().out
    checkpoint = tmp_path / "merged" / "checkpoint" / "step-5"
    assert verify(checkpoint, checksums=True).is_sound
    record, commit = read_provenance(checkpoint), read_commit(checkpoint)
    assert record is not None
    assert commit is not None
    assert (record.lora, record.base, commit.kind) == ("", "", "model")
    assert "merged with a LoRA adapter (rank 4" in record.initial
    config = load_config(["--job.config_file", str(tmp_path / "merged" / RESOLVED_NAME)]).config
    assert (config.lora.rank, config.job.dump_folder) == (0, str(tmp_path / "merged"))
    ids = some_ids(record.backbone.num_layers * 1000 if record.backbone else 0)
    assert torch.equal(logits(load_run(tmp_path / "merged").model, ids), logits(adapted(tiny.run, merge=True), ids))
    assert main([*words[:3], str(tmp_path / "merged"), "--output", str(tmp_path / "again")]) == EXIT_BAD_INPUT
    assert "there is nothing to merge" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merged"]


def test_an_adapter_is_not_added_to_another_base(tiny: AdapterRun, tmp_path: Path, capsys: Any) -> None:
    write_backbone(tmp_path / "plain", Backbone())
    expand(tmp_path / "plain", tmp_path / "other", NewRows(seed=1), lambda _: None)
    words = ["model", "merge", "--checkpoint", str(tiny.run), "--output", str(tmp_path / "merged")]
    assert main([*words, "--base", str(tmp_path / "other")]) == EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert "belongs to the base with fingerprint" in error
    assert "another one" in error
    assert main([*words, "--base", str(tmp_path / "nowhere")]) == EXIT_BAD_INPUT
    assert "nothing that is a base" in capsys.readouterr().err
    assert not (tmp_path / "merged").exists()
    moved = (tmp_path / "moved", tiny.base)
    moved[0].symlink_to(moved[1])
    assert main([*words, "--base", str(moved[0])]) == 0


def test_an_adapter_is_not_taken_for_the_weights_of_a_model(tiny: AdapterRun) -> None:
    checkpoint = tiny.run / "checkpoint" / "step-5"
    found = read_provenance(checkpoint)
    assert found is not None
    full = replace(found, lora="", base="", base_fingerprint="")
    with pytest.raises(CheckpointError, match=r"holds a LoRA adapter \(rank 4.*titan-speech model merge"):
        full.check_fits(found, checkpoint, weights_only=True)
    other = replace(found, lora=found.lora.replace("rank 4", "rank 8"))
    with pytest.raises(CheckpointError, match=r"lora: the checkpoint has rank 4, .*, this run has rank 8"):
        other.check_fits(found, checkpoint, weights_only=False)


def test_the_exported_adapter_goes_without_a_base_and_says_which_it_needs(
    tiny: AdapterRun, tmp_path: Path, capsys: Any
) -> None:
    words = ["model", "export", "--adapter", "--dtype", "float32", "--checkpoint", str(tiny.run)]
    assert main([*words, "--output", str(tmp_path / "adapter")]) == 0
    names = sorted(path.name for path in (tmp_path / "adapter").iterdir())
    assert names == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert len({path.stat().st_mode for path in (tmp_path / "adapter").iterdir()}) == 1, "who reads one reads all"
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert f"the fingerprint {open_base(tiny.base).fingerprint}" in card
    assert str(tiny.base) not in card
    assert main([*words, "--output", str(tmp_path / "x"), "--base", str(tiny.base)]) == EXIT_BAD_INPUT
    assert "goes with neither" in capsys.readouterr().err


def test_an_adapter_with_new_rows_is_merged_but_not_for_peft(tmp_path: Path) -> None:
    write_backbone(tmp_path / "plain", Backbone())
    expand(tmp_path / "plain", tmp_path / "base", NewRows(), lambda _: None)
    run = write_adapter_run(tmp_path / "run", tmp_path / "base", "llama3", "--lora.train_new_rows", "true")
    with pytest.raises(CheckpointError, match="trained new vocabulary rows"):
        export_adapter(WeightsCheckpoint.open(run), tmp_path / "adapter")
    ids = some_ids(1000)
    found, expected = logits(load_run(run).model, ids), logits(adapted(run, merge=False), ids)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
