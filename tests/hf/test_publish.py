"""A finished folder pushed to a stand-in for the Hub on loopback: every bit arrives, nothing is half there."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.support.hf_folders import Backbone, write_backbone, write_run
from tests.support.hub_server import READ_ONLY_TOKEN, Hub, running_hub, use_endpoint
from titan_speech.cli.main import main
from titan_speech.errors import ModelError, PublishError
from titan_speech.exit_codes import EXIT_BAD_INPUT, EXIT_DONE
from titan_speech.hf.expand import expand
from titan_speech.hf.export import WeightsCheckpoint, export
from titan_speech.hf.publish import Repository, publish
from titan_speech.hf.row_initialization import NewRows
from titan_speech.model.exported_files import find_exported_files

NAME = "speech-team/tiny"


def silent(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_backbone(folder / "base", Backbone())
    expand(folder / "base", folder / "extended", NewRows(), silent)
    return write_run(folder / "run", folder / "extended", "llama3")


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    export(WeightsCheckpoint.open(run), run.parent / "hf")
    return run.parent / "hf"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch):
    with running_hub(monkeypatch) as hub:
        yield hub


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def export_words(run: Path, output: Path) -> list[str]:
    words = ["model", "export", "--no-check", "--checkpoint", str(run), "--output", str(output)]
    return [*words, "--publish", NAME]


def test_export_with_publish_makes_a_private_repository_that_holds_the_folder_bit_for_bit(
    hub: Hub, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = export_words(run, tmp_path / "hf")
    assert main(words) == EXIT_DONE
    assert hub.repos[NAME].is_private
    assert hub.repos[NAME].files == content(tmp_path / "hf")
    assert hub.repos[NAME].commits == ["titan_speech, step 5"]
    assert f"published as {hub.endpoint}/{NAME}/commit/" in capsys.readouterr().out


def test_a_public_repository_must_be_asked_for(hub: Hub, exported: Path) -> None:
    assert main(["model", "publish", "--from", str(exported), "--to", NAME, "--public"]) == EXIT_DONE
    assert not hub.repos[NAME].is_private
    hub.repos[NAME].files.clear()
    with pytest.raises(PublishError, match="exists and is public; give --public"):
        publish(exported, Repository.named(NAME), silent)
    assert not hub.repos[NAME].files


def test_an_interrupted_push_shows_nothing_and_the_next_sends_only_what_is_missing(
    hub: Hub, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.refuses_commits = True
    assert main(["model", "publish", "--from", str(exported), "--to", NAME]) == EXIT_BAD_INPUT
    message = capsys.readouterr().err
    assert "was not changed" in message
    assert f"titan-speech model publish --from {exported} --to {NAME}" in message
    assert not hub.repos[NAME].files
    assert len(hub.uploads) == 1
    hub.refuses_commits = False
    publish(exported, Repository.named(NAME), silent)
    assert hub.repos[NAME].files == content(exported)
    assert len(hub.uploads) == 1


def test_weights_of_an_earlier_model_do_not_stay_beside_the_new(hub: Hub, exported: Path, tmp_path: Path) -> None:
    publish(exported, Repository.named(NAME), silent)
    repo = hub.repos[NAME]
    repo.files |= {"model-00001-of-00002.safetensors": b"old", "model.safetensors.index.json": b"{}", "notes.md": b"x"}
    changed = shutil.copytree(exported, tmp_path / "changed")
    (changed / "README.md").write_text("another card")
    publish(changed, Repository.named(NAME), silent)
    assert repo.files == content(changed) | {"notes.md": b"x"}


def test_only_files_of_the_export_are_sent_and_others_are_named(hub: Hub, exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "hf")
    secret = tmp_path / "secret"
    secret.write_text("token")
    (folder / ".env").write_text("AWS_SECRET_ACCESS_KEY=1")
    (folder / "notes.md").symlink_to(secret)
    (folder / "text_tokenizer" / "copy.json").symlink_to(secret)
    (folder / "a\x1b[2J\nb").write_text("")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("url = https://token@host")
    lines: list[str] = []
    publish(folder, Repository.named(NAME), lines.append)
    assert hub.repos[NAME].files == content(exported)
    assert f"{folder}: not published" in lines[0]
    assert lines[0].endswith(": .env, .git, a\\u001b[2J\\u000ab, notes.md, text_tokenizer/copy.json")


@pytest.mark.parametrize("name", ["README.md", "model.safetensors", "text_tokenizer"])
def test_a_symbolic_link_in_the_place_of_a_file_is_not_followed(
    hub: Hub, exported: Path, tmp_path: Path, name: str
) -> None:
    folder = shutil.copytree(exported, tmp_path / "hf")
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PublishError, match=f"not a regular file: {name}; symbolic links are not followed"):
        publish(folder, Repository.named(NAME), silent)
    assert not hub.repos


def test_the_list_of_what_may_be_sent_is_what_an_export_writes(exported: Path) -> None:
    found = find_exported_files(exported)
    assert set(found.files) == set(content(exported))
    assert not found.links
    assert not found.others


def test_refusals_are_said_with_what_to_do(
    hub: Hub, exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["model", "publish", "--from", str(exported), "--to", NAME]
    for token, message in (("hf_unknown", "does not know the token"), (READ_ONLY_TOKEN, "may not write to")):
        monkeypatch.setenv("HF_TOKEN", token)
        assert main(words) == EXIT_BAD_INPUT
        assert message in capsys.readouterr().err
    assert not hub.repos


def test_what_cannot_be_published_is_found_before_anything_is_exported(
    hub: Hub, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["model", "export", "--checkpoint", str(run), "--no-check", "--output", str(tmp_path / "hf")]
    assert main([*words, "--public"]) == EXIT_BAD_INPUT
    assert main([*words, "--publish", "no-owner"]) == EXIT_BAD_INPUT
    assert main([*words, "--publish", "two words/x"]) == EXIT_BAD_INPUT
    monkeypatch.delenv("HF_TOKEN")
    assert main([*words, "--publish", NAME]) == EXIT_BAD_INPUT
    assert not list(tmp_path.iterdir())


def test_without_the_library_or_a_token_it_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    use_endpoint(monkeypatch, "http://127.0.0.1:1", token=None)
    with pytest.raises(PublishError, match="run `hf auth login`, or set HF_TOKEN"):
        Repository.named(NAME)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(PublishError, match=r"pip install 'titan-speech\[hf\]'"):
        Repository.named(NAME)


def test_without_network_the_exported_folder_stays(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_endpoint(monkeypatch, "http://127.0.0.1:1")
    words = export_words(run, tmp_path / "hf")
    assert main(words) == EXIT_BAD_INPUT
    assert "http://127.0.0.1:1 cannot be reached" in capsys.readouterr().err
    assert (tmp_path / "hf" / "model.safetensors").is_file()


def test_a_folder_without_weights_or_record_is_not_sent(hub: Hub, exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "hf")
    (tmp_path / "hf" / "titan_speech.json").unlink()
    with pytest.raises(ModelError, match=r"titan_speech\.json is missing"):
        publish(tmp_path / "hf", Repository.named(NAME), silent)
    (tmp_path / "hf" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="has no weights"):
        publish(tmp_path / "hf", Repository.named(NAME), silent)
    assert not hub.repos
