"""Documents as views of what they are made of, and the ids of many of them in a few calls.

In: framing, text ids and codes, wherever they lie. Out: `Spliced`, which holds documents of one template without a
copy, and `merged`, the ids of any number of them end to end. A store keeps text in four bytes a token and codes in two,
so the two kinds wait apart until all of a batch are there:

    words     bos ...  text ...  ...          ...     uint32: framing and text, ids already
    codes                             codes           uint16: as the store has them
    lengths   2        12        2    480     1       of the runs, in the order of the document
    is_code   no       no        no   yes     no      the same for all documents of a template

Each kind is joined as bytes and put in its places by one mask. All that happens once for a document is done by lists
over all documents, since a call of a Python function costs as much as copying 500 codes.

Shapes: T tokens of all documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True)
class TokenRuns:
    """Documents of one template as the runs they are made of, none of them copied: views of uint32 and uint16."""

    words: list[memoryview]
    codes: list[memoryview]
    lengths: list[int]
    """Tokens of each run."""
    is_code: bytes
    """For each run of a document 1 if it is the next of `codes`, 0 if it is the next of `words`."""
    num_tokens: list[int]
    """Of each document."""
    num_untrained: list[int]
    """Tokens at the start of each document that are no training targets."""

    def cut(self, document: int, start: int, stop: int) -> None:
        """Leaves tokens [start, stop) of a document; what lies outside is not touched."""
        num_runs, num_codes = len(self.is_code), sum(self.is_code)
        next_run = [document * (num_runs - num_codes), document * num_codes]
        for i, kind in enumerate(self.is_code, document * num_runs):
            runs, length = self.codes if kind else self.words, self.lengths[i]
            run = runs[next_run[kind]][max(start, 0) : max(stop, 0)]
            runs[next_run[kind]], self.lengths[i] = run, len(run)
            next_run[kind] += 1
            start, stop = start - length, stop - length

    def without_first_block(self, document: int, opening: memoryview) -> None:
        """Puts `opening` in place of the first three runs: framing, words and framing that a document goes without."""
        run, word = document * len(self.is_code), document * (len(self.is_code) - sum(self.is_code))
        num_less = sum(self.lengths[run : run + 3]) - len(opening)
        self.words[word : word + 3] = [opening, opening[:0], opening[:0]]
        self.lengths[run : run + 3] = [len(opening), 0, 0]
        self.num_tokens[document] -= num_less
        if self.num_untrained[document] > 1:
            self.num_untrained[document] -= num_less


def merge_runs(
    words: Sequence[memoryview], codes: Sequence[memoryview], lengths: Sequence[int], is_code: bytes, first_code_id: int
) -> NDArray[np.int32]:
    """The ids of runs end to end; `is_code` of all of them."""
    word_ids = np.frombuffer(bytearray().join(words), np.int32)
    if not codes:
        return word_ids
    is_code_T = np.repeat(np.frombuffer(is_code, np.bool_), lengths)
    ids_T = np.empty(len(is_code_T), np.int32)
    ids_T[is_code_T] = np.add(np.frombuffer(b"".join(codes), np.uint16), first_code_id, dtype=np.int32)
    ids_T[~is_code_T] = word_ids
    return ids_T
