"""A checkpoint that came from somebody else runs nothing, wherever it is read; real ones load as before."""

from __future__ import annotations

import builtins
import os
import pickle
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import Metadata
from torch.utils import collect_env
from torchtitan.components.checkpoint import MODEL

from tests.support.checkpoints import save, save_job, state, world_of_one
from tests.support.hf_folders import Backbone, write_backbone, write_run
from titan_speech.checkpoint import index_reader as index
from titan_speech.checkpoint.choose_start import choose_start
from titan_speech.checkpoint.commit import INDEX, MARKER, file_record, read_commit
from titan_speech.checkpoint.dcp_reader import SafeFileSystemReader, load_into
from titan_speech.checkpoint.index_reader import indexed_files, read_index
from titan_speech.checkpoint.keeper import RetentionKeeper
from titan_speech.checkpoint.manager import SpeechCheckpointManager
from titan_speech.checkpoint.provenance import Provenance
from titan_speech.checkpoint.retention import Removal, drop_optimizer_state
from titan_speech.checkpoint.saver import Saver
from titan_speech.checkpoint.verify import verify, write_marker
from titan_speech.cli.main import main
from titan_speech.config.schema_operations import CheckpointConfig
from titan_speech.errors import CheckpointError
from titan_speech.generate.load import load_run
from titan_speech.hf.expand import expand
from titan_speech.hf.export import WeightsCheckpoint, export
from titan_speech.hf.row_initialization import NewRows

RUN = Provenance(vocabulary="v", grammar="g", model="llama3 debug", global_batch_tokens=1024)

Attack = Callable[[Metadata, Path], bytes]
"""The bytes of an index that makes a file when it is unpickled."""


class Calls:
    """What is called when the pickle of it is loaded."""

    def __init__(self, function: Callable[..., object], *args: object) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.function, self.args


def by(function: Callable[..., object], text: str) -> Attack:
    """In a field that nothing needs; all else is as it was."""
    return lambda metadata, mark: pickle.dumps(replace(metadata, version=Calls(function, text.format(mark))))  # pyright: ignore[reportArgumentType]


def through_dcps_module(_: Metadata, mark: Path) -> bytes:
    """`os` is there too: a module's name says nothing of what it holds."""

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    called = text(Metadata.__module__) + text("os.system") + b"\x93"
    return b"\x80\x04" + called + text(f"touch {mark}") + b"\x85R."


ATTACKS: dict[str, Attack] = {
    "posix.system": by(os.system, "touch {}"),
    "builtins.eval": by(builtins.eval, "open('{}', 'w').close()"),
    "torch.utils.collect_env.run": by(collect_env.run, "touch {}"),
    "torch.distributed.checkpoint.metadata.os.system": through_dcps_module,
}

attacks = pytest.mark.parametrize("name", ATTACKS)


@pytest.fixture(scope="module", autouse=True)
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with world_of_one(tmp_path_factory.mktemp("world")):
        yield


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """A file that is there once an attack has run."""
    yield tmp_path / "it-ran"
    assert not (tmp_path / "it-ran").exists(), "what the checkpoint holds was run"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Checkpoints of the steps 3 and 5."""
    for step in (3, 5):
        save(tmp_path / "checkpoint", step)
    return tmp_path / "checkpoint"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with weights that can be exported."""
    place = tmp_path_factory.mktemp("trained")
    write_backbone(place / "base", Backbone())
    expand(place / "base", place / "grown", NewRows(), lambda _: None)
    return write_run(place / "run", place / "grown", "llama3")


def write_index(checkpoint: Path, content: bytes) -> None:
    """With sizes and checksums in the marker as whoever changed the index would write them."""
    (checkpoint / INDEX).write_bytes(content)
    commit = read_commit(checkpoint)
    assert commit is not None
    files = tuple(file_record(one.path(checkpoint), one.name, one.role) for one in commit.files)
    (checkpoint / MARKER).write_text(replace(commit, files=files).to_json())


def poison(checkpoint: Path, name: str, mark: Path) -> Path:
    write_index(checkpoint, ATTACKS[name](read_index(checkpoint / INDEX), mark))
    return checkpoint


def start_training(checkpoint: Path, found: dict[str, Any]) -> None:
    """As the manager of a run loads, also what a stage before or `initial_load_path` left."""

    class Weights:
        def load_state_dict(self, _: dict[str, Any]) -> None: ...

    manager: Any = SpeechCheckpointManager.__new__(SpeechCheckpointManager)
    manager.enable, manager.states = False, {MODEL: Weights()}
    manager.provenance = Provenance("", "", "", 1024)
    manager.dcp_load(found, str(checkpoint), from_hf=False, from_quantized=False)


@attacks
def test_dcps_own_reader_does_run_it(folder: Path, name: str, tmp_path: Path) -> None:
    """Else the tests below would prove nothing."""
    checkpoint = poison(folder / "step-5", name, tmp_path / "it-ran")
    with (checkpoint / INDEX).open("rb") as file:
        pickle.load(file)
    assert (tmp_path / "it-ran").exists()


@attacks
def test_verify_finds_it_and_says_what_was_found(
    folder: Path, name: str, mark: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = poison(folder / "step-5", name, mark)
    (problem,) = verify(checkpoint, checksums=True).problems
    assert f"the index {checkpoint / INDEX} was refused: it names {name}." in problem
    assert "Nothing in it was run. Take another checkpoint" in problem
    assert main(["checkpoint", "verify", str(folder)]) == 1
    assert f"names {name}" in capsys.readouterr().out


@attacks
def test_inspect_refuses_it(folder: Path, name: str, mark: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "inspect", str(poison(folder / "step-5", name, mark))]) == 2
    assert f"it names {name}" in capsys.readouterr().err


@attacks
def test_adopt_refuses_it_and_writes_no_marker(folder: Path, name: str, mark: Path) -> None:
    checkpoint = poison(folder / "step-5", name, mark)
    (checkpoint / MARKER).unlink()
    with pytest.raises(CheckpointError, match=f"it names {name}"):
        write_marker(checkpoint)
    assert not (checkpoint / MARKER).exists()


@attacks
def test_thinning_refuses_it_and_leaves_it_as_it_was(folder: Path, name: str, mark: Path) -> None:
    checkpoint = poison(folder / "step-5", name, mark)
    commit, files = read_commit(checkpoint), sorted(checkpoint.iterdir())
    assert commit is not None
    with pytest.raises(CheckpointError, match=f"it names {name}"):
        drop_optimizer_state(checkpoint, commit)
    assert sorted(checkpoint.iterdir()) == files
    assert not list(folder.glob("*.partial"))


def test_retention_goes_on_after_one_that_it_cannot_thin(folder: Path, mark: Path) -> None:
    poison(folder / "step-5", "posix.system", mark)
    keeper = RetentionKeeper(folder, CheckpointConfig())
    keeper.remove(Removal(delete=(3,), drop_optimizer=(5,)))
    keeper.close()
    assert [path.name for path in folder.glob("step-*")] == ["step-5"]


@attacks
def test_a_run_passes_over_it_and_starts_from_the_one_before(folder: Path, name: str, mark: Path) -> None:
    poison(folder / "step-5", name, mark)
    start = choose_start(CheckpointConfig(), folder, RUN)
    assert start.step == 3
    assert f"it names {name}" in start.passed_over[0]


@attacks
def test_a_run_that_takes_its_weights_refuses_it(folder: Path, name: str, mark: Path) -> None:
    """As it came from another program, without a marker: then nothing else looks at it before it is loaded."""
    checkpoint = poison(folder / "step-5", name, mark)
    (checkpoint / MARKER).unlink()
    with pytest.raises(CheckpointError, match=f"initial_load_path = .*it names {name}"):
        choose_start(CheckpointConfig(initial_load_path=str(checkpoint)), folder / "elsewhere", RUN)


@attacks
def test_the_start_of_training_refuses_it(folder: Path, name: str, mark: Path) -> None:
    checkpoint = poison(folder / "step-5", name, mark)
    with pytest.raises(CheckpointError, match=f"it names {name}"):
        start_training(checkpoint, state(0.0))


def test_an_index_of_a_rank_is_no_way_round(folder: Path, mark: Path) -> None:
    """DCP goes on to it where that of all ranks cannot be read."""
    checkpoint = poison(folder / "step-5", "posix.system", mark)
    shutil.copy(folder / "step-3" / INDEX, checkpoint / f"__0{INDEX}")
    with pytest.raises(CheckpointError, match=r"it names posix\.system"):
        start_training(checkpoint, state(0.0))
    shutil.copy(checkpoint / INDEX, checkpoint / f"__0{INDEX}")
    (checkpoint / INDEX).unlink()
    with pytest.raises(CheckpointError, match=r"__0\.metadata was refused: it names posix\.system"):
        start_training(checkpoint, state(0.0))


@pytest.mark.parametrize("name", ["posix.system", "builtins.eval"])
def test_decoding_and_export_refuse_it(
    trained: Path, name: str, tmp_path: Path, mark: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    poison(run / "checkpoint" / "step-5", name, mark)
    with pytest.raises(CheckpointError, match=f"was refused: it names {name}"):
        load_run(run)
    with pytest.raises(CheckpointError, match=f"was refused: it names {name}"):
        export(WeightsCheckpoint.open(run), tmp_path / "hf")
    assert not (tmp_path / "hf").exists()
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []


@pytest.mark.parametrize("where", ["dataloader", "norm.weight"])
def test_a_value_that_would_run_code_is_refused_by_its_name(tmp_path: Path, where: str, mark: Path) -> None:
    """Values that are no tensors are pickles of their own; one may stand where a tensor is expected."""
    value = Calls(os.system, f"touch {mark}")
    saved = state(5.0) | {where: {"next_slot": value} if where == "dataloader" else value}
    saver = Saver("disabled")
    saver.start(saved, save_job(tmp_path / "checkpoint", 5), wait=True)
    assert saver.settle().commit is not None
    name = "dataloader.next_slot" if where == "dataloader" else where
    assert verify(tmp_path / "checkpoint" / "step-5", checksums=True).is_sound  # the index is
    with pytest.raises(CheckpointError, match=rf"the value '{name}' .* was refused: it holds the names posix\.system"):
        start_training(
            tmp_path / "checkpoint" / "step-5",
            state(0.0) | {where: {"next_slot": 0} if where == "dataloader" else torch.zeros(16)},
        )


@pytest.mark.parametrize("value", [torch.float32, {"a": [1, {2: torch.Size([3])}]}])
def test_a_value_that_torch_would_take_and_no_run_saves_is_refused(tmp_path: Path, value: object) -> None:
    dcp.save({"dataloader": {"next_slot": (value,)}}, checkpoint_id=str(tmp_path), no_dist=True)
    with pytest.raises(CheckpointError, match=r"'dataloader.next_slot' .* was refused: it holds torch\."):
        start_training(tmp_path, {"dataloader": {"next_slot": 0}})


def test_values_as_runs_save_them_come_back(tmp_path: Path) -> None:
    values = {
        "next_slot": 1 << 40,
        "phase": "a",
        "betas": (0.9, 0.95),
        "none": None,
        "is": True,
        "all": ({1: [b"x", {2}]},),
    }
    dcp.save({"dataloader": values}, checkpoint_id=str(tmp_path), no_dist=True)
    found = {"dataloader": dict.fromkeys(values, 0)}
    start_training(tmp_path, found)
    assert found == {"dataloader": values}


@pytest.mark.parametrize("path", ["../step-3/__0_model_0.distcp", "/etc/passwd", "a/../../b", "a\n.distcp", "a\\b", ""])
def test_a_place_outside_the_checkpoint_is_refused(folder: Path, path: str) -> None:
    checkpoint = folder / "step-5"
    metadata = read_index(checkpoint / INDEX)
    key = next(iter(metadata.storage_data))
    metadata.storage_data[key] = replace(metadata.storage_data[key], relative_path=path)
    write_index(checkpoint, pickle.dumps(metadata))
    for read in (verify_problem, adopted_anew, lambda one: start_training(one, state(0.0))):
        with pytest.raises(CheckpointError, match="was refused: found the path"):
            read(checkpoint)


def verify_problem(checkpoint: Path) -> None:
    raise CheckpointError(verify(checkpoint, checksums=True).problems[0])


def adopted_anew(checkpoint: Path) -> None:
    (checkpoint / MARKER).unlink()
    write_marker(checkpoint)


@pytest.mark.parametrize("change", [{"offset": -1}, {"length": True}, {"length": 1.5}, {"offset": 1 << 80}])
def test_a_place_that_cannot_be_is_refused(folder: Path, change: dict[str, Any]) -> None:
    metadata = read_index(folder / "step-5" / INDEX)
    key = next(iter(metadata.storage_data))
    metadata.storage_data[key] = replace(metadata.storage_data[key], **change)
    write_index(folder / "step-5", pickle.dumps(metadata))
    (problem,) = verify(folder / "step-5", checksums=True).problems
    assert "where a whole number from 0 is expected" in problem


def test_names_that_dcp_uses_are_of_no_use_to_anybody_else(tmp_path: Path, folder: Path) -> None:
    """`getattr` is written for an enum by some versions of Python; here it would lead from a class to its module."""
    of_module = Calls(getattr, Calls(getattr, Metadata, "__init__"), "__globals__")
    good = read_index(folder / "step-5" / INDEX)
    pollutes = b"\x80\x04c" + Metadata.__module__.encode() + b"\nMetadata\nN}X\x07\x00\x00\x00versionK\x01s\x86b."
    for content in (
        pickle.dumps(replace(good, version=of_module)),  # pyright: ignore[reportArgumentType]
        pollutes,
        pickle.dumps([1, 2]),
        pickle.dumps(good)[:-20],
        b"",
        b"no pickle",
    ):
        (tmp_path / INDEX).write_bytes(content)
        with pytest.raises(CheckpointError, match="was refused"):
            indexed_files(tmp_path / INDEX)
    assert read_index(folder / "step-5" / INDEX) == good


def test_an_index_that_is_too_large_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "MAX_INDEX_BYTES", 1_000)
    with pytest.raises(CheckpointError, match="refused: more than 1,000 bytes"):
        read_index(folder / "step-5" / INDEX)


def test_a_layout_that_torch_does_not_have_is_named(folder: Path) -> None:
    path = folder / "step-5" / INDEX
    content = path.read_bytes()
    assert b"torch.strided" in content
    path.write_bytes(content.replace(b"torch.strided", b"torch.striped"))
    with pytest.raises(CheckpointError, match="this torch does not know: 'striped' is not a layout"):
        read_index(path)


def dcps_own(path: Path) -> Metadata:
    with path.open("rb") as file:
        return pickle.load(file)


def test_real_indexes_are_read_as_dcp_reads_them(folder: Path, tmp_path: Path) -> None:
    """Of a save, of a thinned checkpoint, of plain DCP, and as Pythons that write enums by `getattr` have it."""
    values = {"a": 1, "b": {"c": "text"}, "half": torch.zeros(2, 3, dtype=torch.bfloat16), "none": torch.zeros(0, 4)}
    dcp.save(state(1.0) | values, checkpoint_id=str(tmp_path / "plain"), no_dist=True)
    commit = read_commit(folder / "step-3")
    assert commit is not None
    drop_optimizer_state(folder / "step-3", commit)
    for checkpoint in (tmp_path / "plain", folder / "step-3", folder / "step-5"):
        assert read_index(checkpoint / INDEX) == dcps_own(checkpoint / INDEX)
    by_number = (tmp_path / "plain" / INDEX).read_bytes()
    assert by_number.count(b"_MEM_FORMAT_ENCODING") == 1
    (tmp_path / INDEX).write_bytes(pickle_with_enums_by_name(dcps_own(tmp_path / "plain" / INDEX)))
    assert b"getattr" in (tmp_path / INDEX).read_bytes()
    assert read_index(tmp_path / INDEX) == dcps_own(tmp_path / "plain" / INDEX)


def pickle_with_enums_by_name(metadata: Metadata) -> bytes:
    from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_MEM_FORMAT_ENCODING, "__reduce_ex__", lambda self, _: (getattr, (type(self), self.name)))
        return pickle.dumps(metadata)


def test_real_checkpoints_are_loaded_as_before(folder: Path, tmp_path: Path) -> None:
    found, reader = state(0.0), SafeFileSystemReader(folder / "step-5")
    load_into(found, reader, no_dist=True)
    assert str(found) == str(state(5.0))
    (folder / "step-5" / INDEX).unlink()
    load_into({"norm.weight": torch.zeros(16)}, reader, no_dist=True)  # read once a reader
    dcp.save(state(7.0), checkpoint_id=str(tmp_path / "step-7"))
    write_marker(tmp_path / "step-7")
    assert verify(tmp_path / "step-7", checksums=True).is_sound
    start_training(tmp_path / "step-7", found)
    assert str(found) == str(state(7.0))
