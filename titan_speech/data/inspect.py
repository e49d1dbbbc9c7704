"""Packs as text for a person, and what all ranks of a run read together: `titan-speech data show` and `data order`.

**show**. In: a configuration and slots. Out: lines for a terminal: a border for every document, then its tokens, one
line per run. `+` and green mark tokens the loss is computed on; runs of codes are shortened.

    slot 0  paired.hi (tts), pack 0 of the stream: 512 tokens, 470 trained, 9 padding, 3 documents
    ── 1: corpus.hi.speech/prompt-17 [0:180) ─────────
        <bos>
      + <|text_start|> namaste <|text_end|> <|speech_start|>
      + <|s_17|> <|s_5120|> ... <|s_3|> x123 codes, 2.46 s

The first token of a piece that continues from an earlier pack is not marked: it was the last label of that pack.

**order**. In: a configuration, a range of slots, a number of ranks. Out: one line per slot with its stream, a digest of
its pack and the samples in it, or one digest over all. Packs are taken from the loader of every simulated rank, padding
included, and put back into slot order, so equal digests at two world sizes mean equal training data. One step is in
memory at a time.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import groupby, islice

import numpy as np
import xxhash

from titan_speech.config.budget import Budget, data_parallel_degree
from titan_speech.config.schema import SpeechConfig
from titan_speech.data.loader import SpeechDataLoader
from titan_speech.data.pack_layout import IGNORE_INDEX, PADDING_SLOT, Pack, pack_digest
from titan_speech.data.phases import PhaseEnd
from titan_speech.data.plan import DataPlan
from titan_speech.data.slots import SlotBatches
from titan_speech.errors import ConfigError
from titan_speech.tokenization.prompt_template import Grammar
from titan_speech.tokenization.text_tokenizer import TextTokenizer
from titan_speech.tokenization.vocabulary import CODES_PER_SEC
from titan_speech.utils.printable import one_line
from titan_speech.utils.progress import print_to_stderr
from titan_speech.utils.text_table import counted

GREEN, DIM, RESET = "\x1b[32m", "\x1b[2m", "\x1b[0m"
BORDER_WIDTH = 72
MIN_CONDENSED_CODES = 5


def show_lines(
    config: SpeechConfig,
    slots: Sequence[int] = (0,),
    source: str | None = None,
    color: bool | None = None,
    resumed: PhaseEnd | None = None,
) -> Iterator[str]:
    """The packs of these slots; with `source`, as many of its first packs as slots are given.

    Args:
        resumed: where the run is, if it has left its first phase: slots count over all phases.
    """
    tokenizer = TextTokenizer.load(config.tokenizer.path)
    plan = DataPlan.from_config(config, Grammar(tokenizer.vocabulary()), tokenizer, resumed)
    _report_left_out(plan)
    first = plan.phase.first_slot
    if source is not None:
        slots = _slots_of(plan, source, len(slots))
    elif min(slots) < first:
        raise ConfigError(
            f"slot {min(slots):,} belongs to an earlier phase of the run in {config.job.dump_folder}: phase "
            f"{config.data.phase!r} begins at slot {first:,}; give the configuration of that phase"
        )
    printer = PackPrinter(plan, tokenizer, wants_color() if color is None else color)
    for slot in slots:
        yield from printer.lines(plan.pack(slot))


def _report_left_out(plan: DataPlan) -> None:
    """Samples that no slot shows, on stderr."""
    for line in (*plan.held_out, *plan.left_out()):
        print_to_stderr(line)


def wants_color() -> bool:
    """Colour on a terminal, unless NO_COLOR is set (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def _slots_of(plan: DataPlan, source: str, count: int) -> list[int]:
    indices = [i for i, stream in enumerate(plan.streams) if stream.source == source]
    if not indices:
        known = ", ".join(dict.fromkeys(stream.source for stream in plan.streams))
        raise ConfigError(f"no source is called {source!r}; expected one of {known}")
    positions = np.flatnonzero(np.isin(plan.order.stream_M, indices))
    return [plan.phase.first_slot + int(position) for position in islice(positions, count)]


class PackPrinter:
    """Lines of packs of one plan."""

    def __init__(self, plan: DataPlan, tokenizer: TextTokenizer, color: bool) -> None:
        self.plan, self.tokenizer, self.color = plan, tokenizer, color

    def lines(self, pack: Pack) -> Iterator[str]:
        stream = self.plan.streams[pack.stream]
        yield (
            f"slot {pack.slot}  {stream.name} ({stream.task}), pack {self.plan.locate(pack.slot)[1]} of the "
            f"stream: {len(pack.ids_S):,} tokens, {pack.num_trained_tokens:,} trained, {pack.num_pad_tokens:,} "
            f"padding, {counted(pack.num_documents, 'document')}"
        )
        begin = 0
        for number, ref in enumerate(self.plan.sample_refs(pack), start=1):
            end = begin + ref.stop - ref.start
            title = f"── {number}: {ref.part}/{'+'.join(ref.sample_ids)} [{ref.start}:{ref.stop}) "
            yield self._colored(one_line(title).ljust(BORDER_WIDTH, "─"), DIM)
            yield from self._runs(pack, begin, end)
            begin = end
        if pack.num_pad_tokens:
            yield self._colored(f"── {pack.num_pad_tokens:,} x <|pad|> ".ljust(BORDER_WIDTH, "─"), DIM)

    def _runs(self, pack: Pack, begin: int, end: int) -> Iterator[str]:
        """One line for each run of tokens that are all codes or all not, and all trained or all not."""
        ids = pack.ids_S[begin:end]
        is_trained = np.r_[False, pack.labels_S[begin : end - 1] != IGNORE_INDEX]
        keys = list(zip(is_trained.tolist(), self.plan.vocabulary.is_code(ids).tolist(), strict=True))
        for (trained, codes), run in groupby(range(len(ids)), keys.__getitem__):
            run_ids = ids[list(run)].tolist()
            text = self._codes(run_ids) if codes else self._words(run_ids)
            yield ("  + " if trained else "    ") + (self._colored(text, GREEN) if trained else text)

    def _codes(self, ids: list[int]) -> str:
        names = [self.plan.vocabulary.token_name(id_) for id_ in ids]
        if len(names) >= MIN_CONDENSED_CODES:
            names = [*names[:2], "...", names[-1]]
        return f"{' '.join(names)} x{len(ids)} codes, {len(ids) / CODES_PER_SEC:.2f} s"

    def _words(self, ids: list[int]) -> str:
        """Specials by name, text decoded."""
        vocabulary = self.plan.vocabulary
        frame = {vocabulary.bos_id: "<bos>", vocabulary.eos_id: "<eos>"}
        parts = []
        for is_text, run in groupby(ids, lambda id_: vocabulary.is_text(id_) and id_ not in frame):
            run_ids = list(run)
            if is_text:
                parts.append(repr(self.tokenizer.decode(run_ids))[1:-1])
            else:
                parts += [frame.get(id_) or vocabulary.token_name(id_) for id_ in run_ids]
        return " ".join(parts)

    def _colored(self, text: str, color: str) -> str:
        return f"{color}{text}{RESET}" if self.color else text


MAX_NAMED_PIECES = 6


def order_lines(config: SpeechConfig, start: int, count: int, world_size: int = 1) -> Iterator[str]:
    """A header, then one line for each slot."""
    plan = DataPlan.load(config)
    _report_left_out(plan)
    budget = Budget.from_config(config)
    ranks = data_parallel_degree(config.parallelism, world_size)
    yield (
        f"plan {plan.fingerprint}, {counted(budget.packs_per_step, 'pack')} per step, "
        f"{counted(ranks, 'data-parallel rank')}, {budget.padding_packs(ranks):,} padding packs per step"
    )
    for slot, digest in read_slots(config, plan, start, count, world_size):
        pack = plan.pack(slot)
        refs = [
            f"{'+'.join(ref.sample_ids)}[{ref.start}:{ref.stop}]" for ref in plan.sample_refs(pack, MAX_NAMED_PIECES)
        ]
        more = pack.num_documents - len(refs)
        samples = "  ".join(refs + ([f"and {more} more"] if more else []))
        yield one_line(f"{slot}  {plan.streams[pack.stream].name}  {digest}  {samples}")


def order_digest(config: SpeechConfig, start: int, count: int, world_size: int = 1) -> str:
    """One line: digest of all packs of the slots in order, plan, range."""
    plan = DataPlan.load(config)
    total = xxhash.xxh3_128()
    for slot, digest in read_slots(config, plan, start, count, world_size):
        total.update(f"{slot}:{digest};".encode())
    return f"{total.hexdigest()}  plan {plan.fingerprint}  slots {start}..{start + count - 1}"


def read_slots(
    config: SpeechConfig, plan: DataPlan, start: int, count: int, world_size: int
) -> Iterator[tuple[int, str]]:
    """Slot and digest of its pack, in slot order, from the loaders of all ranks in step."""
    budget = Budget.from_config(config)
    dp_degree = data_parallel_degree(config.parallelism, world_size)
    with ExitStack() as stack:
        ranks = [_rank_rows(config, plan, budget, start, rank, dp_degree, stack) for rank in range(dp_degree)]
        for first in range(start, start + count, budget.packs_per_step):
            rows = budget.accumulation(dp_degree) * budget.local_batch_packs
            step = dict(row for rank in ranks for row in islice(rank, rows))
            step.pop(PADDING_SLOT, None)
            expected = range(first, first + budget.packs_per_step)
            assert sorted(step) == list(expected), f"ranks read slots {sorted(step)}, expected {expected}"
            yield from ((slot, step[slot]) for slot in expected if slot < start + count)


def _rank_rows(
    config: SpeechConfig,
    plan: DataPlan,
    budget: Budget,
    start: int,
    dp_rank: int,
    dp_degree: int,
    stack: ExitStack,
) -> Iterator[tuple[int, str]]:
    """Slot and digest of every pack one rank computes."""
    loader = SpeechDataLoader.Config(
        plan=plan,
        packs_per_step=budget.packs_per_step,
        num_workers=config.data.num_workers,
        num_prefetch_batches=config.data.num_prefetch_batches,
    ).build(dp_world_size=dp_degree, dp_rank=dp_rank, local_batch_size=budget.local_batch_packs)
    stack.enter_context(closing(loader))
    loader.next_slot = start
    slot_batches = SlotBatches(loader.shape, plan.locality_keys, dp_rank, start)
    for slots, (inputs, labels_BL) in zip(slot_batches, loader, strict=False):
        arrays = (tensor.numpy() for tensor in (inputs["input"], labels_BL, inputs["positions"]))
        for slot, ids_L, labels_L, positions_L in zip(slots, *arrays, strict=True):
            assert slot != PADDING_SLOT or (labels_L == IGNORE_INDEX).all(), "a padding pack has labels"
            yield slot, pack_digest(ids_L, labels_L, positions_L)
