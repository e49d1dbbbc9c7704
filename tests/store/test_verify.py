"""Describing and verifying stores: every total shown, every kind of damage named by file."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash

from tests.support.preference_samples import write_pairs
from tests.support.store_samples import CODEC, NUM_SAMPLES, info, manifest_content
from titan_speech.cli.main import main
from titan_speech.store.describe import describe_store, describe_store_json
from titan_speech.store.external_sort import checksums, order_keys
from titan_speech.store.files import LocalFiles
from titan_speech.store.manifest import FileInfo, content_fingerprint
from titan_speech.store.manifest_reader import read_manifest
from titan_speech.store.reader import open_store
from titan_speech.store.tasks import count_tasks
from titan_speech.store.verify import verify_store
from titan_speech.store.writer import StoreWriter
from titan_speech.tokenization.text_tokenizer import TextTokenizer

DEMO = Path(__file__).parents[2] / "demo_data"


def problems(path: Path, quick: bool = False) -> str:
    found = verify_store(path, num_workers=2, quick=quick).problems
    assert found
    return "\n".join(found)


def flip_bit(file: Path, byte: int) -> None:
    data = bytearray(file.read_bytes())
    data[byte] ^= 1
    file.write_bytes(data)


def reseal(path: Path, change: Callable[[dict], None]) -> None:
    """Edits a manifest as another program might have written it."""
    content = manifest_content(path)
    change(content)
    content["fingerprint"] = content_fingerprint(content)
    (path / "manifest.json").write_text(json.dumps(content))


def rewrite_sidecar(path: Path, name: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Another sidecar, and a manifest that knows its hash."""
    pq.write_table(change(pq.read_table(path / name)), path / name, write_page_checksum=True)
    new = FileInfo(name, (path / name).stat().st_size, hashlib.sha256((path / name).read_bytes()).hexdigest())

    def update(content: dict) -> None:
        for part in content["parts"]:
            for file in (file for shard in part["shards"] for file in shard["files"]):
                if file["path"] == name:
                    file.update(vars(new))

    reseal(path, update)


# Describe


def test_describe_shows_every_part_total_and_fingerprint(pristine: Path, tokenizer: TextTokenizer) -> None:
    text = describe_store(pristine)
    store = open_store(pristine)
    for expected in (store.fingerprint, tokenizer.fingerprint, CODEC.hash, "CC0-1.0", "description: 20 samples"):
        assert expected in text
    for part in store.parts:
        assert f"{part.name}: {part.num_samples:,} samples, {part.num_tokens:,} tokens" in text
        assert part.info.fingerprint in text
    assert len({part.info.fingerprint for part in store.parts}) == len(store.parts)


def test_describe_as_json_is_the_manifest_with_part_fingerprints_and_no_files(
    pristine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["store", "describe", str(pristine), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["fingerprint"] == open_store(pristine).fingerprint
    assert content["totals"]["all"]["num_samples"] == 4 * NUM_SAMPLES
    assert {part["name"]: part["num_samples"] for part in content["parts"]}["wiki.en.text"] == NUM_SAMPLES
    assert all(len(part["fingerprint"]) == 16 and "shards" not in part for part in content["parts"])


def test_totals_say_how_many_samples_each_task_can_read(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    """Two speakers with two and one transcribed segments, one without a name, one segment of a single code."""
    path = tmp_path / "tasks"
    with StoreWriter(
        path, name="t", codec=CODEC, tokenizer=tokenizer, normalization_version="1", licence="CC0-1.0", shard_bytes=20
    ) as writer:
        for i, speaker in enumerate(["a", "b", "a", None, None]):
            sample = info(f"s{i}")
            object.__setattr__(sample, "speaker_id", speaker)
            writer.add_speech(sample, np.arange(1 if i == 1 else 9), {"romanized": f"word {i}"})
        writer.add_speech(info("silent"), [1, 2, 3])
        writer.add_text(info("wiki"), "text")
        writer.add_text(info("chat"), "answer", user="question")
    expected = {"speech": 6, "continuation": 5, "tts": 5, "clone": 2, "text": 1, "instruction": 1}
    tasks = manifest_content(path)["totals"]["task"]
    assert {task: of["num_samples"] for task, of in tasks.items()} == expected
    assert tasks["clone"]["parts"] == {"prompts.en.speech": 2}
    assert json.loads(describe_store_json(path))["totals"]["task"] == expected
    assert verify_store(path).is_sound


def test_a_manifest_written_before_totals_per_task_reads_the_same_and_is_counted_anew() -> None:
    manifest = read_manifest(DEMO)
    assert manifest.tasks is None
    assert manifest.fingerprint == "b17864189cdf6f7a"
    counts = {
        (totals.part, totals.task): totals.num_samples for totals in count_tasks(LocalFiles(DEMO), manifest.parts)
    }
    for part in open_store(DEMO).parts:
        for variant in part.info.variants:
            if variant.name == "native":
                assert counts[part.name, "tts"] == variant.num_samples
    assert "samples by task" in describe_store(DEMO)


def test_pairs_are_counted_and_a_store_of_before_that_does_not_count_them_is_sound(tmp_path: Path) -> None:
    path = write_pairs(tmp_path / "pairs", num_pairs=6, single=True)
    counts = {(totals.part, totals.task): totals.num_samples for totals in read_manifest(path).tasks or ()}
    assert counts["pairs.en.speech", "preference"] == 2 * 4  # the answer that is alone is not one of them
    assert counts["pairs.hi.speech", "preference"] == 2 * 2
    assert verify_store(path).is_sound
    assert "preference" in describe_store(path)
    reseal(path, lambda content: content["totals"]["task"].pop("preference"))
    assert verify_store(path).is_sound
    reseal(path, lambda content: content["totals"]["task"].pop("clone", content["totals"]["task"].pop("tts")))
    assert "totals per task" in problems(path)


# Verify


def test_a_sound_store_passes_with_any_number_of_workers(pristine: Path) -> None:
    for workers in (1, 3):
        report = verify_store(pristine, num_workers=workers)
        assert report.is_sound
        assert report.num_samples == 4 * NUM_SAMPLES
    assert verify_store(pristine, quick=True).is_sound
    assert verify_store(DEMO).is_sound  # with a README and a store inside


def test_every_broken_file_is_named_together(store_path: Path) -> None:
    (store_path / "chat.en.text/00000.tokens").unlink()
    flip_bit(store_path / "wild.hi.speech/00001.tokens", 4)
    flip_bit(store_path / "prompts.en.speech/00000.text.romanized", 0)
    flip_bit(store_path / "prompts.en.speech/00001.parquet", 40)
    file = store_path / "wiki.en.text/00000.tokens"
    file.write_bytes(file.read_bytes()[:-4])
    found = problems(store_path)
    for line in (
        "chat.en.text/00000.tokens is missing",
        "wild.hi.speech/00001.tokens is damaged: sha256",
        "wild.hi.speech/00001.tokens: checksum of sample wild-",
        "prompts.en.speech/00000.text.romanized is damaged",
        "prompts.en.speech/00001.parquet is damaged",
        "wiki.en.text/00000.tokens is truncated",
    ):
        assert line in found, line


def test_swapped_files_say_whose_contents_they_hold(store_path: Path) -> None:
    one, other = (store_path / f"wild.hi.speech/0000{i}.parquet" for i in range(2))
    one.rename(store_path / "aside")
    other.rename(one)
    (store_path / "aside").rename(other)
    found = problems(store_path)
    assert "00000.parquet holds the contents of wild.hi.speech/00001.parquet" in found
    assert "00001.parquet holds the contents of wild.hi.speech/00000.parquet" in found


def test_unexpected_files_are_named_and_notes_are_not(store_path: Path, pristine: Path) -> None:
    (store_path / "README.md").write_text("notes")
    shutil.copytree(pristine, store_path / "heldout")
    assert verify_store(store_path).is_sound
    (store_path / "wild.hi.speech/00099.tokens").write_bytes(b"xx")
    (store_path / "wild.hi.speech/notes").write_bytes(b"xx")
    (store_path / "forgotten").mkdir()
    (store_path / "forgotten/00000.parquet").write_bytes(b"xx")
    for quick in (True, False):
        found = problems(store_path, quick)
        for name in ("wild.hi.speech/00099.tokens", "wild.hi.speech/notes", "forgotten/00000.parquet"):
            assert f"{name} is not in the manifest" in found
        assert "README" not in found
        assert "heldout" not in found


def test_quick_compares_sizes_only(store_path: Path) -> None:
    flip_bit(store_path / "wild.hi.speech/00001.tokens", 4)
    assert verify_store(store_path, quick=True).is_sound
    file = store_path / "wild.hi.speech/00000.tokens"
    file.write_bytes(file.read_bytes() + b"xx")
    assert "wild.hi.speech/00000.tokens is too long" in problems(store_path, quick=True)


def test_what_does_not_fit_together_is_found_though_every_file_is_as_written(store_path: Path) -> None:
    reseal(store_path, lambda content: content["codec"].update(hash="another"))
    found = problems(store_path)
    assert f"codec_ckpt_hash {CODEC.hash}, the manifest says another" in found


def test_totals_that_are_not_the_sums_are_found(store_path: Path) -> None:
    content = manifest_content(store_path)
    content["totals"]["language"]["en"]["num_tokens"] += 1
    (store_path / "manifest.json").write_text(json.dumps(content))
    assert "totals are not the sums" in problems(store_path, quick=True)


def test_samples_in_another_order_than_their_seeds_are_found(store_path: Path) -> None:
    reseal(store_path, lambda content: content.update(seed=7))
    assert "are not in the order that seed 7 gives" in problems(store_path)


def test_a_repeated_sample_id_names_both_places(store_path: Path) -> None:
    first = pq.read_table(store_path / "wild.hi.speech/00000.parquet")["sample_id"][0].as_py()

    def repeat(table: pa.Table) -> pa.Table:
        ids = [first, *table["sample_id"].to_pylist()[1:]]
        return table.set_column(table.schema.get_field_index("sample_id"), "sample_id", pa.array(ids))

    rewrite_sidecar(store_path, "wiki.en.text/00000.parquet", repeat)
    found = problems(store_path)
    assert f"sample {first} in wiki.en.text/00000.parquet and wild.hi.speech/00000.parquet" in found


def test_a_sidecar_without_a_column_is_named(store_path: Path) -> None:
    rewrite_sidecar(store_path, "wiki.en.text/00000.parquet", lambda table: table.drop_columns(["checksum"]))
    assert "wiki.en.text/00000.parquet cannot be read as a sidecar" in problems(store_path)


def test_the_command_names_the_file_and_exits_with_1(store_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "verify", str(store_path), "--workers", "2"]) == 0
    flip_bit(store_path / "wild.hi.speech/00001.tokens", 4)
    assert main(["store", "verify", str(store_path), "--quick"]) == 0
    assert main(["store", "verify", str(store_path)]) == 1
    assert "wild.hi.speech/00001.tokens is damaged" in capsys.readouterr().out


def test_hashes_of_many_samples_are_those_of_each() -> None:
    ids = pa.chunked_array([["a", "नमस्ते", ""], pa.array(["x", "b", "cc"])[1:]])
    expected = [xxhash.xxh3_64_intdigest(text.encode(), 5) for text in ids.to_pylist()]
    assert order_keys(ids, 5).tolist() == expected
    data = np.arange(10, dtype="<u2")
    expected = [xxhash.xxh3_64_intdigest(data[a:b].tobytes()) for a, b in ((0, 3), (3, 3), (3, 10))]
    assert checksums(data, np.array([0, 3, 3, 10])).tolist() == expected
