"""A checkpoint as a Hugging Face folder: the same logits there, the same bits back, whole or not at all."""

from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.support.greedy import assert_same_greedy
from tests.support.hf_folders import ALL_KINDS, Backbone, write_backbone, write_run
from titan_speech.checkpoint.folders import lock_for_removal
from titan_speech.checkpoint.provenance import Provenance
from titan_speech.cli.main import main
from titan_speech.codec.load import load_codec
from titan_speech.codec.wav import write_wav
from titan_speech.errors import CheckpointError, ModelError
from titan_speech.exit_codes import EXIT_BAD_INPUT
from titan_speech.generate.load import load_run
from titan_speech.generate.sampling import Decoding
from titan_speech.generate.synthesize import ReferenceVoice, SpeechModel, Utterance, _Sample
from titan_speech.hf.expand import expand, read_expansion
from titan_speech.hf.export import WeightsCheckpoint, export
from titan_speech.hf.model_card import ModelRecord
from titan_speech.hf.row_initialization import NewRows
from titan_speech.hf.safetensors_writer import new_folder


def silent(_: str) -> None:
    pass


@pytest.fixture(scope="module", params=ALL_KINDS, ids=lambda kind: kind.name)
def run_of_kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run folder and the extended folder its weights are those of."""
    folder = tmp_path_factory.mktemp(request.param.name)
    write_backbone(folder / "base", request.param)
    expand(folder / "base", folder / "extended", NewRows(), silent)
    return write_run(folder / "run", folder / "extended", request.param.family), folder / "extended"


def test_exported_logits_are_those_of_the_trainers_model(run_of_kind: tuple[Path, Path], tmp_path: Path) -> None:
    run, _ = run_of_kind
    export(WeightsCheckpoint.open(run), tmp_path / "hf", torch.float32)
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
    run, extended = run_of_kind
    export(WeightsCheckpoint.open(run), tmp_path / "hf", torch.float32)
    loaded, exported = (load_file(folder / "model.safetensors") for folder in (extended, tmp_path / "hf"))
    assert loaded.keys() == exported.keys()
    for name, tensor in loaded.items():
        assert torch.equal(tensor, exported[name]), name


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_backbone(folder / "base", Backbone())
    expand(folder / "base", folder / "extended", NewRows(), silent)
    return write_run(folder / "run", folder / "extended", "llama3")


def test_transformers_generates_token_for_token_what_the_projects_own_decoding_does(
    tiny_run: Path, tmp_path: Path
) -> None:
    export(WeightsCheckpoint.open(tiny_run), tmp_path / "hf", torch.float32)
    assert_same_greedy(tiny_run, tmp_path / "hf")


def test_the_folder_says_what_it_is(tiny_run: Path, tmp_path: Path) -> None:
    export(WeightsCheckpoint.open(tiny_run / "checkpoint" / "step-5"), tmp_path / "hf")
    names = {path.name for path in (tmp_path / "hf").iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md"} <= names
    assert "text_start" in json.loads((tmp_path / "hf" / "tokenizer_config.json").read_text())["chat_template"]
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    vocabulary = load_run(tiny_run).grammar.vocabulary
    assert (config["vocab_size"], config["dtype"]) == (vocabulary.num_rows, "bfloat16")
    assert config["eos_token_id"] == vocabulary.special("<|speech_end|>")
    card = (tmp_path / "hf" / "README.md").read_text()
    assert "step 5: 5,120 tokens" in card
    assert f"codec of its codes, by hash: {load_codec('embedded').codec_hash}" in card
    assert "No evaluation is recorded for this checkpoint." in card
    assert all(t.dtype == torch.bfloat16 for t in load_file(tmp_path / "hf" / "model.safetensors").values())


def test_what_was_measured_of_the_step_is_in_the_card(tiny_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    (run / "evaluation").mkdir()
    (run / "evaluation" / "step-5.md").write_text("CER on 40 Hindi sentences: 7.1 %\n")
    (run / "evaluation" / "step-4.md").write_text("of another step\n")
    export(WeightsCheckpoint.open(run), tmp_path / "hf")
    card = (tmp_path / "hf" / "README.md").read_text()
    assert "## Evaluation\nCER on 40 Hindi sentences: 7.1 %" in card
    assert "of another step" not in card


def test_the_card_names_the_backbone_that_the_first_weights_were_made_from(tiny_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    checkpoint, record = run / "checkpoint" / "step-5", read_expansion(tiny_run.parent / "extended")
    fingerprint = load_run(tiny_run).grammar.vocabulary.fingerprint
    Provenance(fingerprint, "", "", 1024, initial=str(record)).write(checkpoint)
    export(WeightsCheckpoint.open(run), tmp_path / "hf")
    card = (tmp_path / "hf" / "README.md").read_text()
    assert f"first weights: base (sha256 {record.source_sha256[:16]}), 4,096 rows extended to 69,760, new rows" in card
    assert str(tmp_path) not in card
    assert str(read_expansion(tmp_path / "hf")) == f"step 5 of a run that began from {record}"


def test_a_checkpoint_that_is_not_one_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither a checkpoint"):
        WeightsCheckpoint.open(tmp_path)
    with pytest.raises(CheckpointError, match=r"step-7 is not a complete checkpoint: no commit\.json"):
        WeightsCheckpoint.open(tiny_run / "checkpoint" / "step-7")


def test_files_without_a_marker_or_of_another_size_are_no_checkpoint(tiny_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    checkpoint = run / "checkpoint" / "step-5"
    (shard,) = checkpoint.glob("*.distcp")
    shard.write_bytes(shard.read_bytes()[:-1])
    for path in (run, checkpoint):
        with pytest.raises(CheckpointError, match=r"0_0\.distcp has [\d,]+ bytes instead of"):
            WeightsCheckpoint.open(path)
    (checkpoint / "commit.json").unlink()
    with pytest.raises(CheckpointError, match="checkpoint mark"):
        WeightsCheckpoint.open(checkpoint)


def test_retention_cannot_remove_what_is_being_exported(tiny_run: Path) -> None:
    checkpoint = WeightsCheckpoint.open(tiny_run)
    with checkpoint.kept(), lock_for_removal(checkpoint.path) as is_free:
        assert not is_free
    with (
        lock_for_removal(checkpoint.path) as is_free,
        pytest.raises(CheckpointError, match="is being removed"),
        checkpoint.kept(),
    ):
        pytest.fail("the block must not run")
    assert is_free


def test_a_damaged_checkpoint_leaves_nothing_behind(tiny_run: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_run, tmp_path / "run")
    (shard,) = (tmp_path / "run" / "checkpoint" / "step-5").glob("*.distcp")
    shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(CheckpointError, match="cannot be read at"):
        export(WeightsCheckpoint.open(tmp_path / "run"), tmp_path / "hf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_no_room_is_said_before_anything_is_written(tmp_path: Path) -> None:
    from titan_speech.hf import safetensors_writer

    with (
        pytest.raises(ModelError, match=r"needs \d+\.\d GB, the disk has"),
        safetensors_writer.new_folder(tmp_path / "hf", 1 << 60),
    ):
        pytest.fail("the block must not run")
    assert not list(tmp_path.iterdir())


def test_what_a_killed_writer_left_is_removed_and_that_of_a_living_one_is_not(tmp_path: Path) -> None:
    write = (
        "import sys, time; from pathlib import Path; from titan_speech.hf.safetensors_writer import new_folder\n"
        "with new_folder(Path(sys.argv[1]), 0) as partial: print(partial, flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", write, str(tmp_path / "hf")], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        partial = Path(process.stdout.readline().strip())
        (partial / "model.safetensors").write_bytes(bytes(9))
        with new_folder(tmp_path / "hf", 0):
            assert partial.exists()
        shutil.rmtree(tmp_path / "hf")
    finally:
        process.kill()
        process.wait()
    assert partial.exists()
    with new_folder(tmp_path / "hf", 0):
        assert not partial.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_a_disk_that_runs_full_while_writing_leaves_nothing_behind(tiny_run: Path, tmp_path: Path) -> None:
    """Files may grow to 1 MB here: the kernel refuses the rest in the middle of the embedding."""
    checkpoint, (soft, hard) = WeightsCheckpoint.open(tiny_run), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(ModelError, match=r"hf cannot be written: .*File too large; nothing was left behind"):
            export(checkpoint, tmp_path / "deep" / "er" / "hf")
        with pytest.raises(ModelError, match=r"extended cannot be written: .*File too large; nothing was left behind"):
            expand(tiny_run.parent / "base", tmp_path / "extended", NewRows("mean"), silent)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def exported(tiny_run: Path) -> Path:
    export(WeightsCheckpoint.open(tiny_run), tiny_run.parent / "hf", torch.float32)
    return tiny_run.parent / "hf"


def codes_of(model: SpeechModel, utterances: Sequence[Utterance], decoding: Decoding) -> list[list[int]]:
    return [speech.codes_F.tolist() for speech in model.synthesize(utterances, decoding)]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_utterances_synthesized_in_a_batch_have_the_codes_they_have_alone(
    exported: Path, tmp_path: Path, temperature: float
) -> None:
    model, decoding = SpeechModel.load(exported), Decoding(temperature, max_codes=12, min_codes=12)
    voice = ReferenceVoice(np.arange(50, dtype=np.uint16), "One, two.")
    utterances = [Utterance("Please hold the line."), Utterance("Goodbye.", voice, seed=7), Utterance("Goodbye.")]
    together = codes_of(model, utterances, decoding)
    edited = shutil.copytree(exported, tmp_path / "edited")
    (edited / "generation_config.json").write_text('{"repetition_penalty": 50.0, "max_length": 5, "top_p": 0.1}')
    assert codes_of(SpeechModel.load(edited), utterances, decoding) == together, "decoding is what is recorded"
    assert [codes_of(model, [one], decoding)[0] for one in utterances] == together
    assert together[1] != together[2], "the voice matters"
    other_seed = codes_of(model, [replace(utterances[0], seed=1)], decoding)[0]
    assert (other_seed == together[0]) == (temperature == 0)


def test_noise_on_logits_samples_their_softmax() -> None:
    decoding, seeds = Decoding(temperature=0.7, top_k=3), range(20_000)
    logits_V = torch.tensor([1.0, -torch.inf, 0.5, 0.0, -0.5, -torch.inf])
    chosen_B = _Sample(decoding, list(seeds))(torch.empty(0), logits_V.expand(len(seeds), -1)).argmax(-1)
    shares_V = torch.bincount(chosen_B, minlength=6) / len(seeds)
    expected_V = torch.softmax(torch.tensor([1.0, -torch.inf, 0.5, 0.0, -torch.inf, -torch.inf]) / 0.7, -1)
    assert (shares_V - expected_V).abs().max() < 0.012  # 3.4 standard errors of a share of one half


def test_generate_records_how_each_file_was_made_and_replaces_none_unasked(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codec, voice = load_codec("embedded"), tmp_path / "voice.wav"
    write_wav(voice, codec.decode(np.arange(50, dtype=np.uint16)))
    words = ["generate", "--model", str(exported), "--output", str(tmp_path / "said.wav"), "--max-sec", "0.4"]
    cloned = [*words, "--text", "Hello.", "--text", "Goodbye.", "--min-sec", "0.4"]
    cloned += ["--reference", str(voice), "--reference-text", "One, two."]
    assert main(cloned) == 0
    said = sorted(path.name for path in tmp_path.glob("said*"))
    assert said == ["said-0.json", "said-0.wav", "said-1.json", "said-1.wav"]
    record = json.loads((tmp_path / "said-1.json").read_text())
    assert (record["text"], record["step"], record["num_codes"]) == ("Goodbye.", 5, 20)
    assert record["reference"] == {"wav": str(voice), "text": "One, two."}
    assert record["codec"] == {"name": "embedded", "hash": codec.codec_hash}
    assert record["index"] == 1
    before = (tmp_path / "said-0.wav").read_bytes()
    assert main([*cloned, "--seed", "7"]) == EXIT_BAD_INPUT
    assert "said-0.wav exists already; choose another --output, or give --overwrite" in capsys.readouterr().err
    assert (tmp_path / "said-0.wav").read_bytes() == before
    assert main([*cloned, "--seed", "7", "--overwrite"]) == 0
    assert json.loads((tmp_path / "said-0.json").read_text())["decoding"]["seed"] == 7


def test_what_cannot_be_synthesized_or_written_is_refused_before_a_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder has no weights: whoever came as far as loading them would say so."""
    ModelRecord(5, "", "", ()).write(tmp_path)
    (tmp_path / "file").write_text("")
    words = ["generate", "--model", str(tmp_path), "--text", "Hello"]
    wav = ["--output", str(tmp_path / "x.wav")]
    for bad, message in (
        ([*words, "--output", str(tmp_path / "file" / "x.wav")], r"x\.wav cannot be written: .*Not a directory"),
        ([*words, "--output", "/proc/x.wav"], r"/proc/x\.wav cannot be written"),
        ([*words, "--output", str(tmp_path)], r"expected a name that ends in \.wav"),
        ([*words[:3], *wav], "there is no text to synthesize"),
        ([*words, *wav, "--text", " "], "there is no text to synthesize"),
        ([*words, *wav, "--min-sec", "2", "--max-sec", "1"], "--min-sec 2 is more than --max-sec 1"),
        ([*words, *wav, "--reference", "voice.wav"], "cloning needs both"),
        ([*words, *wav, "--reference", "/nowhere.wav", "--reference-text", "One"], r"nowhere\.wav"),
    ):
        assert main(bad) == EXIT_BAD_INPUT, bad
        assert re.search(message, capsys.readouterr().err), bad
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "titan_speech.json"]
