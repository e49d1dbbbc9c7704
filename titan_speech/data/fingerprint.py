"""What determines data order, as one short hash.

In: the finished plan's settings, streams and quotas. Out: 16 hex characters. Two runs with equal fingerprints read
equal packs at equal slots; a checkpoint whose plan has another one is refused.

Covered: the version of the algorithms, seed, sequence length, `too_long`, the grammar (with vocabulary and tokenizer),
for every stream its task, masks, transcript, stitching, quota and the sha256 of all files of its parts, and the ids of
the samples that are held out.
Left out, since they cannot change pack(g): world size, ranks, workers, prefetching, packs a step and a rank (they
decide who reads a slot, not what lies in it), where the stores lie and what they are called, shares and rules (the
quotas are what came of them), target tokens (they reach the order only through the quotas, when `max_epochs` binds).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict

from titan_speech.config.tables import SpeechConfig
from titan_speech.data.documents import VIEWS_VERSION
from titan_speech.data.groups import GROUP_DOCUMENTS
from titan_speech.data.held_out import HeldOut
from titan_speech.data.order import ORDER_VERSION
from titan_speech.data.quotas import CYCLE_SLOTS
from titan_speech.data.sources import OpenedSource
from titan_speech.prompts import Grammar, Task


def document_settings(source: OpenedSource, seq_len: int) -> dict[str, str]:
    """What makes documents of a source's samples: a stream is carried into another phase only where it is the same.

    Pairs and stitched segments are chosen to fit the sequence length: with another one they are other documents.
    """
    table = source.table
    settings = {"task": table.task, "transcript": table.transcript}
    if table.stitch_gap_sec is not None:
        settings["stitch_gap_sec"] = str(table.stitch_gap_sec)
    if table.stitch_gap_sec is not None or table.task == Task.CLONE:
        settings |= {"length of pairs or stitches": str(seq_len), "version of views": str(VIEWS_VERSION)}
    return settings


def plan_fingerprint(
    config: SpeechConfig,
    grammar: Grammar,
    sources: Sequence[OpenedSource],
    quotas: Sequence[int],
    held_out: HeldOut,
) -> str:
    content = {
        "version": ORDER_VERSION,
        "views": VIEWS_VERSION,
        "cycle_slots": CYCLE_SLOTS,
        "group_documents": GROUP_DOCUMENTS,
        "seed": config.data.seed,
        "seq_len": config.training.seq_len,
        "too_long": config.data.too_long,
        "grammar": grammar.fingerprint,
        "streams": [
            {
                "source": source.table.name,
                "language": source.language,
                **document_settings(source, config.training.seq_len),
                "train_on": source.table.train_on,
                "parts": [asdict(documents.part.info) for documents in source.documents],
                "quota": quota,
            }
            for source, quota in zip(sources, quotas, strict=True)
        ],
    }
    if held_out.fingerprint is not None:
        content["held_out"] = held_out.fingerprint
    canonical = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
