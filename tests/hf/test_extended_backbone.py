"""`[model] initial`: what cannot be started from leaves nothing behind, and a folder of another start is not taken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.support.hf_folders import TOKENIZER, Backbone, write_backbone
from titan_speech.config.schema_training import ModelConfig
from titan_speech.distributed.consensus import StartupConsensus
from titan_speech.errors import ModelError
from titan_speech.hf.extended_backbone import extended_initial
from titan_speech.hf.model_folder import EMBEDDING
from titan_speech.tokenization.text_tokenizer import TextTokenizer

pytestmark = pytest.mark.usefixtures("one_process")
VOCABULARY = TextTokenizer.load(TOKENIZER).vocabulary()


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")


def table(initial: Path) -> ModelConfig:
    return ModelConfig(family="llama3", flavor="initial", initial=str(initial))


def lose_a_shard(folder: Path) -> None:
    sorted(folder.glob("model-*"))[1].unlink()


def spoil_a_value(folder: Path) -> None:
    """What is found only while it is extended."""
    for file in folder.glob("model-*"):
        tensors = load_file(file)
        if EMBEDDING in tensors:
            tensors[EMBEDDING][7, 3] = float("nan")
            save_file(tensors, file)


@pytest.mark.parametrize("spoil", [lose_a_shard, spoil_a_value])
def test_a_start_that_is_refused_leaves_no_folder_and_no_lock(tmp_path: Path, spoil) -> None:
    write_backbone(tmp_path / "base", Backbone(max_shard_size="300KB"))
    spoil(tmp_path / "base")
    with pytest.raises(ModelError, match=r"of which are missing|not finite"):
        extended_initial(table(tmp_path / "base"), VOCABULARY, tmp_path / "run", StartupConsensus())
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_what_an_earlier_start_grew_is_taken_if_it_is_what_is_asked_for(tmp_path: Path) -> None:
    write_backbone(tmp_path / "base")
    asked, run = table(tmp_path / "base"), tmp_path / "run"
    folder, record = extended_initial(asked, VOCABULARY, run, StartupConsensus())
    assert [path.name for path in run.iterdir()] == [folder.name] == ["initial"]
    (tmp_path / "base" / "model.safetensors").unlink()  # not read again
    assert extended_initial(asked, VOCABULARY, run, StartupConsensus()) == (folder, record)
    with pytest.raises(
        ModelError, match=r"made of base with new rows mean_cov, scale 0\.01; this run asks for base, mean"
    ):
        extended_initial(replace(asked, new_rows="mean"), VOCABULARY, run, StartupConsensus())
