"""Copies of held-out samples under other ids, in stores that a held-out set was not chosen from.

In: a held-out set with its store, and the training stores. Out: nothing, or a DataError with the first copy. Samples of
a set are excluded from training by id, and their duplicates by codes and transcript in the stores it was chosen from. A
store that was added later may have the same recordings under other ids: then a validation scores what was trained on.

Only samples as long as a held-out one are compared, at most 50,000 of each part, evenly chosen; a store that was
imported twice has a copy among them. Stores in folders alone: each sample of object storage would be a request.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from titan_speech.errors import DataError
from titan_speech.store.held_out_set import HeldOutSet
from titan_speech.store.manifest import Kind
from titan_speech.store.reader import Part, Store

MIN_CODES = 50
"""A second: shorter samples may be the same by chance, as synthesized letters are."""
MAX_COMPARED = 50_000
"""Of a part."""


def refuse_copies(path: str, held_out: HeldOutSet, store: Store, training: Sequence[Store]) -> None:
    """Look for the codes of held-out samples in training stores that the set was not chosen from.

    Args:
        path: of the set.
        held_out: the set.
        store: its samples.
        training: stores of the run.

    Raises:
        DataError: a training sample is a copy of a held-out one.
    """
    known = {source.fingerprint for source in held_out.stores}
    others = [
        (other, part)
        for other in training
        if other.fingerprint not in known
        for part in other.parts
        if part.kind is Kind.SPEECH and part.info.fingerprint not in held_out.numbers and part.files.look_ahead is None
    ]
    if not others:
        return
    ids_of = {
        part.codes(number).tobytes(): part.row(number).sample_id
        for part in store.parts
        if part.kind is Kind.SPEECH
        for number in np.flatnonzero(part.code_len_N >= MIN_CODES).tolist()
    }
    excluded = frozenset(held_out.held_out.all)
    for other, part in others:
        for number, held_out_id in _copies(part, ids_of):
            sample_id = part.row(number).sample_id
            if sample_id not in excluded:
                raise DataError(
                    f"held_out {path} overlaps the training data: sample {sample_id} of {other.path} is a copy of its "
                    f"sample {held_out_id}, with the same {int(part.code_len_N[number]):,} codes. The set was not "
                    "chosen from that store, so copies in it are not excluded: make the set from all stores of the run "
                    "(titan-speech store held-out), or leave that store out"
                )


def _copies(part: Part, ids_of: dict[bytes, str]) -> Iterator[tuple[int, str]]:
    """Numbers of samples of a part, and the ids of the held-out samples with the same codes."""
    lengths = sorted({len(codes) // 2 for codes in ids_of})  # a code has two bytes
    numbers = np.flatnonzero(np.isin(part.code_len_N, lengths))
    step = max(1, -(-len(numbers) // MAX_COMPARED))
    for number in numbers[::step].tolist():
        if held_out_id := ids_of.get(part.codes(number).tobytes()):
            yield number, held_out_id
