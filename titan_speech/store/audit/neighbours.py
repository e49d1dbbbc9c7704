"""What shows only beside other samples of the part: repeated transcripts and codes, segments in the wrong order.

In: sidecar columns of the chosen shards. Out: for each of their rows how many samples share its transcript and its
codes, and whether its place among the segments of its source contradicts its time. All rows of the chosen shards are
compared, not only the samples drawn: in a draw of 1 in 1,000 hardly any pair would be found. Pairs across shards that
were not chosen stay unseen, so in large parts the shares are lower bounds. 1 M rows take some 3 s.

Shapes: R rows of the chosen shards, K of them with a known place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from titan_speech.store.audit.choose import ChosenPart
from titan_speech.store.manifest import Kind


@dataclass(frozen=True)
class Neighbours:
    """One value a row of the chosen shards, in their order."""

    same_text_R: NDArray[np.int64]
    """Samples with the row's transcript, itself included; 0 without a transcript."""
    same_codes_R: NDArray[np.int64]
    has_order_R: NDArray[np.bool_]
    """Source, order and time are known."""
    contradictions: dict[int, str]
    """What contradicts, by row."""

    def order(self, row: int) -> str | None:
        """None where unknown, "" where order and time agree."""
        return self.contradictions.get(row, "") if self.has_order_R[row] else None


def neighbours(chosen: ChosenPart) -> Neighbours:
    texts = _column(chosen, "transcript_native") if chosen.part.kind is Kind.SPEECH else None
    codes = _column(chosen, "checksum")
    has_order_R, contradictions = _order(chosen, len(codes))
    return Neighbours(
        same_text_R=_num_equal(texts) if texts is not None else np.zeros(len(codes), np.int64),
        same_codes_R=_num_equal(codes),
        has_order_R=has_order_R,
        contradictions=contradictions,
    )


def _column(chosen: ChosenPart, name: str) -> pa.ChunkedArray:
    columns = [chosen.part.shard_column(shard.shard, name) for shard in chosen.shards]
    return pa.chunked_array([chunk for column in columns for chunk in column.chunks], columns[0].type)


def _num_equal(values: pa.ChunkedArray) -> NDArray[np.int64]:
    """How often each row's value occurs; 0 for nulls."""
    indices = values.combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False)
    counts = np.bincount(indices[indices >= 0], minlength=1)
    return np.where(indices >= 0, counts[indices], 0)


def _order(chosen: ChosenPart, num_rows: int) -> tuple[NDArray[np.bool_], dict[int, str]]:
    """Along each source, later segments start later; a segment is compared with the one before it."""
    names = ("source_video_id", "segment_order", "start_time")
    table = pa.table({name: _column(chosen, name) for name in names} | {"row": pa.array(np.arange(num_rows))})
    known = table.drop_null()
    source_K = known["source_video_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    order_K, start_K, row_K = (known[name].to_numpy() for name in ("segment_order", "start_time", "row"))
    along_K = np.lexsort((start_K, order_K, source_K))
    source_K, order_K, start_K, row_K = (array[along_K] for array in (source_K, order_K, start_K, row_K))
    has_order_R = np.zeros(num_rows, np.bool_)
    has_order_R[row_K] = True
    wrong = (source_K[1:] == source_K[:-1]) & ((order_K[1:] == order_K[:-1]) | (start_K[1:] < start_K[:-1]))
    pairs = [(i, i + 1) for i in np.flatnonzero(wrong).tolist()]
    return has_order_R, {int(row_K[j]): _contradiction(order_K[[i, j]], start_K[[i, j]]) for i, j in pairs}


def _contradiction(orders: NDArray, starts: NDArray) -> str:
    if orders[0] == orders[1]:
        return f"two segments of its source are number {orders[0]}"
    return f"segment {orders[1]} starts at {starts[1]:g} s, before segment {orders[0]} at {starts[0]:g} s"
