"""Tables that pyarrow wrote come back, whatever type their codes have; ambiguous, truncated and bad ones are named."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.import_samples import imported, opened
from tests.support.store_samples import SENTENCES, speech_codes
from titan_speech.errors import DataError
from titan_speech.importers import parquet
from titan_speech.importers.base import BadSample, SpeechSample

COLUMNS = {"sample_id": "id", "transcript_native": "text", "segment_order": "n"}


def table(numbers: range, codes: pa.Array | None = None) -> pa.Table:
    if codes is None:
        codes = pa.array([speech_codes(i) for i in numbers], pa.list_(pa.uint16()))
    texts = [SENTENCES[i % 5] if i % 3 else None for i in numbers]
    return pa.table(
        {
            "id": [f"c{i}" for i in numbers],
            "text": texts,
            "n": list(numbers),
            "codes": codes,
            "x": [b"?"] * len(numbers),
        }
    )


def write(path: Path, content: pa.Table, **options: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(content, path, **options)  # type: ignore[arg-type]
    return path


def fixed(i: int) -> np.ndarray:
    return np.arange(i, i + 25, dtype=np.uint16)


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.uint16()),
        pa.list_(pa.int64()),
        pa.large_list(pa.int32()),
        pa.list_(pa.uint16(), 25),
        "u2",
        "i4",
        "large",
    ],
)
def test_codes_come_back_from_lists_fixed_lists_and_bytes(tmp_path: Path, kind: pa.DataType | str) -> None:
    options = {}
    if isinstance(kind, str):
        dtype = "<i4" if kind == "i4" else "<u2"
        type_ = pa.large_binary() if kind == "large" else pa.binary()
        codes = pa.array([fixed(i).astype(dtype).tobytes() for i in range(9)], type_)
        options = {"codes_dtype": "int32" if kind == "i4" else "uint16"}
    else:
        codes = pa.array([fixed(i) for i in range(9)], kind)
    write(tmp_path / "a.parquet", table(range(9), codes))
    samples = imported("parquet", tmp_path, columns=COLUMNS, **options)
    assert list(samples) == [f"c{i}" for i in range(9)]
    for i, sample in enumerate(samples.values()):
        assert np.array_equal(sample.codes_T, fixed(i))
        assert sample.info.segment_order == i
        assert sample.transcripts == ({"native": SENTENCES[i % 5]} if i % 3 else {})


def test_a_large_file_is_several_units_that_together_are_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.parquet", table(range(100)), row_group_size=9)
    whole = imported("parquet", path, columns=COLUMNS)
    monkeypatch.setattr(parquet, "UNIT_BYTES", 1_500)
    units = opened("parquet", path, columns=COLUMNS).units()
    assert len(units) > 3
    assert units[0].start == 0
    assert units[-1].stop == 100
    assert all(one.stop == other.start for one, other in pairwise(units))
    parts = imported("parquet", path, columns=COLUMNS)
    assert list(parts) == list(whole)
    assert all(np.array_equal(parts[key].codes_T, whole[key].codes_T) for key in whole)
    numbered = imported("parquet", path, columns=COLUMNS | {"sample_id": "@row"})
    assert len(numbered) == 100


def test_one_split_of_a_hugging_face_folder_is_read(tmp_path: Path) -> None:
    for number in range(2):
        write(tmp_path / f"hf/data/train-{number:05d}-of-00002.parquet", table(range(number * 5, number * 5 + 5)))
    write(tmp_path / "hf/data/test-00000-of-00001.parquet", table(range(50, 53)))
    with pytest.raises(DataError, match=r"several splits \(test, train\): choose one with --split"):
        opened("parquet", tmp_path / "hf", columns=COLUMNS)
    with pytest.raises(DataError, match="no parquet file of split 'dev'; found test, train"):
        opened("parquet", tmp_path / "hf", columns=COLUMNS, split="dev")
    assert list(imported("parquet", tmp_path / "hf", columns=COLUMNS, split="train")) == [f"c{i}" for i in range(10)]
    assert len(imported("parquet", tmp_path / "hf", columns=COLUMNS, split="test")) == 3


def test_bytes_without_a_width_and_what_cannot_be_codes_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", table(range(3), pa.array([b"ab", b"abc", b"ab"])))
    with pytest.raises(DataError, match="codes in 'codes' are bytes; say of what with --codes-dtype"):
        opened("parquet", path, columns=COLUMNS)
    with pytest.raises(DataError, match="sample 'c1': codes are 3 bytes, not a multiple of the 2 bytes of"):
        imported("parquet", path, columns=COLUMNS, codes_dtype="uint16")
    write(path, table(range(3)))
    with pytest.raises(DataError, match="leave out --codes-dtype"):
        opened("parquet", path, columns=COLUMNS, codes_dtype="uint16")
    write(path, table(range(1), pa.array([[0.5]])))
    with pytest.raises(DataError, match=r"codes in 'codes' are list<.*double>: expected lists of integers"):
        opened("parquet", path, columns=COLUMNS)


def test_rows_without_codes_are_named_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", table(range(4), pa.array([[1, 2], None, [3], None], pa.list_(pa.int32()))))
    with pytest.raises(DataError, match=r"sample 'c1': codes: 'codes' is empty.*and 1 more"):
        imported("parquet", path, columns=COLUMNS)


@pytest.mark.parametrize("kind", [pa.list_(pa.int32()), pa.large_list(pa.int64()), pa.list_(pa.uint16(), 2)])
def test_a_null_among_codes_is_named_by_sample_and_frame_and_the_rest_is_read(
    tmp_path: Path, kind: pa.DataType
) -> None:
    codes = pa.array([[1, 2], [3, None], None, [None, None], [5, 6]], kind)
    path = write(tmp_path / "a.parquet", table(range(5), codes))
    source = opened("parquet", path, columns=COLUMNS)
    found = list(source.samples(source.units()[0]))
    bad = {one.name: (one.problem.kind, one.row) for one in found if isinstance(one, BadSample)}
    assert bad == {"c1": ("null code", 1), "c2": ("no codes", 2), "c3": ("null code", 3)}
    details = [one.problem.detail for one in found if isinstance(one, BadSample)]
    assert "the code at frame 1 is null" in details[0]
    assert "the code at frame 0 is null" in details[2]
    good = [one.codes_T.tolist() for one in found if isinstance(one, SpeechSample)]
    assert good == [[1, 2], [5, 6]]


def test_a_stated_number_of_codes_must_be_theirs(tmp_path: Path) -> None:
    lengths = pa.array([len(speech_codes(0)), 3, None], pa.float64())
    path = write(tmp_path / "a.parquet", table(range(3)).append_column("frames", lengths))
    with pytest.raises(DataError, match=rf"sample 'c1': frames is 3, but there are {len(speech_codes(1))} codes: cut"):
        imported("parquet", path, columns=COLUMNS | {"code_len": "frames"})
    assert len(imported("parquet", path, columns=COLUMNS)) == 3


def test_a_column_missing_in_a_later_file_names_that_file(tmp_path: Path) -> None:
    write(tmp_path / "0.parquet", table(range(3)))
    write(tmp_path / "1.parquet", table(range(3, 6)).drop_columns(["text"]))
    with pytest.raises(
        DataError, match=r"1.parquet has no column 'text', named for transcript_native; found codes, id, n, x"
    ):
        imported("parquet", tmp_path, columns=COLUMNS)


def test_truncated_foreign_and_absent_files_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", table(range(300)))
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(DataError, match=r"a.parquet is not a whole parquet file"):
        opened("parquet", path, columns=COLUMNS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no .parquet file in .*empty, expected for --from parquet"):
        opened("parquet", tmp_path / "empty", columns=COLUMNS)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/data.jsonl").write_text("{}")
    with pytest.raises(DataError, match=r"folder of .jsonl files \(data.jsonl\): try --from jsonl"):
        opened("parquet", tmp_path / "other", columns=COLUMNS)


def test_a_flipped_bit_is_found_in_pages_with_checksums(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", table(range(300)), write_page_checksum=True)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"a.parquet is damaged near row 0"):
        imported("parquet", path, columns=COLUMNS)


def test_a_store_is_not_imported_again() -> None:
    store = Path(__file__).parents[2] / "demo_data"
    with pytest.raises(DataError, match=r"demo_data is a token store, which needs no import: .*store merge"):
        opened("parquet", store)


def test_an_empty_part_file_is_accepted_and_a_repeated_column_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "part-0.parquet", table(range(3)).rename_columns(["id", "text", "n", "vq", "x"]))
    write(tmp_path / "part-1.parquet", table(range(3)).rename_columns(["id", "text", "n", "vq", "x"]).slice(0, 0))
    assert len(imported("parquet", tmp_path, columns={**COLUMNS, "codes": "vq"})) == 3
    twice = write(tmp_path / "b" / "a.parquet", table(range(3)).rename_columns(["id", "text", "n", "codes", "codes"]))
    with pytest.raises(DataError, match=r"a\.parquet has the column 'codes' more than once"):
        opened("parquet", twice, columns=COLUMNS)


def test_absent_files_of_a_split_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (0, 2):
        write(tmp_path / f"train-{number:05d}-of-00003.parquet", table(range(3)))
    opened("parquet", tmp_path, columns=COLUMNS)
    assert "2 of 3 files of train: the first that is absent is 1;" in capsys.readouterr().err
    write(tmp_path / "train-00001-of-00003.parquet", table(range(3)))
    opened("parquet", tmp_path, columns=COLUMNS)
    assert capsys.readouterr().err == ""
