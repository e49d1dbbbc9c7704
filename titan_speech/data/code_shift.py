"""Whether codes are shifted against those of the held-out sets, as codes that an importer counts from 1 are.

In: the codes that are trained on, as batches have them, and how often the held-out sets have each code. Out: one
sentence per dataset whose codes fit the held-out ones better with a constant added. Nothing is learned: which codes are
frequent is a property of the codec, in any language. Shifted codes train as well as any others; this is seen in the
first batches, before the loss has moved.

A held-out set that was chosen from a shifted store has the same shift, so a dataset is compared with all held-out
samples and with those of the other datasets. Where all data is shifted alike, no count can tell, but the codec can:
audit/reencode.py.

Measured on the bundled data (three seeds, 2,000 codes per dataset), in nats per code that the best shift gains over
none: sound codes -0.21 or less against all held-out ones, -0.06 against those of other datasets; codes shifted by one
0.44 and 0.20 or more. Real XCodec2 codes were not at hand.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from titan_speech.config.schema import SpeechConfig
from titan_speech.config.schema_data import StorageConfig
from titan_speech.data.pack_layout import STREAM_MASK, STREAM_SHIFT
from titan_speech.data.plan import DataPlan
from titan_speech.store.manifest import Kind
from titan_speech.store.reader import Part, open_store
from titan_speech.tokenization.vocabulary import NUM_CODES, Vocabulary

# K codes, C counted codes.

SHIFTS = (*range(-8, 0), *range(1, 9))
MIN_CODES = 2_000
"""Of a dataset, and of the held-out samples; below it nothing is said."""
MIN_GAIN_NATS = 0.15
"""Per code."""
SMOOTHING = 0.1
"""Added to the count of each code."""

Counts = NDArray[np.int64]
"""How often each code occurs, as counts_K."""


def count_codes(codes_C: ArrayLike) -> Counts:
    """How often each code occurs."""
    return np.bincount(np.asarray(codes_C, np.int64), minlength=NUM_CODES).astype(np.int64)


def count_stored_codes(parts: Iterable[Part], samples_per_part: int | None = None) -> Counts:
    """Codes of stored samples.

    Args:
        parts: of one or several stores.
        samples_per_part: how many are read, evenly over the part; None: all.
    """
    counts_K = count_codes([])
    for part in parts:
        if part.kind is Kind.SPEECH and part.num_samples:
            number = min(samples_per_part or part.num_samples, part.num_samples)
            chosen = np.linspace(0, part.num_samples - 1, number).astype(np.int64).tolist()
            counts_K += count_codes(np.concatenate([part.codes(i) for i in chosen]))
    return counts_K


@dataclass(frozen=True)
class HeldOutCodes:
    """Codes of the held-out sets by dataset."""

    by_dataset: Mapping[str, Counts]

    @classmethod
    def read(cls, places: Sequence[str], storage: StorageConfig) -> HeldOutCodes:
        """All speech of held-out sets."""
        found = defaultdict[str, Counts](lambda: count_codes([]))
        for part in (part for place in places for part in open_store(place, storage).parts):
            found[part.dataset_source] += count_stored_codes([part])
        return cls(dict(found))

    def compare(self, counts_K: Counts, datasets: frozenset[str]) -> str:
        """Compare codes of some datasets with all held-out ones, and with those of other datasets.

        Returns:
            What is shifted by how much; empty where nothing is, or where there are too few codes to say.
        """
        others_K = self._sum(name for name in self.by_dataset if name not in datasets)
        return shift_found(counts_K, self._sum(self.by_dataset)) or shift_found(counts_K, others_K)

    def _sum(self, datasets: Iterable[str]) -> Counts:
        return sum((self.by_dataset[name] for name in datasets), count_codes([]))


def shift_found(counts_K: Counts, held_out_K: Counts) -> str:
    """Compare codes with held-out ones.

    Args:
        counts_K: of what is trained on.
        held_out_K: of the held-out sets.

    Returns:
        What is shifted by how much; empty where nothing is, or where there are too few codes to say.
    """
    if min(counts_K.sum(), held_out_K.sum()) < MIN_CODES:
        return ""
    log_p_K = np.log(held_out_K + SMOOTHING)
    gains = {shift: _gain(counts_K, log_p_K, -shift) for shift in SHIFTS}
    shift = max(gains, key=gains.__getitem__)
    once_K = np.minimum(counts_K, 1)  # a hum that the held-out samples lack is one code of many, however long
    if gains[shift] < MIN_GAIN_NATS or _gain(once_K, log_p_K, -shift) <= 0:
        return ""
    return (
        f"they are shifted by {shift:+} against held-out ones: {int(counts_K.sum()):,} codes fit {gains[shift]:.2f} "
        f"nats per code better with {-shift:+}. One of the two was imported wrongly, as codes that count from 1 are: "
        "listen to both (titan-speech store audit), and build the wrong one again"
    )


def _gain(counts_K: Counts, log_p_K: NDArray[np.float64], added: int) -> float:
    """Nats per code by which codes plus a constant fit better than codes as they are."""
    return _mean_log_p(counts_K, log_p_K, added) - _mean_log_p(counts_K, log_p_K, 0)


def _mean_log_p(counts_K: Counts, log_p_K: NDArray[np.float64], added: int) -> float:
    """Of the codes plus a constant; codes that leave the codebook are left out."""
    first, last = max(0, -added), NUM_CODES - max(0, added)
    kept_K = counts_K[first:last]
    return float(kept_K @ log_p_K[first + added : last + added] / max(kept_K.sum(), 1))


class CodeShiftCheck:
    """Counts the codes of each dataset in the first batches of a start, and judges each once."""

    def __init__(self, held_out: HeldOutCodes, datasets_S: Sequence[frozenset[str]], vocabulary: Vocabulary) -> None:
        """Args:
        held_out: codes to compare with.
        datasets_S: of each stream; empty for text. Streams of the same datasets are judged together.
        vocabulary: of the run.
        """
        self._held_out, self._datasets_S, self._vocabulary = held_out, datasets_S, vocabulary
        self._counts = {datasets: count_codes([]) for datasets in datasets_S if datasets}
        """Of what is not judged yet."""

    def findings(self, ids_BL: torch.Tensor, labels_BL: torch.Tensor) -> Iterator[tuple[str, str]]:
        """Add a batch as the loader yields it; datasets that have enough codes by now, and what is found in them."""
        if not self._counts:
            return
        for ids_L, label in zip(ids_BL.numpy(), labels_BL.amax(dim=1).numpy().tolist(), strict=True):
            datasets = self._datasets_S[label >> STREAM_SHIFT & STREAM_MASK] if label >= 0 else frozenset()
            if datasets in self._counts:
                codes_C = self._vocabulary.ids_to_codes(ids_L[self._vocabulary.is_code(ids_L)])
                self._counts[datasets] += count_codes(codes_C)
        for datasets in [datasets for datasets, counts_K in self._counts.items() if counts_K.sum() >= MIN_CODES]:
            if found := self._held_out.compare(self._counts.pop(datasets), datasets):
                yield ", ".join(sorted(datasets)), found


def open_code_shift_check(config: SpeechConfig, plan: DataPlan) -> CodeShiftCheck | None:
    """The check of a run; None without held-out sets. It reads their codes, 1 MB of 1,000 samples of 10 s."""
    if not config.data.held_out:
        return None
    datasets_S = [
        frozenset(documents.part.dataset_source for documents in stream.documents if documents.part.kind is Kind.SPEECH)
        for stream in plan.streams
    ]
    return CodeShiftCheck(HeldOutCodes.read(config.data.held_out, config.storage), datasets_S, plan.vocabulary)
