"""What fuzzing found (tests/slow/fuzz.py): records with values of other types, circles, and bytes that make libraries
fail end in an error of this project, never in a traceback or an endless loop."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.slow.fuzz_mutate import VALUES, mutated_json
from tests.support.import_samples import opened
from tests.support.runs import ROOT
from tests.support.store_samples import write_store, write_tokenizer
from titan_speech.checkpoint.provenance import read_provenance
from titan_speech.cli.main import main
from titan_speech.data.phase_files import phase_end
from titan_speech.data.phases import Phase, StreamRecord
from titan_speech.errors import CheckpointError, DataError, ModelError, VocabularyError
from titan_speech.hf.expand import Expansion, read_expansion
from titan_speech.hf.model_card import MAX_CARD_BYTES, ModelRecord, read_card, read_record
from titan_speech.importers.audio_listing import _audio_by_id, _audio_by_path
from titan_speech.importers.base import checked_samples
from titan_speech.model.exported_files import CARD_NAME, EXPANSION_NAME, MODEL_RECORD_NAME
from titan_speech.store.files import mapped_array
from titan_speech.store.manifest import MANIFEST_NAME, content_fingerprint
from titan_speech.store.manifest_reader import read_manifest
from titan_speech.tokenization.text_tokenizer import TextTokenizer
from titan_speech.utils.files import write_atomically

OLD = ROOT / "tests" / "assets" / "revision_3905444.tar.xz"
Change = Callable[[dict], object]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    return write_store(folder / "store", TextTokenizer.load(write_tokenizer(folder / "tokenizer")), num_samples=4)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Phases and provenance of a real run, without its tensors."""
    with tarfile.open(OLD) as archive:
        names = [name for name in archive.getnames() if "data_phases" in name or "provenance" in name]
        archive.extractall(tmp_path, [archive.getmember(name) for name in names], filter="data")
    return tmp_path / "run" / "checkpoint" / "step-2"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(seed="0"), "seed: found '0', expected int"),
        (lambda content: content.update(seed=True), "seed: found True, expected int"),
        (lambda content: content.update(name="\ud800"), "half of a surrogate pair"),
        (lambda content: content.update(licence=[]), r"licence: found \[\], expected str"),
        (lambda content: content["parts"][0].update(num_tokens="1"), r"parts\[0\].num_tokens: found '1', expected int"),
        (lambda content: content["parts"][0].update(duration_sec=None), r"duration_sec: found None, expected float"),
        (lambda content: content["parts"][0]["shards"][0].update(num_samples=[]), r"num_samples: found \[\]"),
        (lambda content: content["parts"].append(content["parts"][0]), "two parts of one name"),
        (lambda content: content["parts"][0]["shards"].append(content["parts"][0]["shards"][0]), "two shards of one"),
        (lambda content: content["parts"][0].update(num_samples=3), "num_samples 3, its shards have"),
        (lambda content: content["parts"][0].update(num_tokens=2**60), "its shards have"),
    ],
)
def test_a_manifest_with_a_value_of_another_type_is_refused(
    store: Path, tmp_path: Path, change: Change, message: str
) -> None:
    content = json.loads((store / MANIFEST_NAME).read_text())
    change(content)
    try:
        content["fingerprint"] = content_fingerprint(content)  # anybody can make one that fits
    except UnicodeEncodeError:
        message = "damaged"
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        read_manifest(tmp_path)


def test_a_store_whose_files_are_of_no_shard_is_not_sound(store: Path, tmp_path: Path) -> None:
    shutil.copytree(store, tmp_path / "store")
    manifest = tmp_path / "store" / MANIFEST_NAME
    content = json.loads(manifest.read_text())
    content["parts"][0]["shards"][0]["name"] = "another"
    content["fingerprint"] = content_fingerprint(content)
    manifest.write_text(json.dumps(content))
    assert main(["store", "verify", str(tmp_path / "store"), "--workers", "1"]) in (1, 2)


def test_a_sidecar_that_fits_its_checksum_and_cannot_be_decoded_is_damage(store: Path, tmp_path: Path) -> None:
    """Totals per task read a column that the comparison of shards does not."""
    shutil.copytree(store, tmp_path / "store")
    manifest = tmp_path / "store" / MANIFEST_NAME
    content = json.loads(manifest.read_text())
    part = next(part for part in content["parts"] if part["kind"] == "speech")
    file = next(file for file in part["shards"][0]["files"] if file["path"].endswith(".parquet"))
    path = tmp_path / "store" / file["path"]
    speakers = pq.ParquetFile(path).metadata.row_group(0)
    chunk = next(one for i in range(speakers.num_columns) if (one := speakers.column(i)).path_in_schema == "speaker_id")
    data = bytearray(path.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data[start : start + 16] = b"\xff" * 16
    path.write_bytes(data)
    file["sha256"] = hashlib.sha256(data).hexdigest()
    content["xxh3_128"].pop(file["path"])
    content["fingerprint"] = content_fingerprint(content)
    manifest.write_text(json.dumps(content))
    assert main(["store", "verify", str(tmp_path / "store"), "--workers", "1"]) == 2


def test_half_a_token_at_the_end_of_a_file_is_damage(tmp_path: Path) -> None:
    (tmp_path / "a.tokens").write_bytes(b"123")
    with pytest.raises(DataError, match="3 bytes, not a multiple of 2"):
        mapped_array(tmp_path / "a.tokens", np.dtype("<u2"))


def test_a_phase_that_is_its_own_predecessor_is_refused(checkpoint: Path) -> None:
    folder = checkpoint.parent / "data_phases"
    path = next(path for path in folder.iterdir() if not path.name.startswith("step"))
    content = json.loads(path.read_text())
    streams = {name: tuple(map(StreamRecord.from_dict, content[name])) for name in ("streams", "retired")}
    phase = Phase(**{**content, **streams, "parent": "a" * 16}).with_fingerprint()
    (folder / f"{'a' * 16}.json").write_text(phase.to_json())
    (folder / "step-2.json").write_text(json.dumps({"step": 2, "phase": "a" * 16}))
    with pytest.raises(CheckpointError, match="is its own predecessor"):
        phase_end(checkpoint)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["tokens"][0].update(num_tokens="many"),
        lambda content: content["tokens"][0].update(more=1),
        lambda content: content.update(stores=3),
        lambda content: content.update(config=None),
    ],
)
def test_provenance_with_a_value_of_another_type_is_refused(checkpoint: Path, change: Change) -> None:
    path = checkpoint.parent / "provenance" / "step-2.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"step-2.json is damaged"):
        read_provenance(checkpoint)


def test_an_array_whose_header_a_library_chokes_on_is_damage(tmp_path: Path) -> None:
    """numpy tokenizes the header: an open bracket raises an error of the standard library's tokenizer."""
    (tmp_path / "train_codes.npy").write_bytes(bytes(8))
    (tmp_path / "train_samples.jsonl").write_text('{"id": "a"}\n')
    header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (1,), '".ljust(117) + b"\n"
    (tmp_path / "train_codes_index.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    words = ["store", "build", "--from", "inworld", "--input", str(tmp_path), "--output", str(tmp_path / "out")]
    words += ["--tokenizer", str(write_tokenizer(tmp_path / "tokenizer")), "--name", "n", "--licence", "CC0-1.0"]
    assert main([*words, "--codec-name", "c", "--codec-hash", "0" * 64, "--workers", "1"]) == 2


def test_whatever_an_importer_raises_names_the_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jsonl").write_text('{"sample_id": "a", "codes": [1]}\n')
    importer = opened("jsonl", tmp_path)

    def choke(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(type(importer), "samples", choke)
    with pytest.raises(DataError, match=r"a\.jsonl.* cannot be read \(MemoryError"):
        list(checked_samples(importer, importer.units()[0]))


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 5000, '"\\ud800"'])
def test_a_setting_beyond_every_parser_is_one_message(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(ROOT / "train_configs" / "demo.toml")
    assert main(["config", "check", "--job.config_file", config, "--data.source", value]) == 2
    assert "data.source" in capsys.readouterr().err


def test_a_tokenizer_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(VocabularyError, match="not UTF-8"):
        TextTokenizer.load(tmp_path)


def test_a_manifest_whose_tasks_name_no_part_of_it_is_damaged(store: Path, tmp_path: Path) -> None:
    content = json.loads((store / MANIFEST_NAME).read_text())
    next(iter(content["totals"]["task"].values()))["parts"]["no.such.part"] = 3
    content["fingerprint"] = content_fingerprint(content)
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"name parts that it does not have: no\.such\.part"):
        read_manifest(tmp_path)


def test_half_a_surrogate_pair_is_written_as_its_escape(tmp_path: Path) -> None:
    write_atomically(tmp_path / "report.json", json.dumps({"id": "a\udc80"}, ensure_ascii=False))
    assert json.loads((tmp_path / "report.json").read_text()) == {"id": "a\udc80"}


def test_a_listing_with_a_name_that_no_file_can_have_says_which(tmp_path: Path) -> None:
    listing, name = tmp_path / "metadata.csv", "a" * 4000
    with pytest.raises(DataError, match=r"line 1: no audio of 'aaa"):
        _audio_by_id(listing, "metadata.csv, line 1", {"id": name})
    with pytest.raises(DataError, match=r"line 1: .*aaa\.\.\. does not exist"):
        _audio_by_path(listing, "metadata.csv, line 1", {"path": name}, None)


@pytest.mark.parametrize("change", [{"step": "1"}, {"step": 10**30}, {"weights": 5}, {"codecs": [5]}, {"codecs": None}])
def test_a_record_of_an_export_with_a_value_of_another_type_is_refused(tmp_path: Path, change: dict) -> None:
    ModelRecord(1, "v", "g", ("c",), "w").write(tmp_path)
    path = tmp_path / MODEL_RECORD_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match="is damaged"):
        read_record(tmp_path)


@pytest.mark.parametrize("change", [{"num_base": "1"}, {"scale": float("nan")}, {"source": "\ud800"}, {"more": 1}])
def test_a_record_of_an_expansion_with_a_value_of_another_type_is_refused(tmp_path: Path, change: dict) -> None:
    Expansion("base", "0" * 64, 400, 66_000, "mean", 1.0, 0, "v").write(tmp_path)
    path = tmp_path / EXPANSION_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match="is not the record of an expansion"):
        read_expansion(tmp_path)


@pytest.mark.parametrize("content", [b"\xff", b"x" * (MAX_CARD_BYTES + 1)])
def test_a_card_that_is_no_text_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / CARD_NAME).write_bytes(content)
    with pytest.raises(ModelError, match=r"README\.md cannot be read"):
        read_card(tmp_path)


def test_a_case_of_the_fuzzer_depends_on_none_before_it() -> None:
    """Else it could not be run again: what one case put into its tree, it changed for all others."""
    before = repr(VALUES)
    for number in range(2000):
        mutated_json(random.Random(number), {"a": [1, {"b": "c"}], "d": {"e": []}})
    assert repr(VALUES) == before
