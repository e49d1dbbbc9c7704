"""The data plan: `pack(g)` for every global slot g, as a pure function of (seed, plan fingerprint, g).

In: the configuration and the stores it names. Out: `DataPlan`. Everything that can be wrong with stores, shares or
limits is found here, before training starts. What a rank, a worker or a restart reads follows from slots alone:

    stream, j = order.locate(g);   pieces = streams[stream].packs.pieces(j);   pack = lay_out(pieces)

Planning takes 0.03 s for a million speech samples and 1.3 s for a million paired ones (each group is packed once, to
count its packs); at slot 1e9 the first pack takes 110 ms (speech) or 140 ms (paired), most of it the check of a shard.
Counts of streams above 2^17 samples are kept beside the store (counts.py). Rates of the whole path, collated batches
included, are in docs/design.md.

`too_long` concerns tasks whose samples stay whole: speech and text flow over the borders of packs at any length.

The plan as lines for a terminal: one a stream, then what is left out.

In: a `DataPlan`. Out: text, printed when a run starts. Epochs are what the whole run reads of each stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np

from titan_speech.config.budget import Budget
from titan_speech.config.schema import SpeechConfig
from titan_speech.data.collate import Pack, PackedBatch, PackPlan, build_batch, build_pack, padding_pack
from titan_speech.data.documents import Documents, is_splittable
from titan_speech.data.held_out import HeldOut
from titan_speech.data.mixture import StreamSize, pack_shares, solve_mixture
from titan_speech.data.mixture_solver import CYCLE_SLOTS
from titan_speech.data.order import SlotOrder, slot_order
from titan_speech.data.pack_counts import count_packs
from titan_speech.data.packing import Blocks, PackingRules
from titan_speech.data.phase_report import run_phases, wanted_phase
from titan_speech.data.phases import Phase, PhaseEnd, StreamRecord
from titan_speech.data.shuffle_partitions import PartitionedStream, PartitionPlaces, continued
from titan_speech.data.sources import OpenedSource, open_sources, plan_fingerprint
from titan_speech.data.streams import SplitStream, WholeStream
from titan_speech.errors import DataError
from titan_speech.tokenization.prompt_template import Grammar
from titan_speech.tokenization.text_tokenizer import TextTokenizer
from titan_speech.tokenization.vocabulary import Vocabulary
from titan_speech.utils.text_table import table_lines

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class PlannedStream:
    """One source in one language, with its part of the mixture."""

    source: str
    language: str
    task: str
    documents: tuple[Documents, ...]
    packs: PartitionedStream
    share: float
    """Share of the run's tokens."""
    quota: int
    """Packs in a cycle of 65,536."""
    mean_fill: float
    """Part of its packs that is not padding."""

    @property
    def name(self) -> str:
        return f"{self.source}.{self.language}"


@dataclass(frozen=True)
class SampleRef:
    """Where the tokens of a piece come from."""

    part: str
    sample_ids: tuple[str, ...]
    """The target's sample last."""
    start: int
    stop: int


@dataclass(frozen=True)
class DataPlan:
    """What a run reads; immutable and picklable."""

    seq_len: int
    total_slots: int
    """Slots of the run from the beginning of its phase."""
    grammar: Grammar
    streams: tuple[PlannedStream, ...]
    order: SlotOrder
    fingerprint: str
    phases: tuple[Phase, ...]
    """Those of the run so far; the last is the one that is read."""
    store_fingerprints: tuple[str, ...]
    held_out: tuple[str, ...] = ()
    """A line for each gold pack and store: how many samples are never read."""

    @classmethod
    def from_config(
        cls, config: SpeechConfig, grammar: Grammar, tokenizer: TextTokenizer, resumed: PhaseEnd | None = None
    ) -> DataPlan:
        """Opens the stores, solves the mixture and fixes the order; `resumed` is the checkpoint a run goes on from."""
        held_out = HeldOut.open(config.data.held_out, config.storage)
        seq_len, storage = config.training.seq_len, config.storage
        opened = open_sources(config.data.source, tokenizer, grammar, held_out, seq_len, storage)
        sources = opened.sources
        packs = [_stream(source, config) for source in sources]
        _refuse_unfit(sources, packs, config)
        sizes = [_size(source, stream, config) for source, stream in zip(sources, packs, strict=True)]
        budget = Budget.from_config(config)
        shares = solve_mixture(config.data.source, config.data.language_rule, sizes, budget.total_tokens)
        order = slot_order(*_cells(sizes), pack_shares(shares, sizes))
        fingerprint = plan_fingerprint(config, grammar, sources, order.quotas, held_out)
        wanted = wanted_phase(config, grammar, sources, packs, shares, order, fingerprint)
        phases = run_phases(config, wanted, resumed)
        packs = [_carried_on(stream, record) for stream, record in zip(packs, phases[-1].streams, strict=True)]
        streams = [
            PlannedStream(
                source=size.source,
                language=size.language,
                task=source.table.task,
                documents=source.documents,
                packs=stream,
                share=shares[size.source, size.language],
                quota=quota,
                mean_fill=size.mean_fill,
            )
            for source, stream, size, quota in zip(sources, packs, sizes, order.quotas, strict=True)
        ]
        return cls(
            seq_len=budget.seq_len,
            total_slots=budget.total_slots - phases[-1].first_step * budget.packs_per_step,
            grammar=grammar,
            streams=tuple(streams),
            order=order,
            fingerprint=fingerprint,
            phases=phases,
            store_fingerprints=tuple(store.fingerprint for store in opened.stores),
            held_out=opened.held_out,
        )

    @classmethod
    def load(cls, config: SpeechConfig) -> DataPlan:
        """As `from_config`, with the configuration's own tokenizer."""
        tokenizer = TextTokenizer.load(config.tokenizer.path)
        return cls.from_config(config, Grammar(tokenizer.vocabulary()), tokenizer)

    @property
    def vocabulary(self) -> Vocabulary:
        return self.grammar.vocabulary

    @property
    def stream_names(self) -> list[str]:
        return [stream.name for stream in self.streams]

    @property
    def phase(self) -> Phase:
        return self.phases[-1]

    def locate(self, slot: int) -> tuple[int, int]:
        """Stream of a global slot, and which of its packs since the phase began it reads."""
        first = self.phases[-1].first_slot
        assert slot >= first, f"slot {slot} lies in an earlier phase, this one begins at {first}"
        return self.order.locate(slot - first)

    def pack(self, slot: int) -> Pack:
        """What global slot `slot` trains on."""
        return build_pack(slot, *self.sheet(slot), self.seq_len, self.vocabulary.pad_id)

    def sheet(self, slot: int) -> PackPlan:
        """What the pack of a slot is laid out of."""
        index, j = self.locate(slot)
        stream = self.streams[index]
        return PackPlan(index, stream.documents, stream.packs.pieces(j))

    def lay_out(self, sheets: Sequence[PackPlan]) -> PackedBatch:
        """Several packs at once, as a batch has them."""
        return build_batch(sheets, self.seq_len, self.vocabulary.pad_id)

    def places(self, start: int, count: int) -> np.ndarray:
        """Where slots lie in the order of lanes, by which they are dealt to ranks."""
        return self._places.of_slots(start, count)

    @cached_property
    def _places(self) -> PartitionPlaces:
        return PartitionPlaces.of(self.order, [stream.packs for stream in self.streams], self.phase.first_slot)

    def filler(self) -> Pack:
        """A pack of padding, for ranks that get no slot."""
        return padding_pack(self.seq_len, self.vocabulary.pad_id)

    def sample_refs(self, pack: Pack, max_pieces: int | None = None) -> list[SampleRef]:
        """The samples behind the (first) pieces of a pack; reads sidecars."""
        refs = []
        for part, number, start, stop in pack.pieces[:max_pieces]:
            documents = self.streams[pack.stream].documents[part]
            ids = tuple(documents.part.row(i).sample_id for i in documents.samples(number))
            refs.append(SampleRef(documents.part.name, ids, start, stop))
        return refs

    def describe(self) -> str:
        """The plan as a table: what there is, what is read, what is left out."""
        return plan_table(self)


def _stream(source: OpenedSource, config: SpeechConfig) -> PartitionedStream:
    key = f"{config.data.seed}/{source.table.name}/{source.language}"
    groups = Blocks(source.documents)
    if is_splittable(source.table):
        rules = PackingRules(config.training.seq_len)
        return PartitionedStream(key, groups, rules, count_packs(groups, rules, whole=False, name=key), SplitStream)
    rules = PackingRules(config.training.seq_len, split=config.data.too_long == "split")
    return PartitionedStream(key, groups, rules, count_packs(groups, rules, whole=True, name=key), WholeStream)


def _carried_on(stream: PartitionedStream, record: StreamRecord) -> PartitionedStream:
    """The stream from where the phases before left it, in the order it began with."""
    legs = [(leg.rules, leg.num_packs) for leg in record.legs]
    return continued(stream, f"{record.seed}/{record.source}/{record.language}", legs, partial(count_packs, whole=True))


def _refuse_unfit(sources: Sequence[OpenedSource], packs: Sequence[PartitionedStream], config: SpeechConfig) -> None:
    """All streams that cannot be read as configured, in one error."""
    seq_len, problems = config.training.seq_len, []
    for source, stream in zip(sources, packs, strict=True):
        counts, name = stream.counts, f"  source {source.table.name}, language {source.language}"
        if config.data.too_long == "error" and counts.num_too_long:
            problems.append(
                f"{name}: {counts.num_too_long:,} samples are longer than seq_len {seq_len:,}, the longest has "
                f"{counts.longest:,} tokens; set data.too_long to drop or split, or raise training.seq_len"
            )
        elif counts.num_tokens < seq_len and source.table.stitch_gap_sec is not None:
            problems.append(
                f"{name}: {counts.num_documents:,} stitched documents with {counts.num_tokens:,} tokens, fewer than "
                f"one pack of {seq_len:,}; {counts.num_unusable:,} samples open none: they follow another, or have no "
                f"neighbour in their recording within stitch_gap_sec {source.table.stitch_gap_sec:g}, as have all that "
                "lack source_video_id, speaker_id, segment_order, start_time or end_time; import these columns, raise "
                "stitch_gap_sec, or leave it out to read segments one by one"
            )
        elif counts.num_tokens < seq_len:
            problems.append(
                f"{name}: {counts.num_documents:,} documents with {counts.num_tokens:,} tokens, fewer than one pack of "
                f"{seq_len:,} ({counts.num_unusable:,} samples without what task {source.table.task} needs, "
                f"{counts.num_too_long:,} too long); leave the language out (languages), add data or lower seq_len"
            )
        elif not all(sum(stream.group_counts[k].num_packs for k in lane) for lane in stream.lanes):
            problems.append(
                f"{name}: a run of 1/{stream.num_lanes} of its documents has none of up to seq_len {seq_len:,}; the "
                "store is sorted by length: build it again, which shuffles it, or raise seq_len"
            )
    if problems:
        raise DataError("data that does not fit the run:\n" + "\n".join(problems))


def _size(source: OpenedSource, stream: PartitionedStream, config: SpeechConfig) -> StreamSize:
    counts = stream.counts
    mean_fill = counts.num_tokens / (counts.num_packs * config.training.seq_len)
    return StreamSize(source.table.name, source.language, counts.num_tokens, mean_fill)


def _cells(sizes: Sequence[StreamSize]) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each stream in the source x language table."""
    sources = list(dict.fromkeys(size.source for size in sizes))
    languages = sorted({size.language for size in sizes})
    return (
        np.array([sources.index(size.source) for size in sizes]),
        np.array([languages.index(size.language) for size in sizes]),
    )


HEADER = ("source", "language", "task", "documents", "tokens", "share", "packs a cycle", "epochs", "fill")


def plan_table(plan: DataPlan) -> str:
    rows = [HEADER, *(_row(stream, plan.total_slots) for stream in plan.streams)]
    lines = [f"data plan {plan.fingerprint}: {plan.total_slots:,} packs of {plan.seq_len:,} tokens", *_phase(plan)]
    return "\n".join([*lines, *table_lines(rows, "<<<>"), *plan.held_out, *_left_out(plan)])


def _phase(plan: DataPlan) -> list[str]:
    """Where a phase that is not a run's plain beginning starts, and what became of each stream."""
    phase = plan.phase
    if not phase.parent:
        return []
    where = phase.continues or f"step {phase.first_step:,}, slot {phase.first_slot:,}"
    lines = [f"phase {phase.label!r} goes on from {where}"]
    for stream in phase.streams:
        num_packs = sum(leg.num_packs for leg in stream.legs)
        told = {
            "carried": f"carried, {num_packs:,} packs read before",
            "new": "new",
            "restarted": f"restarted: {stream.reason}",
        }
        lines.append(f"  {stream.name}: {told[stream.status]}")
    return lines + [f"  {stream.name}: retired" for stream in phase.retired]


def _row(stream: PlannedStream, total_slots: int) -> tuple[str, ...]:
    counts = stream.packs.counts
    epochs = total_slots * stream.quota / CYCLE_SLOTS / counts.num_packs
    return (
        stream.source,
        stream.language,
        stream.task,
        f"{counts.num_documents:,}",
        f"{counts.num_tokens:,}",
        f"{stream.share:.2%}",
        f"{stream.quota:,}",
        f"{epochs:.3g}",
        f"{stream.mean_fill:.4f}",
    )


def _left_out(plan: DataPlan) -> list[str]:
    lines = []
    for stream in plan.streams:
        counts = stream.packs.counts
        for done, number in (("dropped", counts.num_dropped), ("split", counts.num_split)):
            if number:
                lines.append(
                    f"{stream.name}: {done} {number:,} samples longer than {plan.seq_len:,} tokens "
                    f"(longest {counts.longest:,})"
                )
        if counts.num_unusable:
            lines.append(f"{stream.name}: {counts.num_unusable:,} samples lack what task {stream.task} needs")
        if stream.quota == 0:
            lines.append(f"{stream.name}: never read, its share is below 1 / {CYCLE_SLOTS:,}")
    return lines
