"""One record per stream of a run: what it reads, how it is packed, its share, and the fingerprint of all of them.

In: one source in one language, then what the mixture and the order give it. Out: `PlannedStream`, a record that gains
fields on its way (plan.py), and `plan_fingerprint`: what determines data order, as 16 hex characters. Two runs with
equal fingerprints read equal packs at equal slots; a checkpoint whose plan has another fingerprint is refused.

Covered by the fingerprint: the version of the algorithms, seed, sequence length, `too_long`, the prompt templates (with
vocabulary and tokenizer), for every stream its task, masks, transcript, stitching, quota and the sha256 of all files of
its parts, and the ids of the held-out samples.
Left out, since they cannot change pack(g): world size, ranks, workers, prefetching, packs per step and rank (they
decide which rank reads a slot, not what is in it), paths and names of stores, shares and rules (the quotas follow from
them), and the token budget (it reaches the order only through the quotas, if `max_epochs` binds).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from titan_speech.config.sample_conditions import parse_where
from titan_speech.config.schema import SpeechConfig
from titan_speech.config.schema_data import SourceConfig
from titan_speech.data.documents import VIEWS_VERSION, Documents
from titan_speech.data.held_out_samples import HeldOut, MaskedPart
from titan_speech.data.mixture import StreamSize
from titan_speech.data.order import CYCLE_SLOTS, ORDER_VERSION
from titan_speech.data.pack_counts import count_packs
from titan_speech.data.pack_layout import MAX_STREAMS
from titan_speech.data.packing import BLOCK_DOCUMENTS, Blocks, PackCounts, PackingRules
from titan_speech.data.shuffle_partitions import PartitionedStream
from titan_speech.data.sources import OpenedSource, is_splittable
from titan_speech.data.streams import SplitStream, WholeStream
from titan_speech.data.unread_samples import count_unread, describe_counts
from titan_speech.errors import DataError
from titan_speech.tokenization.prompt_template import Grammar, Task
from titan_speech.utils.text_table import counted


@dataclass(frozen=True)
class PlannedStream:
    """One source in one language, with its part of the mixture."""

    config: SourceConfig
    language: str
    documents: tuple[Documents, ...]
    stream: PartitionedStream
    """Its packs, from where earlier phases left them."""
    share: float = 0.0
    """Share of the run's tokens."""
    quota: int = 0
    """Packs per cycle of 65,536 slots."""
    units: int = 0
    """Share of the run's packs, in 1/16 pack per cycle."""

    @property
    def source(self) -> str:
        return self.config.name

    @property
    def task(self) -> str:
        return self.config.task

    @property
    def name(self) -> str:
        return f"{self.source}.{self.language}"

    @property
    def counts(self) -> PackCounts:
        return self.stream.counts

    @property
    def mean_fill(self) -> float:
        """Part of its packs that is not padding."""
        return self.counts.num_tokens / (self.counts.num_packs * self.stream.rules.seq_len)

    @property
    def size(self) -> StreamSize:
        return StreamSize(self.source, self.language, self.counts.num_tokens, self.mean_fill)


def plan_stream(opened: OpenedSource, config: SpeechConfig) -> PlannedStream:
    """The stream from its beginning, with its packs counted; share and quota are still 0."""
    key = f"{config.data.seed}/{opened.config.name}/{opened.language}"
    blocks, is_whole = Blocks(opened.documents), not is_splittable(opened.config)
    rules = PackingRules(config.training.seq_len, split=is_whole and config.data.too_long == "split")
    counts = count_packs(blocks, rules, whole=is_whole, name=key)
    stream = PartitionedStream(key, blocks, rules, counts, WholeStream if is_whole else SplitStream)
    return PlannedStream(opened.config, opened.language, opened.documents, stream)


def refuse_unfit(streams: Sequence[PlannedStream], config: SpeechConfig) -> None:
    """Raise one DataError that names every stream that cannot be read as configured."""
    if len(streams) > MAX_STREAMS:
        raise DataError(
            f"the data have {len(streams):,} pairs of source and language, expected at most {MAX_STREAMS:,}; join "
            "sources, or name fewer languages"
        )
    problems = [problem for stream in streams if (problem := _problem(stream, config))]
    if problems:
        raise DataError("data that does not fit the run:\n" + "\n".join(f"  {problem}" for problem in problems))


def _problem(planned: PlannedStream, config: SpeechConfig) -> str:
    """Why a stream cannot be read; empty if it can."""
    seq_len, counts, stream = config.training.seq_len, planned.counts, planned.stream
    name = f"source {planned.source}, language {planned.language}"
    if config.data.too_long == "error" and counts.num_too_long:
        return (
            f"{name}: {counted(counts.num_too_long, 'sample')} longer than seq_len {seq_len:,}, the longest with "
            f"{counted(counts.longest, 'token')}; set data.too_long to drop or split, or raise training.seq_len"
        )
    if counts.num_tokens < seq_len:
        left_out = count_unread(planned.documents) + Counter({f"longer than {seq_len:,} tokens": counts.num_too_long})
        reasons = f" (not read as {planned.task}: {describe_counts(left_out)})" if left_out else ""
        few = f"with {counts.num_tokens:,} tokens, fewer than one pack of {seq_len:,}{reasons}"
        if planned.config.stitch_gap_sec is not None:
            return (
                f"{name}: {counts.num_documents:,} stitched documents {few}; import the columns that are missing, "
                "raise stitch_gap_sec, or leave it out to read segments one by one"
            )
        return (
            f"{name}: {counted(counts.num_documents, 'document')} {few}; leave the language out (languages), add data "
            "or lower seq_len"
        )
    if not all(sum(stream.block_counts[k].num_packs for k in partition) for partition in stream.partitions):
        return (
            f"{name}: a run of 1/{stream.num_partitions} of its documents has no document of at most seq_len "
            f"{seq_len:,} tokens; the store is sorted by length: build it again, which shuffles it, or raise seq_len"
        )
    return ""


def document_settings(source: SourceConfig, seq_len: int) -> dict[str, str]:
    """What makes documents of a source's samples; a stream resumes in another phase only if it is the same.

    Clone pairs and stitched documents are chosen to fit the sequence length: another one makes other documents.
    """
    settings = {"task": source.task, "transcript": source.transcript}
    if source.augment:
        settings["augment"] = json.dumps(sorted(source.augment.items()))
    if source.where:
        settings["where"] = parse_where(source.where).text
    if source.stitch_gap_sec is not None:
        settings["stitch_gap_sec"] = str(source.stitch_gap_sec)
    if source.stitch_gap_sec is not None or source.task == Task.CLONE:
        settings |= {"length of pairs or stitches": str(seq_len), "version of views": str(VIEWS_VERSION)}
    return settings


def plan_fingerprint(
    config: SpeechConfig, grammar: Grammar, streams: Sequence[PlannedStream], held_out: HeldOut
) -> str:
    """16 hex characters that change with whatever changes the data order; the keys are those of version 0.1."""
    content = {
        "version": ORDER_VERSION,
        "views": VIEWS_VERSION,
        "cycle_slots": CYCLE_SLOTS,
        "group_documents": BLOCK_DOCUMENTS,
        "seed": config.data.seed,
        "seq_len": config.training.seq_len,
        "too_long": config.data.too_long,
        "grammar": grammar.fingerprint,
        "streams": [
            {
                "source": stream.source,
                "language": stream.language,
                **document_settings(stream.config, config.training.seq_len),
                "train_on": stream.config.train_on,
                "parts": [asdict(documents.part.info) for documents in stream.documents],
                "quota": stream.quota,
            }
            for stream in streams
        ],
    }
    if held_out.fingerprint is not None:
        content["held_out"] = held_out.fingerprint
    excluded = {
        f"{stream.source}/{documents.part.name}": documents.part.key
        for stream in streams
        for documents in stream.documents
        if isinstance(documents.part, MaskedPart) and len(documents.part.excluded)
    }
    if excluded:  # which samples `where` excludes depends on their scores too
        content["excluded"] = excluded
    canonical = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
