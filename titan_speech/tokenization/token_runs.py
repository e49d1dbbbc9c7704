"""Documents as runs of tokens that stay where they are, and the ids of many documents in a few calls.

In: template tokens, text ids and codes, as views of the store's files. Out: `TokenRuns`, documents of one template
without a copy, and from `merge_runs` the ids of any number of them, one after the other. A store keeps text in four
bytes per token and codes in two, so the two kinds are collected apart until the whole batch is there:

    text      bos ...  text ...  ...          ...     uint32: template tokens and text, which are ids already
    codes                             codes           uint16: as the store has them
    lengths   2        12        2    480     1       of the runs, in the order of the document
    is_code   no       no        no   yes     no      the same for all documents of a template

Each kind is joined as bytes, and one mask puts both in their places: 41 us for 64 documents of 496 tokens. Work per
document is done by list operations over all documents, since one call of a Python function costs as much as copying
500 codes.

Shapes: T tokens of all documents.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from titan_speech.tokenization.vocabulary import code_ids


@dataclass(slots=True)
class TokenRuns:
    """Documents of one template as their runs, none of them copied."""

    text: list[memoryview]
    """uint32 runs: template tokens and text."""
    codes: list[memoryview]
    """uint16 runs."""
    lengths: list[int]
    """Tokens of each run."""
    is_code: bytes
    """For each run of a document 1 if it is the next of `codes`, 0 if it is the next of `text`."""
    num_tokens: list[int]
    """Tokens of each document."""
    num_untrained: list[int]
    """Tokens at the start of each document that are not training targets."""

    def cut(self, windows: Iterable[tuple[int, int, int]]) -> TokenRuns:
        """The documents with some of them shortened.

        Args:
            windows: (document, start, stop): the document keeps its tokens [start, stop). `stop` may be above its
                length; no document comes twice.
        """
        text, codes, lengths = self.text.copy(), self.codes.copy(), self.lengths.copy()
        num_tokens, num_untrained = self.num_tokens.copy(), self.num_untrained.copy()
        num_runs, num_codes = len(self.is_code), sum(self.is_code)
        num_texts = num_runs - num_codes
        for document, start, stop in windows:
            untrained = num_untrained[document] - start
            num_untrained[document] = untrained if untrained > 0 else 0
            next_run = [document * num_texts, document * num_codes]
            total = 0
            for i, kind in enumerate(self.is_code, document * num_runs):
                runs, length, number = codes if kind else text, lengths[i], next_run[kind]
                run = runs[number][start if start > 0 else 0 : stop if stop > 0 else 0]
                runs[number], lengths[i] = run, len(run)
                next_run[kind] = number + 1
                total += len(run)
                start, stop = start - length, stop - length
            num_tokens[document] = total
        return TokenRuns(text, codes, lengths, self.is_code, num_tokens, num_untrained)

    def drop_first_block(self, document: int, opening: memoryview) -> None:
        """Remove the optional first block of a document: `opening` replaces its first three runs.

        Args:
            document: number of the document; its first three runs are template tokens, text and template tokens.
            opening: the first template tokens of a document without the block.
        """
        run, text = document * len(self.is_code), document * (len(self.is_code) - sum(self.is_code))
        num_dropped = sum(self.lengths[run : run + 3]) - len(opening)
        self.text[text : text + 3] = [opening, opening[:0], opening[:0]]
        self.lengths[run : run + 3] = [len(opening), 0, 0]
        self.num_tokens[document] -= num_dropped
        if self.num_untrained[document] > 1:
            self.num_untrained[document] -= num_dropped


def merge_runs(
    text: Sequence[memoryview], codes: Sequence[memoryview], lengths: Sequence[int], is_code: bytes, first_code_id: int
) -> NDArray[np.int32]:
    """The ids of runs, one after the other.

    Args:
        text, codes: the runs of each kind, in order.
        lengths: tokens of all runs, in order.
        is_code: for each of them 1 if it is the next of `codes`, 0 if it is the next of `text`.
        first_code_id: of the vocabulary.
    """
    text_ids = np.frombuffer(bytearray().join(text), np.int32)
    if not codes:
        return text_ids
    is_code_T = np.repeat(np.frombuffer(is_code, np.bool_), lengths)
    ids_T = np.empty(len(is_code_T), np.int32)
    ids_T[is_code_T] = code_ids(np.frombuffer(b"".join(codes), np.uint16), first_code_id)
    ids_T[~is_code_T] = text_ids
    return ids_T
