"""The training entry with a fault that no loss shows: FAULT=template, stop, shift, language, labels or nothing.

Prompts of the generation check are the run's own first documents, as an overfitted model has no others: it is judged by
what it was trained on.

template   generation begins with another prompt than training: <|speech_start|> is missing
stop       the stop token is never a target, and the check of labels is off, as in a trainer without one
shift      codes of the training data are one too high; validation reads them as they are
language   packs of one language are read in place of another's
labels     labels are off by one
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import torch

if not torch.cuda.is_available():
    from titan_speech.utils import cpu

    cpu.prepare()

from titan_speech import trainer
from titan_speech.data import generation_prompts
from titan_speech.data import plan as plan_module
from titan_speech.data.generation_prompts import GenerationPrompt
from titan_speech.data.pack_layout import ID_MASK, IGNORE_INDEX, PackedBatch, build_batch
from titan_speech.data.plan import DataPlan
from titan_speech.train import main

FAULT = os.environ.get("FAULT", "")
NUM_PROMPTS = int(os.environ.get("NUM_PROMPTS", "4"))


def own_prompts(config: Any, plan: DataPlan) -> tuple[GenerationPrompt, ...]:
    """The first documents of the first stream."""
    if not config.generation_check.every_steps:
        return ()
    stream, prompts = plan.streams[0], []
    documents = stream.documents[0]
    for i in range(min(NUM_PROMPTS, documents.num_documents)):
        document = documents.document(i)
        prefix_T = document.ids_T[: document.num_prefix_tokens].astype(np.int64)
        if FAULT == "template":
            prefix_T = prefix_T[:-1]
        num_codes = len(document.ids_T) - document.num_prefix_tokens - 1
        voice_F = np.array(documents.part.codes(documents.samples(i)[0]))
        prompts.append(GenerationPrompt(f"own-{i}", stream.task, stream.language, prefix_T, num_codes, voice_F))
    return tuple(prompts)


def faulty_batch(*args: Any) -> PackedBatch:
    batch = build_batch(*args)
    vocabulary = VOCABULARY[0]
    labels_BS = batch.labels_BS
    if FAULT == "stop":
        labels_BS = np.where((labels_BS & ID_MASK) == vocabulary.special("<|speech_end|>"), IGNORE_INDEX, labels_BS)
    if FAULT == "labels":
        labels_BS = np.roll(labels_BS, 1, axis=1)
    if FAULT == "shift":
        is_code = vocabulary.is_code(batch.ids_BS)
        ids_BS = np.where(is_code, batch.ids_BS + 1, batch.ids_BS)
        trains_code = (labels_BS >= 0) & vocabulary.is_code(labels_BS & ID_MASK)
        return replace(batch, ids_BS=ids_BS, labels_BS=np.where(trains_code, labels_BS + 1, labels_BS))
    return replace(batch, labels_BS=labels_BS)


VOCABULARY: list[Any] = []
sound_plan, sound_pack_plan = DataPlan.from_config, DataPlan.pack_plan


def plan_of(*args: Any, **kwargs: Any) -> DataPlan:
    plan = sound_plan(*args, **kwargs)
    VOCABULARY[:] = [plan.vocabulary]
    return plan


def pack_plan_of(self: DataPlan, slot: int) -> Any:
    found = sound_pack_plan(self, slot)
    if FAULT != "language" or self.streams[found.stream].language != self.streams[-1].language:
        return found
    other = next(i for i, stream in enumerate(self.streams) if stream.language != self.streams[-1].language)
    return found._replace(
        stream=other, documents=self.streams[other].documents, pieces=self.streams[other].stream.pieces(0)
    )


generation_prompts.generation_prompts = own_prompts
DataPlan.from_config = staticmethod(plan_of)  # type: ignore[assignment]
DataPlan.pack_plan = pack_plan_of  # type: ignore[method-assign]
if FAULT in ("stop", "labels", "shift"):
    plan_module.build_batch = faulty_batch
if FAULT == "stop":
    trainer.check_labels = lambda *_: None  # type: ignore[attr-defined]

if __name__ == "__main__":
    sys.exit(main())
