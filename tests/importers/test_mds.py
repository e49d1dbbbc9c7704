"""MDS shards that MosaicML's library wrote (tests/assets/write_mds.py) come back; bad ones are named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.import_samples import imported, opened
from titan_speech.errors import DataError

ASSETS = Path(__file__).parents[1] / "assets"
MDS = ASSETS / "mds"
RAW = {"sample_id": "id", "language": "lang", "transcript_native": "text", "speaker_id": "speaker"}
RAW |= {"segment_order": "order", "start_time": "start"}
TEXTS = ("please hold", "नमस्ते, आप कैसे हैं?", "வணக்கம்")


def codes_of(sample: int) -> np.ndarray:
    """The codes that write_mds.py writes."""
    return (np.arange(40 + sample * 97 % 480) * 104_729 + sample * 7_919) % 65_536


@pytest.fixture(name="raw")
def copy_of_raw(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MDS / "raw", tmp_path / "raw"))


def test_arrays_of_free_dtype_and_all_fields_come_back_from_several_shards() -> None:
    assert len(opened("mds", MDS / "raw", columns=RAW).units()) > 1
    samples = imported("mds", MDS / "raw", columns=RAW, language=None)
    assert list(samples) == [f"clip-{i}" for i in range(12)]
    for i, sample in enumerate(samples.values()):
        assert np.array_equal(sample.codes_T, codes_of(i))
        assert sample.codes_T.dtype == (np.uint16, np.int32, np.int64)[i % 3]
        info = sample.info
        assert (info.language, info.speaker_id, info.segment_order) == ("hi" if i % 2 else "en", str(i % 4), i)
        assert info.start_time == i * 1.5
        assert sample.transcripts == {"native": TEXTS[i % 3]}


@pytest.mark.parametrize(
    ("column", "dtype", "length"),
    [("typed", None, None), ("fixed", None, 24), ("listed", None, 30), ("packed", "uint16", None)],
)
def test_fixed_arrays_lists_and_bytes_come_back_from_compressed_shards(
    column: str, dtype: str | None, length: int | None
) -> None:
    columns = {"sample_id": "id", "codes": column, "sample_rate": "rate"}
    options = {"codes_dtype": dtype} if dtype else {}
    samples = imported("mds", MDS / "zstd", columns=columns, **options)
    assert list(samples) == [str(i) for i in range(6)]
    for i, sample in enumerate(samples.values()):
        assert np.array_equal(sample.codes_T, codes_of(i)[:length])
        assert sample.info.sample_rate == 16_000


def test_splits_are_chosen_by_name_and_units_of_several_inputs_have_distinct_names() -> None:
    columns = {"sample_id": "id"}
    assert len(imported("mds", MDS, columns=columns, split="raw")) == 12
    with pytest.raises(DataError, match="has the splits raw, zstd: choose one with --split"):
        opened("mds", MDS, columns=columns)
    with pytest.raises(DataError, match="has the splits raw, zstd"):
        opened("mds", MDS, columns=columns, split="train")
    names = [
        unit.name
        for unit in opened("mds", MDS / "raw", MDS / "zstd", columns={"codes": "text", "sample_id": "id"}).units()
    ]
    assert names[0] == "raw/shard.00000.mds"
    assert names[-1] == "zstd/shard.00000.mds"


def test_rows_number_the_samples_when_asked() -> None:
    samples = imported("mds", MDS / "raw", columns={"sample_id": "@row"})
    assert list(samples)[:2] == ["shard.00000.mds:0", "shard.00000.mds:1"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, r"has no 'sample_id' for sample_id; found codes, extra, id,.*--columns sample_id=id"),
        ({"sample_id": "id", "codes": "code"}, "has no column 'code', named for codes; .* did you mean 'codes'"),
        ({"sample_id": "id", "code": "codes"}, "names the field 'code': .* did you mean 'codes'"),
        ({"sample_id": "id", "codes": "state"}, "column 'state' is 'pkl', which is not read"),
    ],
)
def test_absent_and_unsafe_columns_are_named(columns: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        opened("mds", MDS / "raw", columns=columns)


def test_bytes_of_unknown_width_and_of_the_wrong_width_are_refused() -> None:
    columns = {"sample_id": "id", "codes": "packed"}
    with pytest.raises(DataError, match=r"codes are \d+ bytes of unknown width: .*--codes-dtype.*and 5 more"):
        imported("mds", MDS / "zstd", columns=columns)
    with pytest.raises(DataError, match="not a multiple of the 8 bytes of"):
        imported("mds", MDS / "zstd", columns=columns, codes_dtype="int64")
    with pytest.raises(DataError, match="'u2': expected one of uint16"):
        opened("mds", MDS / "zstd", columns=columns, codes_dtype="u2")


def test_a_flipped_bit_a_short_file_and_a_lost_shard_are_named(raw: Path) -> None:
    shard = raw / "shard.00001.mds"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
    with pytest.raises(DataError, match=r"shard.00001.mds is damaged: (sha1|xxh64) is"):
        imported("mds", raw, columns=RAW)
    shard.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=r"shard.00001.mds holds \d+ bytes, index.json says"):
        imported("mds", raw, columns=RAW)
    shard.unlink()
    with pytest.raises(DataError, match=r"shard.00001.mds, named in index.json, cannot be read"):
        imported("mds", raw, columns=RAW)


def test_damage_is_found_in_shards_without_checksums(raw: Path) -> None:
    index = json.loads((raw / "index.json").read_text())
    for entry in index["shards"]:
        entry["raw_data"]["hashes"] = {}
    (raw / "index.json").write_text(json.dumps(index))
    shard = raw / "shard.00000.mds"
    whole = shard.read_bytes()
    for start in (0, 4, 12):  # the count, the first offset, another offset
        shard.write_bytes(whole[:start] + b"\xff\xff\xff\x7f" + whole[start + 4 :])
        with pytest.raises(DataError, match=r"shard.00000.mds (is damaged|states)"):
            imported("mds", raw, columns=RAW)


def test_another_format_is_named(tmp_path: Path, raw: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        opened("mds", tmp_path / "absent")
    (tmp_path / "table").mkdir()
    (tmp_path / "table/a.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"has no index.json.*folder of .parquet files .*try --from parquet"):
        opened("mds", tmp_path / "table")
    with pytest.raises(
        DataError, match=r"no .tar or .tar.gz or .tgz file .* looks like MosaicML MDS shards: try --from mds"
    ):
        opened("webdataset", raw)
    (raw / "index.json").write_text('{"version": 3, "shards": []}')
    with pytest.raises(DataError, match="is of version 3: expected 2"):
        opened("mds", raw)
    (raw / "index.json").write_text('{"version": 2, "shards": [{}]}')
    with pytest.raises(DataError, match="is not an index of MDS shards"):
        opened("mds", raw)


@pytest.mark.slow
def test_the_library_still_writes_what_the_tests_read(tmp_path: Path) -> None:
    """Builds an environment of mosaicml-streaming: 1 GB, minutes."""
    python = tmp_path / "mosaic/bin/python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "mosaic")], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "-q", "mosaicml-streaming==0.13.0"], check=True)
    subprocess.run([str(python), str(ASSETS / "write_mds.py"), str(tmp_path / "mds")], check=True)
    columns = {"sample_id": "id"}
    for name, codes in (("raw", "codes"), ("zstd", "typed")):
        asked = columns | {"codes": codes}
        old, new = (imported("mds", folder / name, columns=asked) for folder in (MDS, tmp_path / "mds"))
        assert list(old) == list(new)
        assert all(np.array_equal(old[key].codes_T, new[key].codes_T) for key in old)
