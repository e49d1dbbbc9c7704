"""Scores of a store's samples, next to its shards: `scores/PART.parquet`, one row per sample in the part's order.

In: columns of numbers by name, as `store score` computes them. Out: the same columns where a source's `where` asks for
them; `duration_sec` and `cps` (characters of the native transcript per second) are computed from the sidecar and need
no file. A file names the fingerprint of the part that it was computed from, so scores of other samples are refused, and
with each column the scorer and its version that computed it: a bound such as `dnsmos >= 3.2` means another share of the
samples under another predictor.
Scores are no part of the store: its manifest and fingerprint stay. They are pushed and pulled with it, and stores that
are made of others (merge, migrate, held-out) have the scores of their samples; a build from the source has none.

Shapes: N samples of a part, M of a part that they come from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from titan_speech.errors import DataError
from titan_speech.store.reader import Part
from titan_speech.tokenization.vocabulary import CODES_PER_SEC
from titan_speech.utils.files import write_atomically

SCORES_DIR = "scores"
COMPUTED_COLUMNS = frozenset(("duration_sec", "cps"))
UNKNOWN_SCORER = "an unknown scorer"
_PART, _SCORER = b"titan_speech.part", b"titan_speech.scorer"


def score_file(part_name: str) -> str:
    """The file of a part's scores, relative to the store."""
    return f"{SCORES_DIR}/{part_name}.parquet"


def write_scores(
    store: Path, part: Part, columns: Mapping[str, NDArray[np.float32]], scorers: Mapping[str, str]
) -> None:
    """Write the scores of a part; NaN is a score that is missing.

    Args:
        store: folder of the store.
        part: whose samples were scored.
        columns: by name.
        scorers: that computed them, with their versions, by the name of the column; unknown ones are left out.

    Raises:
        OSError: the file cannot be written.
    """
    assert all(len(values_N) == part.num_samples for values_N in columns.values())
    fields = [
        pa.field(name, pa.float32(), metadata={_SCORER: scorers[name].encode()} if name in scorers else None)
        for name in columns
    ]
    schema = pa.schema(fields, metadata={_PART: part.info.fingerprint.encode()})
    table = pa.table([pa.array(values_N, pa.float32()) for values_N in columns.values()], schema=schema)
    buffer = BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    write_atomically(store / score_file(part.name), buffer.getvalue())


def read_scores(part: Part) -> dict[str, NDArray[np.float32]]:
    """The scores of a part by name; none without a file.

    Raises:
        DataError: the file is damaged, or is of other samples.
    """
    name = score_file(part.name)
    content = part.files.read(name)
    return {} if content is None else scores_in(content, part, f"{part.place}/{name}")


def scorers_of(part: Part) -> dict[str, str]:
    """The scorer and version of each column of a part's scores, as far as they are known."""
    content = part.files.read(score_file(part.name))
    if content is None:
        return {}
    try:
        schema = pq.read_schema(pa.BufferReader(content))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{part.place}/{score_file(part.name)} is damaged ({error}); score the store again") from error
    named = {field.name: (field.metadata or {}).get(_SCORER, b"") for field in schema}
    return {name: scorer.decode(errors="replace") for name, scorer in named.items() if scorer}


def scores_in(content: bytes, part: Part, place: str) -> dict[str, NDArray[np.float32]]:
    """The scores that a file has.

    Args:
        content: of the file.
        part: that it must be of.
        place: of the file, for messages.

    Raises:
        DataError: the file is damaged, or is of other samples.
    """
    try:
        table = pq.read_table(pa.BufferReader(content))
        columns = {one: table.column(one).to_numpy().astype(np.float32) for one in table.column_names}
    except (pa.ArrowException, ValueError, TypeError, OSError) as error:  # TypeError: columns that hold no numbers
        raise DataError(f"{place} is damaged ({error}); score the store again") from error
    found = (table.schema.metadata or {}).get(_PART, b"").decode(errors="replace")
    if found != part.info.fingerprint or table.num_rows != part.num_samples:
        raise DataError(
            f"{place} has {table.num_rows:,} scores of a part {found!r}, the part here is "
            f"{part.info.fingerprint} with {part.num_samples:,} samples; score the store again"
        )
    return columns


def carry_scores(store: Path, part: Part, origins: Sequence[Part]) -> None:
    """Write the scores of a new part's samples, as the parts that the samples come from have them.

    A sample keeps its scores by its id; columns that only some of the origins have are missing for the others. Nothing
    is written where no origin has scores.

    Args:
        store: folder of the new part.
        part: the new part.
        origins: parts of the same source, language and kind.

    Raises:
        DataError: scores of an origin are damaged or of other samples.
        OSError: the file cannot be written.
    """
    scored = [(one, columns) for one in origins if (columns := read_scores(one))]
    if not scored:
        return
    ids_N = part.column("sample_id").combine_chunks()
    names = dict.fromkeys(name for _, columns in scored for name in columns)
    carried = {name: np.full(part.num_samples, np.nan, np.float32) for name in names}
    scorers: dict[str, dict[str, None]] = {}
    for origin, columns in scored:
        places_N = pc.index_in(ids_N, value_set=origin.column("sample_id").combine_chunks())
        found_N = pc.is_valid(places_N).to_numpy(zero_copy_only=False)
        places_M = pc.drop_null(places_N).to_numpy()
        by = scorers_of(origin)
        for name, values_M in columns.items():
            carried[name][found_N] = values_M[places_M]
            scorers.setdefault(name, {})[by.get(name, UNKNOWN_SCORER)] = None
    write_scores(store, part, carried, {name: " or ".join(found) for name, found in scorers.items()})


def sample_columns(part: Part, names: Iterable[str]) -> dict[str, NDArray[np.float32]]:
    """Columns of a part by name.

    Args:
        part: of speech.
        names: of `COMPUTED_COLUMNS`, or of the part's scores.

    Raises:
        DataError: a column is not there; the message names those that are.
    """
    wanted = set(names)
    scores = read_scores(part) if wanted - COMPUTED_COLUMNS else {}
    if missing := wanted - COMPUTED_COLUMNS - scores.keys():
        known = ", ".join(sorted(COMPUTED_COLUMNS | scores.keys()))
        raise DataError(
            f"part {part.name} of {part.place} has no score {', '.join(sorted(missing))}; it has {known}. "
            "titan-speech store score computes dnsmos, cer and others"
        )
    found = {name: scores[name] for name in wanted if name in scores}
    if wanted & COMPUTED_COLUMNS:
        code_len_N = part.column("code_len").to_numpy()
        seconds_N = (code_len_N / CODES_PER_SEC).astype(np.float32)
        found["duration_sec"] = seconds_N
        text = part.column("transcript_native").cast(pa.string())
        letters_N = pc.utf8_length(text).to_numpy(zero_copy_only=False).astype(np.float32)  # NaN without a transcript
        found["cps"] = letters_N / np.maximum(seconds_N, 1e-6)
    return found
