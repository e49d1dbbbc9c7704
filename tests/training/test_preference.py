"""reference.parquet: read as it was written, and damage is an error that says what to do."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from titan_speech.errors import CheckpointError
from titan_speech.training.preference import read_reference


def write(path: Path, **changes: pa.Array) -> Path:
    columns = {
        "pairs": pa.array(["", "gold"]).dictionary_encode(),
        "documents": pa.array(["a", "a"]).dictionary_encode(),
        "sample": pa.array([0, 3], pa.int64()),
        "logp": pa.array([-1.5, -2.0], pa.float64()),
    }
    pq.write_table(pa.table({**columns, **changes}), path)
    return path


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    keys, sample_N, logp_N = read_reference(write(tmp_path / "reference.parquet"))
    assert keys == [("", "a"), ("gold", "a")]
    assert (sample_N.tolist(), logp_N.tolist()) == ([0, 3], [-1.5, -2.0])


@pytest.mark.parametrize(
    "changes",
    [
        {"logp": pa.array(["x", "y"])},
        {"sample": pa.array([0, -1])},
        {"sample": pa.array([0, None], pa.int64())},
        {"sample": pa.array([0.5, 1.0])},
    ],
)
def test_columns_of_another_kind_are_refused_with_what_to_do(tmp_path: Path, changes: dict[str, pa.Array]) -> None:
    with pytest.raises(CheckpointError, match=r"cannot be read .* copy it from where the run began"):
        read_reference(write(tmp_path / "reference.parquet", **changes))
