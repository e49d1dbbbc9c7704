"""Inputs that are small and stand for much: each is a bad sample or a refused file, and memory stays bounded."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import tarfile
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.store_samples import CODEC, write_tokenizer
from titan_speech.codec.wav import TooLongError, read_resampled, wav_bytes
from titan_speech.errors import CodecError, DataError
from titan_speech.importers import limits as limits_module
from titan_speech.importers.base import BadSample, ImportOptions, Sample, open_importer
from titan_speech.importers.build import REPORT_NAME, BuildRequest, build_store
from titan_speech.importers.limits import ImportLimits
from titan_speech.importers.npy import array_of_bytes, mapped_npy
from titan_speech.importers.text_lines import raw_lines

MB = 1 << 20
SMALL = ImportLimits(max_member_bytes=MB, max_line_bytes=MB // 8, max_sample_sec=60)


@contextmanager
def at_most(num_bytes: int) -> Iterator[None]:
    """What Python and NumPy allocate in the block stays below `num_bytes`."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < num_bytes
    finally:
        tracemalloc.stop()


def samples(name: str, *inputs: Path, **options: object) -> list[Sample]:
    asked = replace(ImportOptions(inputs, "tapes", "en", limits=SMALL), **options)  # type: ignore[arg-type]
    importer = open_importer(name, asked)
    return [sample for unit in importer.units() for sample in importer.samples(unit)]


def kinds(found: list[Sample]) -> list[str]:
    """The problem of each sample; empty for good ones."""
    return [sample.problem.kind if isinstance(sample, BadSample) else "" for sample in found]


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def huge_npy(shape: str = "(800000000000,)", dtype: str = "<i8") -> bytes:
    """A header that announces 6 TB, and 32 bytes of it."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(32)


def write_tar(path: Path, members: dict[str, bytes], end: bytes = b"") -> Path:
    with gzip.open(path, "wb", compresslevel=1) as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        file.write(end)
    return path


CODES = npy(np.arange(50, dtype=np.uint16))


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"a.npy": bytes(64 * MB), "b.npy": CODES}, ["codes refused", ""]),
        ({"a.json": b"[" * MB, "a.npy": CODES, "b.npy": CODES}, ["too large", ""]),
        ({**{f"a.{i}": bytes(MB) for i in range(40)}, "a.npy": CODES, "b.npy": CODES}, ["codes refused", ""]),
        ({"a.npy": CODES, "a.mp4": bytes(32 * MB), "b.npy": CODES}, ["", ""]),
        ({"a.npy": huge_npy(), "b.npy": CODES}, ["npy", ""]),
        ({"a.npy": huge_npy(f"({2**40}, {2**40})"), "b.npy": CODES}, ["npy", ""]),
        ({"a.npy": npy(np.zeros(60 * 50 + 1, np.uint16)), "b.npy": CODES}, ["too long", ""]),
    ],
    ids=["member", "json", "all members of a sample", "a member that is not used", "6 TB", "overflow", "61 s"],
)
def test_a_sample_of_a_tar_above_a_limit_is_bad_and_the_others_are_imported(
    tmp_path: Path, members: dict[str, bytes], expected: list[str]
) -> None:
    tar = write_tar(tmp_path / "a.tar.gz", members)
    with at_most(12 * MB):
        assert kinds(samples("webdataset", tar)) == expected


def test_zeros_after_the_end_of_a_tar_are_not_in_memory(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar.gz", {"a.npy": CODES}, end=bytes(64 * MB))
    with at_most(12 * MB):
        assert kinds(samples("webdataset", tar)) == [""]


@pytest.mark.parametrize("kind", [b"x", b"L", b"K", b"0"])
def test_a_tar_header_that_announces_more_than_it_may_is_refused(tmp_path: Path, kind: bytes) -> None:
    """Names and extended attributes are read by tarfile itself; and a size may be negative."""
    info = tarfile.TarInfo("a")
    info.type, info.size = kind, -512 if kind == b"0" else 64 * MB
    path = tmp_path / "a.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT) + b"1" * 64 * MB)
    with at_most(12 * MB), pytest.raises(DataError, match=r"a\.tar\.gz is (damaged|not a tar)"):
        samples("webdataset", path)


def test_numpy_headers_are_compared_with_the_bytes_that_are_there(tmp_path: Path) -> None:
    for array in (np.arange(6, dtype=">i4").reshape(2, 3), np.asfortranarray(np.eye(3)), np.empty(0, np.uint16)):
        (tmp_path / "a.npy").write_bytes(npy(array))
        for found in (array_of_bytes(npy(array)), mapped_npy(tmp_path / "a.npy")):
            assert found.dtype == array.dtype
            assert np.array_equal(found, array)
    for bad in (huge_npy(), huge_npy("(-1,)"), huge_npy(dtype="|O"), b"\x93NUMPY\x02\x00\xff\xff\xff\xff", b""):
        (tmp_path / "a.npy").write_bytes(bad)
        with pytest.raises(ValueError, match=r"."):
            array_of_bytes(bad)
        with pytest.raises(ValueError, match=r"."):
            mapped_npy(tmp_path / "a.npy")


def test_a_declared_array_of_6_tb_is_a_bad_sample_of_jsonl(tmp_path: Path) -> None:
    (tmp_path / "huge.npy").write_bytes(huge_npy())
    (tmp_path / "good.npy").write_bytes(CODES)
    lines = [{"sample_id": name, "codes": f"{name}.npy"} for name in ("huge", "good")]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert kinds(samples("jsonl", tmp_path / "a.jsonl")) == ["array", ""]


def test_a_sparse_array_of_a_terabyte_is_a_sample_that_is_too_long(tmp_path: Path) -> None:
    """The file is as long as its header says, and takes no space."""
    with open(tmp_path / "a.npy", "wb") as file:
        file.write(huge_npy(f"({1 << 36},)", ">i8"))
        file.truncate(128 + (8 << 36))
    (tmp_path / "a.jsonl").write_text('{"sample_id": "a", "codes": "a.npy"}\n')
    with at_most(40 * MB):
        assert kinds(samples("jsonl", tmp_path / "a.jsonl")) == ["too long"]


def test_declared_arrays_of_memmap_formats_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train_codes.npy").write_bytes(bytes(400))
    (tmp_path / "train_codes_index.npy").write_bytes(huge_npy())
    (tmp_path / "train_samples.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"train_codes_index.npy is not a .npy array \(shape"):
        samples("inworld", tmp_path)
    (tmp_path / "train_input_ids.memmap").write_bytes(bytes(400))
    (tmp_path / "train_input_ids_shape.npy").write_bytes(huge_npy())
    with pytest.raises(DataError, match=r"train_input_ids_shape.npy.* cannot be read \(shape"):
        samples("llasa", tmp_path, llasa_tokenizer=tmp_path)


LINES = {
    "long": b'{"sample_id": "a", "codes": [' + b"1, " * (16 * MB) + b"1]}",
    "text in codes": json.dumps({"sample_id": "a", "codes": ["x" * 50_000, *["y"] * 9_000]}).encode(),
    "nested": b'{"sample_id": "a", "codes": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "61 s": json.dumps({"sample_id": "a", "codes": [1] * (61 * 50)}).encode(),
}


@pytest.mark.parametrize(
    ("line", "kind"),
    [("long", "line too long"), ("text in codes", "codes"), ("nested", "not JSON"), ("61 s", "too long")],
)
def test_a_line_above_a_limit_is_a_bad_sample_and_the_next_one_is_imported(
    tmp_path: Path, line: str, kind: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINES[line] + b'\n{"sample_id": "b", "codes": [1, 2]}\n')
    with at_most(40 * MB):  # lines are counted in pieces of 16 MB
        assert kinds(samples("jsonl", path)) == [kind, ""]


compress_zstd = partial(pa.compress, codec="zstd", asbytes=True)
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": compress_zstd,
}


@pytest.mark.parametrize("suffix", COMPRESS)
def test_text_lines_of_any_length_stay_within_memory(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(COMPRESS[suffix](b'{"text": "' + b" " * (64 * MB) + b'"}\n{"text": "second"}\n'))
    pool = pa.default_memory_pool()
    before = pool.max_memory()
    with at_most(8 * MB):
        assert kinds(samples("text-jsonl", path)) == ["line too long", ""]
        lines = [line for _, line in raw_lines(path, SMALL)]
    assert pool.max_memory() <= max(before, 4 * MB)  # of pyarrow, which decompresses zstd
    assert lines[1] == b'{"text": "second"}\n'


@pytest.mark.parametrize(
    ("preset", "expected"), [(None, ["document too long"]), ("paragraphs", ["document too long", ""])]
)
def test_a_plain_document_above_the_limit_is_a_bad_one(
    tmp_path: Path, preset: str | None, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits_module, "MAX_DOCUMENT_CHARS", 1000)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"words of a line\n" * 300_000 + b"\nnext\n"))
    with at_most(2 * MB):
        assert kinds(samples("text-plain", tmp_path, preset=preset)) == expected


def flac_of(announced_frames: int, path: Path) -> Path:
    """A FLAC of one second whose header announces more."""
    import soundfile

    soundfile.write(path, np.zeros(16_000), 16_000, format="FLAC")
    data = bytearray(path.read_bytes())
    data[21] = data[21] & 0xF0 | announced_frames >> 32
    data[22:26] = struct.pack(">I", announced_frames & 0xFFFFFFFF)
    path.write_bytes(data)
    return path


def wav_of(announced_frames: int, path: Path) -> Path:
    data = bytearray(wav_bytes(np.zeros(16_000, np.float32)))
    data[40:44] = struct.pack("<I", announced_frames * 2)
    path.write_bytes(data)
    return path


def ogg_of(announced_frames: int, path: Path) -> Path:
    """An Ogg Vorbis file of two minutes whose last page announces another length, with a checksum that fits."""
    import soundfile

    soundfile.write(path, np.zeros(120 * 16_000), 16_000, format="OGG", subtype="VORBIS")
    data = path.read_bytes()
    page = bytearray(data[(start := data.rfind(b"OggS")) :])
    page[6:14], page[22:26] = struct.pack("<q", announced_frames), bytes(4)
    checksum = 0
    for byte in page:
        checksum ^= byte << 24
        for _ in range(8):
            checksum = checksum << 1 ^ (0x1_04C1_1DB7 if checksum >> 31 else 0)
    page[22:26] = struct.pack("<I", checksum)
    path.write_bytes(data[:start] + page)
    return path


@pytest.mark.parametrize(("write", "num_hours"), [(flac_of, 1000), (wav_of, 30), (ogg_of, 1000)])
@pytest.mark.parametrize("long_audio", ["error", "split"])
def test_audio_whose_header_announces_hours_is_not_decoded(
    tmp_path: Path, write: Callable[[int, Path], Path], num_hours: int, long_audio: str
) -> None:
    path = write(num_hours * 3600 * 16_000, tmp_path / f"a.{write.__name__.removesuffix('_of')}")
    wav_of(16_000, tmp_path / "b.wav")
    with at_most(4 * MB), pytest.raises(TooLongError, match=f"{num_hours * 3600}.0 s long"):
        read_resampled(path)
    found = samples("audio", tmp_path, codec="embedded", long_audio=long_audio)
    assert kinds(found) == ["long", ""]


def test_a_flac_that_announces_nothing_is_told_as_that_and_not_as_one_of_millennia(tmp_path: Path) -> None:
    """As ffmpeg writes it to a pipe."""
    with at_most(4 * MB), pytest.raises(CodecError, match=r"does not say in its header how long it is.*a\.wav"):
        read_resampled(flac_of(0, tmp_path / "a.flac"))


def test_an_ogg_that_announces_less_than_it_holds_is_read_that_far(tmp_path: Path) -> None:
    assert len(read_resampled(ogg_of(8_000, tmp_path / "a.ogg"))[0]) == 8_000


def test_an_hour_at_a_rate_of_500_khz_is_refused_as_too_much_memory(tmp_path: Path) -> None:
    data = bytearray(wav_of(3600 * 500_000, tmp_path / "a.wav").read_bytes())
    data[24:28] = struct.pack("<I", 500_000)
    (tmp_path / "a.wav").write_bytes(data)
    with at_most(4 * MB), pytest.raises(CodecError, match=r"1,800,000,000 samples, more than .*resample it"):
        read_resampled(tmp_path / "a.wav")


def test_a_wav_at_0_hz_is_refused(tmp_path: Path) -> None:
    data = bytearray(wav_bytes(np.zeros(16_000, np.float32)))
    data[24:28] = bytes(4)
    (tmp_path / "a.wav").write_bytes(data)
    assert kinds(samples("audio", tmp_path, codec="embedded")) == ["audio"]


def mds_index(**changes: object) -> dict[str, object]:
    """The index of one shard with one column of arrays."""
    raw = {"basename": "shard.00000.mds", "bytes": 6_000_000_000_000, "hashes": {}}
    packed = {"basename": "shard.00000.mds.zstd", "bytes": 20, "hashes": {}}
    names = {
        "column_names": ["sample_id", "codes"],
        "column_encodings": ["str", "ndarray"],
        "column_sizes": [None, None],
    }
    shard = {"format": "mds", "samples": 1, "raw_data": raw, "zip_data": packed, "compression": "zstd", **names}
    return {"version": 2, "shards": [{**shard, **changes}]}


def test_an_mds_shard_of_6_tb_is_refused_before_it_is_decompressed(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text(json.dumps(mds_index()))
    (tmp_path / "shard.00000.mds.zstd").write_bytes(compress_zstd(b""))
    with pytest.raises(DataError, match=r"6,000,000,000,000 bytes by index\.json, more than 1,048,576"):
        samples("mds", tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"column_sizes": ["x", -3]},
        {"samples": "many"},
        {"column_encodings": ["str", 3]},
        {"column_encodings": ["str", "ndarray:object"]},
        {"column_encodings": ["str", "ndarray:uint16:x"]},
        {"raw_data": []},
    ],
)
def test_an_mds_index_of_wrong_types_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    (tmp_path / "index.json").write_text(json.dumps(mds_index(**changes)))
    with pytest.raises(DataError, match=r"index\.json"):
        samples("mds", tmp_path)


def test_parquet_codes_are_counted_by_the_footer_before_they_are_read(tmp_path: Path) -> None:
    codes = pa.ListArray.from_arrays([0, 2_000_000], pa.array(np.zeros(2_000_000, np.uint16)))
    pq.write_table(pa.table({"sample_id": ["a"], "codes": codes}), tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 10_000
    with pytest.raises(DataError, match="row group 0 has 2,000,000 codes in 1 rows, more than 3,000"):
        samples("parquet", tmp_path)


def test_nested_json_is_an_error_everywhere(tmp_path: Path) -> None:
    nested = "[" * 100_000
    (tmp_path / "index.json").write_text(nested)
    with pytest.raises(DataError, match="nested too deeply"):
        samples("mds", tmp_path)
    (tmp_path / "metadata.jsonl").write_text(nested)
    with pytest.raises(DataError, match="is not JSON: maximum recursion"):
        samples("audio", tmp_path / "metadata.jsonl", codec="embedded")
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "x", "meta": nested}) + "\n")
    assert kinds(samples("text-jsonl", tmp_path / "a.jsonl")) == ["meta"]


def test_a_csv_field_above_its_limit_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text(f'file_name,text\n"{"x" * 200_000}",b\n')
    with pytest.raises(DataError, match="field larger than field limit"):
        samples("audio", tmp_path, codec="embedded")


def test_a_build_counts_what_is_too_long_and_skips_it(tmp_path: Path) -> None:
    lines = [{"sample_id": str(i), "codes": [1] * (3001 if i == 2 else 60)} for i in range(4)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = ImportOptions((tmp_path / "a.jsonl",), "tapes", "en", limits=SMALL)
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    request = BuildRequest("jsonl", options, tmp_path / "store", tokenizer, "small", "CC0-1.0", CODEC)
    with pytest.raises(DataError, match=r"sample '2' of .*3,001 codes, 60 s of speech, more than 60 s"):
        build_store(request)
    assert build_store(replace(request, skip_bad=True)).num_samples == 3
    report = json.loads((tmp_path / "store" / REPORT_NAME).read_text())
    assert report["dropped"]["too long"]["count"] == 1


def test_memory_that_runs_out_is_the_problem_of_a_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_out(*_: object) -> None:
        raise MemoryError("of 6 TB")

    (tmp_path / "a.jsonl").write_text('{"sample_id": "a", "codes": [1]}\n')
    monkeypatch.setattr("titan_speech.importers.build_workers.check_codes_length", run_out)
    options = ImportOptions((tmp_path / "a.jsonl",), "tapes", "en")
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    with pytest.raises(DataError, match=r"a\.jsonl.*memory ran out"):
        build_store(BuildRequest("jsonl", options, tmp_path / "store", tokenizer, "small", "CC0-1.0", CODEC))


def test_a_header_that_numpy_cannot_parse_is_no_array(tmp_path: Path) -> None:
    """Python's own tokenizer reads it, and has errors of its own."""
    for header in (b"{'shape': (", b"[[[[", b"{'descr': '<u2', 'fortran_order': False, 'shape': (1e400,)}", b"\xff"):
        data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
        with pytest.raises(ValueError, match=r"."):
            array_of_bytes(data)


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_a_pipe_in_the_place_of_a_recording_is_not_opened(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    writer = os.open(tmp_path / name, os.O_RDWR)  # a reader that opens it finds an end, and the test another message
    threading.Timer(2, os.close, (writer,)).start()
    with pytest.raises(CodecError, match="is not a regular file"):
        read_resampled(tmp_path / name)


@pytest.mark.parametrize("num_bytes", [44 + 1001, 30, 60])
def test_a_wav_cut_anywhere_is_a_bad_sample(tmp_path: Path, num_bytes: int) -> None:
    data = bytearray(wav_bytes(np.zeros(16_000, np.float32)))
    if num_bytes == 60:
        data[16:20] = struct.pack("<I", 0x7FFFFFFF)  # a chunk that ends beyond the file
    (tmp_path / "a.wav").write_bytes(data[:num_bytes])
    assert kinds(samples("audio", tmp_path, codec="embedded")) == ["audio"]


def test_parquet_names_that_are_not_utf_8_are_an_error(tmp_path: Path) -> None:
    pq.write_table(pa.table({"sample_id": ["a"], "codes": [[1]]}), tmp_path / "a.parquet", store_schema=False)
    data = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(data.replace(b"sample_id", b"sample_\xe8d"))
    with pytest.raises(DataError, match=r"a\.parquet"):
        samples("parquet", tmp_path)


def test_a_transcript_that_is_a_link_to_elsewhere_is_refused(tmp_path: Path) -> None:
    """Such a link would bring a file of this user into a store that is given away."""
    (tmp_path / "secret").write_text("key")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.wav").write_bytes(wav_bytes(np.zeros(16_000, np.float32)))
    (tmp_path / "in" / "a.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match=r"a\.txt is outside .*--files-from"):
        samples("audio", tmp_path / "in", codec="embedded")
    assert kinds(samples("audio", tmp_path / "in", codec="embedded", files_from=(tmp_path,))) == [""]
