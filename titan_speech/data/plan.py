"""The data plan: `pack(g)` for every global slot g, as a pure function of (seed, plan fingerprint, g).

In: the configuration and the stores it names. Out: `DataPlan`, and the plan as a table for the terminal. Everything
that can be wrong with stores, shares or limits is found here, before training starts. What a rank, a worker or a
restarted run reads follows from slots alone:

    stream, j = order.locate(g);   pieces = streams[stream].stream.pieces(j);   pack = build_pack(pieces)

Planning takes 0.03 s for a million speech samples and 1.3 s for a million paired ones (each block is packed once, to
count its packs); at slot 1e9 the first pack takes 110 ms (speech) or 140 ms (paired), most of it the check of a shard.
Counts of streams above 2^17 samples are cached next to the store (pack_counts.py). Rates of the whole path, collated
batches included, are in docs/design.md.

`too_long` concerns tasks whose samples stay whole: speech and text continue across the ends of packs at any length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from titan_speech.config.budget import Budget
from titan_speech.config.schema import SpeechConfig
from titan_speech.data.held_out_samples import HeldOut
from titan_speech.data.mixture import pack_shares, solve_mixture
from titan_speech.data.order import CYCLE_SLOTS, SlotOrder, slot_order, table_cells
from titan_speech.data.pack_layout import Pack, PackedBatch, PackPlan, build_batch, build_pack, views
from titan_speech.data.phase_changes import run_phases, wanted_phase
from titan_speech.data.phases import Phase, PhaseEnd, StreamRecord
from titan_speech.data.planned_streams import PlannedStream, plan_fingerprint, plan_stream, refuse_unfit
from titan_speech.data.shuffle_partitions import PartitionedStream, SlotLocality, resume_stream
from titan_speech.data.sources import open_sources
from titan_speech.data.unread_samples import count_unread, describe_counts
from titan_speech.tokenization.prompt_template import Grammar
from titan_speech.tokenization.text_tokenizer import TextTokenizer
from titan_speech.tokenization.vocabulary import Vocabulary
from titan_speech.utils.text_table import counted, table_lines


@dataclass(frozen=True)
class SampleRef:
    """The samples that the tokens of a piece come from."""

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
    """Phases of the run so far, oldest first; the last one is read."""
    store_fingerprints: tuple[str, ...]
    held_out: tuple[str, ...] = ()
    """How many samples of each held-out set were found in each store, one line each."""

    @classmethod
    def from_config(
        cls, config: SpeechConfig, grammar: Grammar, tokenizer: TextTokenizer, resumed: PhaseEnd | None = None
    ) -> DataPlan:
        """Open the stores, solve the mixture and fix the order.

        Args:
            config: of the run.
            grammar: the prompt templates in the ids of the run's vocabulary.
            tokenizer: of the run.
            resumed: the data position of the checkpoint from which the run resumes.

        Raises:
            ConfigError, DataError: shares, limits or stores that cannot be read as configured, all of a kind at once.
            CheckpointError: the plan does not continue the checkpoint's.
        """
        budget, storage = Budget.from_config(config), config.storage
        held_out = HeldOut.open(config.data.held_out, storage)
        opened = open_sources(config.data.source, tokenizer, grammar, held_out, budget.seq_len, storage)
        streams = [plan_stream(source, config) for source in opened.sources]
        refuse_unfit(streams, config)

        sizes = [stream.size for stream in streams]
        shares = solve_mixture(config.data.source, config.data.language_rule, sizes, budget.total_tokens)
        order = slot_order(*table_cells([(size.source, size.language) for size in sizes]), pack_shares(shares, sizes))
        streams = [
            replace(stream, share=shares[stream.source, stream.language], quota=quota, units=units)
            for stream, quota, units in zip(streams, order.quotas, order.units, strict=True)
        ]

        fingerprint = plan_fingerprint(config, grammar, streams, held_out)
        phases = run_phases(config, wanted_phase(config, grammar, streams, fingerprint), resumed)
        streams = [
            replace(stream, stream=_resumed(stream.stream, record))
            for stream, record in zip(streams, phases[-1].streams, strict=True)
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
    def phase(self) -> Phase:
        return self.phases[-1]

    def locate(self, slot: int) -> tuple[int, int]:
        """Stream of a global slot, and which of the stream's packs since the phase began it reads."""
        first = self.phase.first_slot
        assert slot >= first, f"slot {slot} belongs to an earlier phase, this one begins at {first}"
        return self.order.locate(slot - first)

    def packs_of_steps(self, first: int, end: int) -> np.ndarray:
        """How many packs of each stream the steps [first, end) read, counted from 0."""
        ends = [self.phase.slots(step).start - self.phase.first_slot for step in (first, end)]
        before_S, until_S = (np.array(self.order.num_packs(count), np.int64) for count in ends)
        return until_S - before_S

    def pack_plan(self, slot: int) -> PackPlan:
        """The stream and the pieces of a slot's pack."""
        index, j = self.locate(slot)
        planned = self.streams[index]
        return PackPlan(index, planned.documents, views(planned.documents, planned.stream.pieces(j)))

    def pack(self, slot: int) -> Pack:
        """The pack that is trained on at a global slot.

        Args:
            slot: number of the pack in the run, from 0; the same pack at every world size.

        Returns:
            Ids, labels and positions of `seq_len` tokens.
        """
        return build_pack(slot, *self.pack_plan(slot), self.seq_len, self.vocabulary.pad_id)

    def build_batch(self, pack_plans: Sequence[PackPlan]) -> PackedBatch:
        """Several packs at once, as rows of a batch.

        Args:
            pack_plans: what `pack_plan` returns, one for each row.

        Returns:
            Ids, labels and positions of shape [B, L].
        """
        return build_batch(pack_plans, self.seq_len, self.vocabulary.pad_id)

    def locality_keys(self, start: int, count: int) -> np.ndarray:
        """Sort keys of `count` slots from `start` on, by which slots are assigned to ranks."""
        return self._locality.keys(start, count)

    @cached_property
    def _locality(self) -> SlotLocality:
        return SlotLocality.of(self.order, [stream.stream for stream in self.streams], self.phase.first_slot)

    def sample_refs(self, pack: Pack, max_pieces: int | None = None) -> list[SampleRef]:
        """The samples of the (first `max_pieces`) pieces of a pack; reads sidecars."""
        refs = []
        for part, number, start, stop in pack.pieces[:max_pieces]:
            documents = self.streams[pack.stream].documents[part]
            ids = tuple(documents.part.row(i).sample_id for i in documents.samples(number))
            refs.append(SampleRef(documents.part.name, ids, start, stop))
        return refs

    def describe(self) -> str:
        """The plan as a table for the terminal: what is available, what is read, what is left out.

        Epochs are what the whole run reads of each stream.
        """
        lines = [f"data plan {self.fingerprint}: {counted(self.total_slots, 'pack')} of {self.seq_len:,} tokens"]
        lines += _phase_lines(self.phase)
        lines += table_lines([PLAN_COLUMNS, *(_row(stream, self.total_slots) for stream in self.streams)], "<<<>")
        return "\n".join([*lines, *self.held_out, *self.left_out()])

    def left_out(self) -> list[str]:
        """Which samples of the sources are not read and why, and streams that are never read, one line each."""
        lines = []
        for stream in self.streams:
            counts = stream.counts
            for done, number in (("dropped", counts.num_dropped), ("split", counts.num_split)):
                if number:
                    lines.append(
                        f"{stream.name}: {done} {counted(number, 'sample')} longer than {self.seq_len:,} tokens "
                        f"(longest {counts.longest:,})"
                    )
            if counts.num_unusable and (unread := count_unread(stream.documents)):
                lines.append(f"{stream.name}: not read as {stream.task}: {describe_counts(unread)}")
            if stream.quota == 0:
                lines.append(f"{stream.name}: never read, its share is below 1 / {CYCLE_SLOTS:,}")
        return lines


def _resumed(stream: PartitionedStream, record: StreamRecord) -> PartitionedStream:
    """The stream from where earlier phases left it, in the order it began with."""
    segments = [(segment.rules, segment.num_packs) for segment in record.segments]
    return resume_stream(stream, f"{record.seed}/{record.source}/{record.language}", segments)


PLAN_COLUMNS = ("source", "language", "task", "documents", "tokens", "share", "packs read", "epochs", "fill")


def _phase_lines(phase: Phase) -> list[str]:
    """Where a phase starts and what became of each stream; empty for a run that starts from the beginning."""
    if not phase.parent:
        return []
    where = phase.continues or f"step {phase.first_step:,}, slot {phase.first_slot:,}"
    lines = [f"phase {phase.label!r} continues from {where}"]
    for stream in phase.streams:
        num_packs = sum(segment.num_packs for segment in stream.segments)
        status = {
            "carried": f"resumed, {counted(num_packs, 'pack')} read before",
            "new": "new",
            "restarted": f"restarted: {stream.reason}",
        }
        lines.append(f"  {stream.name}: {status[stream.status]}")
    return lines + [f"  {stream.name}: retired" for stream in phase.retired]


def _row(stream: PlannedStream, total_slots: int) -> tuple[str, ...]:
    epochs = total_slots * stream.quota / CYCLE_SLOTS / stream.counts.num_packs
    return (
        stream.source,
        stream.language,
        stream.task,
        f"{stream.counts.num_documents:,}",
        f"{stream.counts.num_tokens:,}",
        f"{stream.share:.2%}",
        f"{round(total_slots * stream.quota / CYCLE_SLOTS):,}",
        f"{epochs:.3g}",
        f"{stream.mean_fill:.4f}",
    )
