"""Tars that the webdataset library wrote come back; truncated, foreign and unusable ones are named."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds

from tests.support.import_samples import imported, opened
from tests.support.store_samples import CODEC, SENTENCES, speech_codes, write_tokenizer
from titan_speech.errors import DataError
from titan_speech.importers.base import BadSample, SpeechSample
from titan_speech.store.reader import open_store
from titan_speech.store.writer import StoreWriter
from titan_speech.tokenization.text_tokenizer import TextTokenizer


def fields(i: int) -> dict[str, object]:
    return {
        "lang": "hi" if i % 2 else "en",
        "spk": f"s{i % 3}",
        "begin": i * 2.5,
        "end": i * 2.5 + 1,
        "text": SENTENCES[i % 5],
    }


COLUMNS = {
    "language": "lang",
    "speaker_id": "spk",
    "start_time": "begin",
    "end_time": "end",
    "transcript_native": "text",
}


def write_tar(path: Path, numbers: range, dtype: str = "uint16", shape: tuple[int, ...] = (-1,)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wds.TarWriter(str(path)) as writer:  # type: ignore[attr-defined]
        for i in numbers:
            codes = speech_codes(i).astype(dtype).reshape(shape)
            writer.write({"__key__": f"show.d/clip{i:03d}", "json": fields(i), "npy": codes})
    return path


def write_members(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def npy(codes: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, codes)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["000.tar", "000.tar.gz", "a/b.tgz"])
@pytest.mark.parametrize(("dtype", "shape"), [("uint16", (-1,)), ("int64", (1, 1, -1))])
def test_samples_of_the_library_come_back(tmp_path: Path, name: str, dtype: str, shape: tuple[int, ...]) -> None:
    write_tar(tmp_path / name, range(7), dtype, shape)
    samples = imported("webdataset", tmp_path, columns=COLUMNS, language=None)
    assert list(samples) == [f"show.d/clip{i:03d}" for i in range(7)]
    for i, sample in enumerate(samples.values()):
        assert np.array_equal(sample.codes_T, speech_codes(i))
        assert (sample.info.language, sample.info.speaker_id) == ("hi" if i % 2 else "en", f"s{i % 3}")
        assert (sample.info.start_time, sample.info.end_time) == (i * 2.5, i * 2.5 + 1)
        assert sample.transcripts == {"native": SENTENCES[i % 5]}


def test_a_unit_is_a_tar_and_a_store_is_made_of_them(tmp_path: Path) -> None:
    for part in range(3):
        write_tar(tmp_path / f"in/{part}.tar", range(part * 5, part * 5 + 5))
    source = opened("webdataset", tmp_path / "in", columns=COLUMNS)
    assert [unit.name for unit in source.units()] == ["0.tar", "1.tar", "2.tar"]
    tokenizer = TextTokenizer.load(write_tokenizer(tmp_path / "tokenizer"))
    about = {"name": "w", "codec": CODEC, "tokenizer": tokenizer, "normalization_version": "1", "licence": "CC0-1.0"}
    with StoreWriter(tmp_path / "store", **about) as writer:
        for unit in source.units():
            for sample in source.samples(unit):
                assert isinstance(sample, SpeechSample)
                writer.add_speech(sample.info, sample.codes_T, sample.transcripts)
    assert {part.info.num_samples for part in open_store(tmp_path / "store").parts} == {8, 7}


def test_transcripts_come_from_txt_members_and_codes_from_members_of_other_names(tmp_path: Path) -> None:
    codes = speech_codes(1)
    members = {"k.codes.npy": npy(codes), "k.txt": " नमस्ते \n".encode(), "k.wav": b"RIFF", "__index__.json": b"[1]"}
    write_members(tmp_path / "a.tar", members)
    sample = imported("webdataset", tmp_path / "a.tar", columns={"codes": "codes.npy"})["k"]
    assert np.array_equal(sample.codes_T, codes)
    assert sample.transcripts == {"native": "नमस्ते"}
    write_members(tmp_path / "a.tar", {"k.json": json.dumps({"codes": codes.tolist(), "sample_id": "x"}).encode()})
    assert np.array_equal(imported("webdataset", tmp_path / "a.tar")["x"].codes_T, codes)


def test_raw_codes_need_their_width_and_archives_and_pickles_are_refused(tmp_path: Path) -> None:
    codes = speech_codes(1)
    write_members(tmp_path / "a.tar", {"k.bin": codes.astype("<i4").tobytes(), "l.bin": b""})
    columns = {"codes": "bin"}
    with pytest.raises(DataError, match=r"'k': codes are \d+ bytes of unknown width.*--codes-dtype.*and 1 more"):
        imported("webdataset", tmp_path / "a.tar", columns=columns)
    found = imported("webdataset", tmp_path / "a.tar", columns=columns, codes_dtype="int32")
    assert np.array_equal(found["k"].codes_T, codes)
    for ending, reason in (("npz", "archive of several arrays"), ("pth", "runs the code it contains")):
        write_members(tmp_path / "a.tar", {f"k.{ending}": b"x"})
        with pytest.raises(DataError, match=f"'k': has no 'codes' or 'npy'.*{ending} .*{reason}"):
            imported("webdataset", tmp_path / "a.tar")
        with pytest.raises(DataError, match=f"'k': {ending} .*{reason}"):
            imported("webdataset", tmp_path / "a.tar", columns={"codes": ending})


@pytest.mark.parametrize("zipped", [False, True])
def test_a_tar_truncated_anywhere_is_named_and_never_taken_for_a_short_one(tmp_path: Path, zipped: bool) -> None:
    path = write_tar(tmp_path / ("a.tar.gz" if zipped else "a.tar"), range(3))
    whole = path.read_bytes()
    plain = gzip.decompress(whole) if zipped else whole
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        members = tar.getmembers()
    borders = [member.offset for member in members[1:]] if not zipped else []
    end = members[-1].offset_data + 512
    for length in (
        *borders,
        len(whole) // 3,
        len(whole) // 2,
        *([] if zipped else [end]),
        len(whole) - 9 if zipped else end - 3,
    ):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"a\.tar(\.gz)? is (damaged|not a tar)"):
            imported("webdataset", path, columns=COLUMNS)


def test_a_broken_header_and_a_flipped_bit_under_gzip_are_named(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", range(3))
    whole = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        third = tar.getmembers()[2].offset
    whole[third + 150] ^= 1  # the header's checksum
    path.write_bytes(bytes(whole))
    with pytest.raises(DataError, match=f"is damaged: there is no valid header at byte {third}"):
        imported("webdataset", path, columns=COLUMNS)
    zipped = write_tar(tmp_path / "b.tar.gz", range(3))
    data = bytearray(zipped.read_bytes())
    data[-6] ^= 1  # gzip's sum
    zipped.write_bytes(bytes(data))
    with pytest.raises(DataError, match="is damaged: CRC check failed"):
        imported("webdataset", zipped, columns=COLUMNS)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"k.json": b"{}"}, "'k': has no 'codes' or 'npy' for codes; found __key__"),
        ({"k.json": b"{"}, "member k.json is not JSON"),
        ({"k.json": b"[]"}, "member k.json holds a list"),
        ({"k.npy": b"no"}, "member k.npy is not a .npy array"),
        ({"k.npy": npy(speech_codes(1))[:-3]}, "member k.npy is not a .npy array"),
        ({"k.npy": npy(np.array([{}], dtype=object))}, "member k.npy is not a .npy array: Object arrays cannot be"),
        ({"k.txt": b"\xff", "k.npy": npy(speech_codes(1))}, "member k.txt is not UTF-8"),
        ({"k.npy": npy(speech_codes(1)), "k.json": b'{"npy": 1}'}, "'npy' is both a field of the json and a member"),
        ({"k.npy": npy(speech_codes(1)), "k.json": b'{"speaker_id": [1]}'}, r"speaker_id is \[1\]: expected text"),
        ({"k.npy": npy(speech_codes(1)), "k.json": b'{"start_time": "x"}'}, "start_time is 'x': expected seconds"),
        ({"k.npy": npy(speech_codes(1)), "k.json": b'{"segment_order": 1.5}'}, "is 1.5: expected a whole number"),
        ({"k.json": b'{"codes": [[1], [1, 2]]}'}, "'k': codes are not one row of numbers"),
    ],
)
def test_bad_samples_are_named(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    path = write_members(tmp_path / "a.tar", members)
    with pytest.raises(DataError, match=message):
        imported("webdataset", path)


def test_a_bad_member_affects_only_its_sample(tmp_path: Path) -> None:
    codes = npy(speech_codes(1))
    members = {"a.npy": codes, "b.json": b"{", "b.npy": codes, "c.npy": b"no", "d.npy": codes}
    source = opened("webdataset", write_members(tmp_path / "a.tar", members))
    found = list(source.samples(source.units()[0]))
    assert [one.name for one in found if isinstance(one, BadSample)] == ["b", "c"]
    assert [one.info.sample_id for one in found if isinstance(one, SpeechSample)] == ["a", "d"]


def test_members_of_a_key_that_are_spread_over_the_tar_are_named_with_their_numbers(tmp_path: Path) -> None:
    codes = npy(speech_codes(1))
    path = write_members(tmp_path / "a.tar", {"x/a.json": b"{}", "x/b.json": b"{}", "x/a.npy": codes, "x/b.npy": codes})
    source = opened("webdataset", path)
    with pytest.raises(DataError) as error:
        list(source.samples(source.units()[0]))
    assert (
        "members of key 'x/a' do not follow each other: x/a.json is member 1, x/a.npy is member 3. Write the tar sorted"
    ) in str(error.value)


def test_whole_samples_may_share_a_key_if_their_json_tells_them_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for key, sample_id in (("k", "one"), ("l", "two"), ("k", "three")):
            for name, data in (
                (f"{key}.json", json.dumps({"sample_id": sample_id}).encode()),
                (f"{key}.npy", npy(speech_codes(1))),
            ):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    assert list(imported("webdataset", path)) == ["one", "two", "three"]


def test_language_and_named_columns_must_exist(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", range(3))
    with pytest.raises(DataError, match=r"has no 'language' for language; .*--columns language=lang or .*and 2 more"):
        imported("webdataset", path, language=None)
    with pytest.raises(
        DataError, match=r"a.tar has no column 'speaker', named for speaker_id; found .*spk.*did you mean 'spk'"
    ):
        imported("webdataset", path, columns={"speaker_id": "speaker"})


def test_another_format_under_the_name_of_a_tar_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(b"PAR1" + bytes(600))
    with pytest.raises(DataError, match=r"is not a tar .*looks like a parquet file: try --from parquet"):
        opened("webdataset", path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="is not a tar"):
        opened("webdataset", path)


def test_an_empty_tar_is_accepted_and_a_leading_dot_is_not_part_of_a_key(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    write_members(tmp_path / "a" / "none.tar", {})
    write_members(tmp_path / "a" / "one.tar", members_of("./show/0", speech_codes(0)))
    assert list(imported("webdataset", tmp_path / "a", columns={"language": "lang"})) == ["show/0"]


def test_codes_of_the_other_byte_order_are_the_same_codes(tmp_path: Path) -> None:
    tar = write_members(tmp_path / "a.tar", members_of("0", speech_codes(0).astype(">i4")))
    codes_T = imported("webdataset", tar)["0"].codes_T
    assert codes_T.dtype.isnative
    assert np.array_equal(codes_T, speech_codes(0))


def members_of(key: str, codes_T: np.ndarray) -> dict[str, bytes]:
    buffer = io.BytesIO()
    np.save(buffer, codes_T)
    return {f"{key}.json": b'{"lang": "en"}', f"{key}.npy": buffer.getvalue()}
