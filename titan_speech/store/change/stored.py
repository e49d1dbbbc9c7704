"""Shards of existing stores as runs of a store to be: what merging, migrating and cutting a gold pack share.

In: a store, and for each shard which samples are kept or what changes in them. Out: runs (write/runs.py), which are cut
into shards as those of a build are. Every file is checked against its sha256 before it is read. Memory: one shard with
its rows for each worker (400 MB at 128 MB a shard).

Shapes: N samples of a shard.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from titan_speech.store.files import StoreFiles
from titan_speech.store.manifest import PartInfo, ShardInfo
from titan_speech.store.samples import ROW_SCHEMA
from titan_speech.store.shards import TOKENS, PartKey, suffix_of
from titan_speech.store.write.keys import order_keys
from titan_speech.store.write.runs import Ragged, Run, dtype_of, write_run


@dataclass(frozen=True)
class StoredShard:
    """Samples of one shard in memory: rows with every column there is, tokens, and ids of each variant."""

    key: PartKey
    rows: pa.Table
    data: dict[str, Ragged]

    def taken(self, index_N: NDArray[np.int64]) -> StoredShard:
        """Some of the samples."""
        rows = self.rows.take(pa.array(index_N))
        return replace(self, rows=rows, data={name: ragged.take(index_N) for name, ragged in self.data.items()})

    def write_run(self, folder: Path, name: str, seed: int, unit: str) -> Run:
        """As a run in the order of `seed`; variants no sample has are left out."""
        keys_N = order_keys(self.rows["sample_id"], seed)
        data = {name: ragged for name, ragged in self.data.items() if name == TOKENS or len(ragged.data_T)}
        run = write_run(folder / self.key.folder, name, self.key, self.rows, keys_N, data)
        return replace(run, unit=unit)


def read_shard(files: StoreFiles, part: PartInfo, shard: ShardInfo) -> StoredShard:
    key = PartKey(part.dataset_source, part.language, part.kind)
    files.check(shard.file("parquet"))
    rows = _all_columns(pq.read_table(files.sidecar(shard.file("parquet")), use_threads=False))
    data = {}
    for name in (TOKENS, *(variant.name for variant in part.variants)):
        array = files.array(shard.file(suffix_of(name)), dtype_of(name, part.kind))
        lengths_N = rows["code_len" if name == TOKENS else f"text_len_{name}"].to_numpy()
        data[name] = Ragged(array, lengths_N)
    return StoredShard(key, rows, data)


def _all_columns(table: pa.Table) -> pa.Table:
    """Columns a sidecar leaves out are 0 where they count tokens and null elsewhere."""
    columns = []
    for field in ROW_SCHEMA:
        if field.name in table.column_names:
            columns.append(table[field.name])
        elif field.name.startswith("text_len_"):
            columns.append(pa.array(np.zeros(table.num_rows, np.int32)))
        else:
            columns.append(pa.nulls(table.num_rows, field.type))
    return pa.Table.from_arrays(columns, schema=ROW_SCHEMA)
