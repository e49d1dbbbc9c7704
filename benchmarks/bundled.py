"""The bundled store as input of other trainers: texts in a JSONL file, and paired samples as ids and labels.

In: a configuration. Out: the documents of our packs, with the same prompt templates. A baseline that reads them through
its own collator trains exactly the same tokens; only order and padding differ.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from titan_speech.config.schema import SpeechConfig
from titan_speech.data.plan import DataPlan
from titan_speech.store.manifest import Kind
from titan_speech.store.reader import open_store
from titan_speech.tokenization.text_tokenizer import TextTokenizer

IGNORED = -100


@dataclass(frozen=True)
class Sample:
    """One document; `labels[t]` is `ids[t]` where the token is trained, as Hugging Face shifts them, else -100."""

    ids: list[int]
    labels: list[int]

    @property
    def num_trained_tokens(self) -> int:
        return sum(label != IGNORED for label in self.labels[1:])


def write_texts(store: Path, tokenizer_path: str, file: Path) -> int:
    """Write the texts of a store, one line of JSON per text. Returns their number."""
    tokenizer = TextTokenizer.load(tokenizer_path)
    parts = [part for part in open_store(store).parts if part.kind == Kind.TEXT]
    texts = [tokenizer.decode(part.tokens(i).tolist()) for part in parts for i in range(part.num_samples)]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return len(texts)


def paired_samples(config: SpeechConfig) -> list[Sample]:
    """Every document of an epoch of each stream, once."""
    plan = DataPlan.load(config)
    samples: dict[tuple[int, int, int], Sample] = {}
    slots = [np.flatnonzero(plan.order.stream_M == number) for number in range(len(plan.streams))]
    for stream, of_stream in zip(plan.streams, slots, strict=True):
        for slot in of_stream[: round(stream.stream.counts.num_packs)].tolist():
            pack = plan.pack(slot)
            borders = [*np.flatnonzero(pack.positions_S == 0).tolist(), len(pack.ids_S)]
            for (part, number, *_), begin, end in zip(pack.pieces, borders, borders[1:], strict=False):
                trained = pack.labels_S[begin : end - 1] != IGNORED
                ids = pack.ids_S[begin:end]
                labels = np.concatenate([[IGNORED], np.where(trained, ids[1:], IGNORED)])
                samples.setdefault((pack.stream, part, number), Sample(ids.tolist(), labels.tolist()))
    return list(samples.values())
