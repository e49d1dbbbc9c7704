"""Validation sets: the scored samples of the held-out sets of a run, as packs in a fixed order.

In: the sets of `[data] held_out`, each a token store of samples that training never reads, and the streams of the data
plan. Out: a `ValidationSet` per held-out set: every scored sample once per stream that would read it (same task, prompt
template, masks and transcript), in packs of one stream each, which `build_batch` turns into arrays. Labels carry the
stream's index in the plan, so losses by token kind, task, language and source are those of training.

A document is never divided between packs: its loss is that of the whole context, and equals the loss of the sample
alone. A text or speech document above the sequence length keeps its first `seq_len` tokens; other tasks leave it out.
Both are counted. Packing is best fit, four samples of 10 s to a pack of 2,048.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from titan_speech.config.schema import SpeechConfig
from titan_speech.data.documents import Documents
from titan_speech.data.held_out_samples import refuse_copies
from titan_speech.data.pack_layout import PackPlan, views
from titan_speech.data.packing import Piece, best_fit
from titan_speech.data.plan import DataPlan
from titan_speech.data.planned_streams import PlannedStream
from titan_speech.data.sources import KIND_OF_TASK, documents_of, is_splittable, required_variant
from titan_speech.errors import ConfigError, DataError
from titan_speech.store.held_out_set import HeldOutSet, read_held_out_set
from titan_speech.store.reader import Store, check_same_codec, check_tokenizer, open_store, store_files
from titan_speech.tokenization.prompt_template import template_task
from titan_speech.tokenization.text_tokenizer import TextTokenizer
from titan_speech.utils.text_table import counted


@dataclass(frozen=True)
class ValidationSet:
    """The packs of one held-out set."""

    name: str
    """The last part of its path; it is part of the names of metrics."""
    fingerprint: str
    """Of the held-out set."""
    pack_plans: tuple[PackPlan, ...]
    num_documents: int
    num_cut: int
    """Documents of which only the first `seq_len` tokens are scored."""
    num_left_out: int
    """Documents above the sequence length that are not scored."""

    def describe(self) -> str:
        packs = counted(len(self.pack_plans), "pack")
        line = f"validation {self.name}: {counted(self.num_documents, 'document')} in {packs}"
        if self.num_cut:
            line += f"; {self.num_cut:,} longer ones scored up to seq_len"
        if self.num_left_out:
            line += f"; {self.num_left_out:,} longer than seq_len left out"
        return line


def open_validation_sets(config: SpeechConfig, plan: DataPlan, tokenizer: TextTokenizer) -> tuple[ValidationSet, ...]:
    """The validation sets of a run; none if `validation.every_steps` is 0 or no held-out set is configured.

    Args:
        config: of the run.
        plan: of the run; it does not read the samples of these sets.
        tokenizer: of the run.

    Raises:
        ConfigError: two sets have one name, or a language of the run has no scored sample in any set.
        DataError: a set was made with another tokenizer or codec, overlaps the training data, or none of its samples
            suits a stream.
    """
    if not config.validation.every_steps or not config.data.held_out:
        return ()
    names = [PurePosixPath(path.rstrip("/")).name for path in config.data.held_out]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"data.held_out = {list(config.data.held_out)!r}: two sets have one name, and metrics are named by it; "
            "rename a folder, or set validation.every_steps = 0"
        )
    stores = [open_store(path, config.storage) for path in config.data.held_out]
    for store in stores:
        check_tokenizer(store, tokenizer)
    files = [store_files(path, config.storage) for path in dict.fromkeys(source.store for source in config.data.source)]
    training = [Store(some, some.manifest()) for some in files]  # the plan has compared their files already
    check_same_codec([*training, *stores])
    held_out = [read_held_out_set(path, config.storage) for path in config.data.held_out]
    for path, one, store in zip(config.data.held_out, held_out, stores, strict=True):
        refuse_copies(path, one, store, training)
    sets = tuple(
        _validation_set(name, store, one, plan) for name, store, one in zip(names, stores, held_out, strict=True)
    )
    _refuse_missing_languages(config, plan, sets)
    return sets


def _refuse_missing_languages(config: SpeechConfig, plan: DataPlan, sets: Sequence[ValidationSet]) -> None:
    found = {plan.streams[pack.stream].language for validation in sets for pack in validation.pack_plans}
    languages = config.validation.languages or tuple(sorted({stream.language for stream in plan.streams}))
    missing = [language for language in languages if language not in found]
    if missing:
        raise ConfigError(
            f"validation: {', '.join(config.data.held_out)} has no scored sample of {', '.join(missing)} "
            f"that a source reads and that fits (it has {', '.join(sorted(found))}), so a run that loses the language "
            "would not be noticed; make the set from stores that have it (titan-speech store held-out), or name the "
            "languages to validate in validation.languages"
        )


def _validation_set(name: str, store: Store, held_out: HeldOutSet, plan: DataPlan) -> ValidationSet:
    ids = pa.array(held_out.ce, pa.string())  # the other samples are prompts of generation and their references
    scored = {part.name: pc.is_in(part.column("sample_id"), value_set=ids).to_numpy() for part in store.parts}
    packs: list[PackPlan] = []
    num_documents = num_cut = num_left_out = 0
    for index, stream in enumerate(plan.streams):
        documents = documents_of_stream(stream, store, plan)
        pieces = [piece for part, some in enumerate(documents) for piece in _pieces(part, some, scored, plan.seq_len)]
        if is_splittable(stream.config):
            num_cut += sum(_is_cut(documents, piece) for piece in pieces)
        else:
            kept = [piece for piece in pieces if not _is_cut(documents, piece)]
            num_left_out += len(pieces) - len(kept)
            pieces = kept
        packs += [PackPlan(index, documents, views(documents, some)) for some in packed(pieces, plan.seq_len)]
        num_documents += len(pieces)
    if not packs:
        raise DataError(
            f"held-out set {store.path}: none of its {len(held_out.ce):,} scored samples suits a source of this run "
            "(task, language, dataset, transcript); make the set from the stores of the run, or set "
            "validation.every_steps = 0"
        )
    return ValidationSet(name, held_out.fingerprint, tuple(packs), num_documents, num_cut, num_left_out)


def documents_of_stream(stream: PlannedStream, store: Store, plan: DataPlan) -> tuple[Documents, ...]:
    """The parts of the held-out store that were chosen from what the stream reads, read as the stream's task."""
    kind, variant = KIND_OF_TASK[template_task(stream.task)], required_variant(stream.config)
    datasets = {documents.part.dataset_source for documents in stream.documents}
    return tuple(
        documents_of(part, stream.config, plan.grammar, plan.seq_len)
        for part in store.parts
        if part.kind is kind
        and part.num_samples
        and part.language == stream.language
        and part.dataset_source in datasets
        and (variant is None or variant in part.variants)
    )


def _pieces(part: int, documents: Documents, scored: dict[str, np.ndarray], seq_len: int) -> list[Piece]:
    """The scored documents of a part, cut at the sequence length."""
    length_N = documents.lengths(0, documents.num_documents)
    chosen = np.flatnonzero(scored[documents.part.name] & (length_N > 0))
    return [Piece(part, int(i), 0, min(int(length_N[i]), seq_len)) for i in chosen]


def _is_cut(documents: Sequence[Documents], piece: Piece) -> bool:
    return int(documents[piece.part].lengths(piece.document, piece.document + 1)[0]) > piece.stop


def packed(pieces: Sequence[Piece], seq_len: int) -> list[list[Piece]]:
    """Pieces by pack, best fit. A document that is cut fills its pack, so it ends where the pack ends."""
    by_length = sorted(pieces, key=lambda piece: (-piece.stop, piece.part, piece.document))
    pack_of, num_packs = best_fit([piece.stop for piece in by_length], seq_len)
    packs: list[list[Piece]] = [[] for _ in range(num_packs)]
    for pack, piece in zip(pack_of, by_length, strict=True):
        packs[pack].append(piece)
    return packs
