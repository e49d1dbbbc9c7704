"""A checkpoint as a Hugging Face folder: the same logits there, the same bits back, whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.hf_folders import ALL_KINDS, Backbone, write_backbone, write_run
from titan_speech.cli import main
from titan_speech.errors import CheckpointError, ModelError
from titan_speech.evaluate.generate import Decoding, generate_codes
from titan_speech.evaluate.load import load_run
from titan_speech.evaluate.speak import Reference, SpokenModel
from titan_speech.hf.expand import expand
from titan_speech.hf.export import Checkpoint, export
from titan_speech.hf.rows import NewRows
from titan_speech.prompts import Parts, Task
from titan_speech.verbs.verb import EXIT_BAD_INPUT


def silent(_: str) -> None:
    pass


@pytest.fixture(scope="module", params=ALL_KINDS, ids=lambda kind: kind.name)
def run_of_kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run folder and the grown folder its weights are those of."""
    folder = tmp_path_factory.mktemp(request.param.name)
    write_backbone(folder / "base", request.param)
    expand(folder / "base", folder / "grown", NewRows(), silent)
    return write_run(folder / "run", folder / "grown", request.param.family), folder / "grown"


def test_exported_logits_are_those_of_the_trainers_model(run_of_kind: tuple[Path, Path], tmp_path: Path) -> None:
    run, _ = run_of_kind
    export(Checkpoint.open(run), tmp_path / "hf", torch.float32)
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", output_loading_info=True)
    theirs, info = loaded
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    ours = load_run(run).model
    ids = torch.randint(0, theirs.config.vocab_size, (1, 90), generator=torch.Generator().manual_seed(3))
    positions = torch.arange(90).unsqueeze(0)
    with torch.no_grad():
        own = ours(ids, positions, ours.get_attention_masks(positions))
        torch.testing.assert_close(own, theirs(ids).logits, rtol=1e-4, atol=1e-4)


def test_what_was_loaded_is_exported_bit_for_bit(run_of_kind: tuple[Path, Path], tmp_path: Path) -> None:
    run, grown = run_of_kind
    export(Checkpoint.open(run), tmp_path / "hf", torch.float32)
    loaded, exported = (load_file(folder / "model.safetensors") for folder in (grown, tmp_path / "hf"))
    assert loaded.keys() == exported.keys()
    for name, tensor in loaded.items():
        assert torch.equal(tensor, exported[name]), name


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_backbone(folder / "base", Backbone())
    expand(folder / "base", folder / "grown", NewRows(), silent)
    return write_run(folder / "run", folder / "grown", "llama3")


def test_transformers_generates_token_for_token_what_the_projects_own_decoding_does(
    tiny_run: Path, tmp_path: Path
) -> None:
    export(Checkpoint.open(tiny_run), tmp_path / "hf", torch.float32)
    run = load_run(tiny_run)
    text_ids = np.array(run.tokenizer.encode("Please hold the line."), np.uint32)
    parts = Parts(text_ids=text_ids)
    codes_F = generate_codes(run.model, run.grammar, Task.TTS, parts, Decoding(temperature=0, max_codes=16)).codes_F
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    prompt = f"{tokenizer.bos_token}<|text_start|>Please hold the line.<|text_end|><|speech_start|>"
    prompt_ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
    assert prompt_ids[0].tolist() == run.grammar.prefix(Task.TTS, parts).tolist()
    vocabulary = run.grammar.vocabulary
    allowed = [*range(vocabulary.first_code_id, vocabulary.first_special_id), run.grammar.stop_id(Task.TTS)]
    generated = model.generate(
        prompt_ids, do_sample=False, max_new_tokens=16, prefix_allowed_tokens_fn=lambda batch, ids: allowed
    )[0, prompt_ids.shape[1] :].tolist()
    found = [id_ for id_ in generated if id_ != run.grammar.stop_id(Task.TTS)]
    assert vocabulary.ids_to_codes(found).tolist() == codes_F.tolist()


def test_the_folder_says_what_it_is(tiny_run: Path, tmp_path: Path) -> None:
    export(Checkpoint.open(tiny_run / "checkpoint" / "step-5"), tmp_path / "hf")
    names = {path.name for path in (tmp_path / "hf").iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md"} <= names
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    vocabulary = load_run(tiny_run).grammar.vocabulary
    assert (config["vocab_size"], config["dtype"]) == (vocabulary.num_rows, "bfloat16")
    assert config["eos_token_id"] == vocabulary.special("<|speech_end|>")
    card = (tmp_path / "hf" / "README.md").read_text()
    assert "step 5: 5,120 tokens" in card
    assert "None is recorded for this checkpoint." in card
    assert all(t.dtype == torch.bfloat16 for t in load_file(tmp_path / "hf" / "model.safetensors").values())


def test_what_was_measured_of_the_step_is_in_the_card(tiny_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    (run / "evaluation").mkdir()
    (run / "evaluation" / "step-5.md").write_text("CER on 40 Hindi sentences: 7.1 %\n")
    (run / "evaluation" / "step-4.md").write_text("of another step\n")
    export(Checkpoint.open(run), tmp_path / "hf")
    card = (tmp_path / "hf" / "README.md").read_text()
    assert "## Evaluation\nCER on 40 Hindi sentences: 7.1 %" in card
    assert "of another step" not in card


def test_a_checkpoint_that_is_not_one_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither a checkpoint"):
        Checkpoint.open(tmp_path)
    with pytest.raises(CheckpointError, match="no complete checkpoint of a run"):
        Checkpoint.open(tiny_run / "checkpoint" / "step-7")


def test_a_damaged_checkpoint_leaves_nothing_behind(tiny_run: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_run, tmp_path / "run")
    (shard,) = (tmp_path / "run" / "checkpoint" / "step-5").glob("*.distcp")
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    with pytest.raises(CheckpointError, match="cannot be read at"):
        export(Checkpoint.open(tmp_path / "run"), tmp_path / "hf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_no_room_is_said_before_anything_is_written(tmp_path: Path) -> None:
    from titan_speech.hf import writer

    with (
        pytest.raises(ModelError, match=r"needs \d+\.\d GB and there are"),
        writer.new_folder(tmp_path / "hf", 1 << 60),
    ):
        pytest.fail("the block must not run")
    assert not list(tmp_path.iterdir())


def test_generate_speaks_texts_in_a_batch_as_alone_and_records_how(tiny_run: Path, tmp_path: Path) -> None:
    export(Checkpoint.open(tiny_run), tmp_path / "hf", torch.float32)
    model, greedy = SpokenModel.load(tmp_path / "hf"), Decoding(temperature=0, max_codes=12, min_codes=12)
    texts = ["Please hold the line.", "Goodbye."]
    together = model.speak(texts, greedy)
    for text, speech in zip(texts, together, strict=True):
        assert speech.codes_F.tolist() == model.speak([text], greedy)[0].codes_F.tolist()
    voice = Reference(np.arange(50, dtype=np.uint16), "One, two.")
    assert model.speak(texts[:1], greedy, voice)[0].codes_F.tolist() != together[0].codes_F.tolist()

    words = ["generate", "--model", str(tmp_path / "hf"), "--output", str(tmp_path / "said.wav"), "--max-sec", "0.4"]
    assert main([*words, "--text", texts[0], "--text", texts[1], "--min-sec", "0.4"]) == 0
    assert sorted(path.name for path in tmp_path.glob("said*")) == [
        *("said-0.json", "said-0.wav"),
        *("said-1.json", "said-1.wav"),
    ]
    record = json.loads((tmp_path / "said-1.json").read_text())
    assert (record["text"], record["step"], record["num_codes"]) == ("Goodbye.", 5, 20)
    assert main([*words, "--text", " "]) == EXIT_BAD_INPUT
    assert main([*words, "--text", "Hello", "--reference", "voice.wav"]) == EXIT_BAD_INPUT
