"""What is worked out from a store once: made by one process, found again by others, made again when damaged."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from titan_speech.errors import DataError
from titan_speech.store.derived_cache import derived_array, derived_folder, key_of

ARRAY = np.arange(1_000, dtype=np.int32)


def never() -> np.ndarray:
    raise AssertionError("made again")


@pytest.mark.parametrize("array", [ARRAY, ARRAY.reshape(-1, 4).astype(np.int64), ARRAY[:0]])
def test_an_array_is_made_once_and_found_again_as_it_was(tmp_path: Path, array: np.ndarray) -> None:
    made = derived_array(tmp_path / "d", "key", lambda: array)
    found = derived_array(tmp_path / "d", "key", never)
    for some in (made, found):
        assert some.dtype == array.dtype
        assert some.tolist() == array.tolist()
    assert derived_array(tmp_path / "d", "other", lambda: array[::2]).tolist() == array[::2].tolist()


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_file_is_made_anew(tmp_path: Path, damage: str) -> None:
    derived_array(tmp_path, "key", lambda: ARRAY)
    file = tmp_path / "key.array"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes({"flip": bytes(data), "cut": data[:-8], "empty": b""}[damage])
    assert derived_array(tmp_path, "key", lambda: ARRAY + 1).tolist() == (ARRAY + 1).tolist()
    assert derived_array(tmp_path, "key", never).tolist() == (ARRAY + 1).tolist()


def test_a_change_of_an_array_stays_in_its_process(tmp_path: Path) -> None:
    derived_array(tmp_path, "key", lambda: ARRAY)[0] = 77
    assert derived_array(tmp_path, "key", never)[0] == 0


def test_what_cannot_be_made_leaves_nothing_and_what_cannot_be_kept_is_made_each_time(tmp_path: Path) -> None:
    def fail() -> np.ndarray:
        raise DataError("no such column")

    with pytest.raises(DataError, match="no such column"):
        derived_array(tmp_path / "d", "key", fail)
    assert not list((tmp_path / "d").glob("*.array*"))
    (tmp_path / "file").write_text("in the way")
    assert derived_array(tmp_path / "file", "key", lambda: ARRAY) is ARRAY


def _num_made(folder: Path) -> int:
    num_made = 0

    def make() -> np.ndarray:
        nonlocal num_made
        num_made += 1
        return np.arange(300_000)

    assert derived_array(folder, "key", make).sum() == sum(range(300_000))
    return num_made


def test_of_several_processes_one_makes_it(tmp_path: Path) -> None:
    with ProcessPoolExecutor(3, get_context("fork")) as pool:
        assert sum(pool.map(_num_made, [tmp_path] * 12)) == 1


def test_arrays_lie_beside_a_store_or_in_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TITAN_SPEECH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "store").mkdir()
    assert derived_folder(tmp_path / "store") == tmp_path / "store.derived"
    assert derived_folder("s3://bucket/store") == tmp_path / "cache/derived/store"
    assert key_of(1, "a") != key_of(1, "b")
