"""Chooses the samples of a held-out set and writes them as a store of their own.

In: stores of one codec, tokenizer and normalization. Out: a store of the chosen samples in a folder, with gold.json
(held_out_set.py) next to its manifest. A run that names it in `[data] held_out` never reads any of them, nor what else
is held out: by default every other segment of their recordings, and exact copies of their codes or transcripts.

Each part (dataset source, language, kind) gives samples in proportion to the root of its size, at least one and at most
a tenth of it, so every language and every source is scored. Samples with many copies ("yes.") are chosen last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from titan_speech.config.schema_data import StorageConfig
from titan_speech.errors import DataError
from titan_speech.store.assemble import ShardRewrite, StoredShard, assemble_store
from titan_speech.store.held_out_candidates import (
    Candidate,
    Related,
    SharedValues,
    candidates_of,
    count_copies,
    find_other_answers,
    find_references,
    find_related,
)
from titan_speech.store.held_out_set import HELD_OUT_NAME, DecodePrompt, HeldOutIds, HeldOutSet, SourceStore
from titan_speech.store.manifest import Kind, PartInfo, PartKey
from titan_speech.store.merge import merged_manifest, refuse_different
from titan_speech.store.reader import Store, open_store
from titan_speech.store.writer import SHARD_BYTES
from titan_speech.utils.files import write_atomically

HELD_OUT_BY = ("source_video_id", "speaker_id", "sample")
MAX_PART_OF = 10
"""At most one sample in so many of a part is chosen."""
MAX_HELD_OUT = 0.5
MAX_COPIES = 16


@dataclass(frozen=True)
class HeldOutOptions:
    """The size of the set and what is held out with a sample."""

    num_ce: int = 1000
    num_decode: int = 64
    seed: int = 0
    by: str = "source_video_id"
    max_tokens: int = 2048
    """Of a sample with its transcript; a prompt with its reference fits too."""


@dataclass(frozen=True)
class Choice:
    """The chosen samples."""

    ce: list[Candidate]
    prompts: list[tuple[Candidate, Candidate | None]]

    @property
    def all(self) -> list[Candidate]:
        speakers = [c for prompt, reference in self.prompts for c in (prompt, reference) if c is not None]
        return list({candidate.sample_id: candidate for candidate in [*self.ce, *speakers]}.values())


def make_held_out_set(
    paths: Sequence[str | Path],
    output: str | Path,
    options: HeldOutOptions = HeldOutOptions(),
    storage: StorageConfig | None = None,
) -> HeldOutSet:
    """Chooses a held-out set from stores and writes it to `output`.

    Raises:
        DataError: the stores differ in codec, tokenizer or normalization, have too few samples, or would be emptied;
            nothing is written.
    """
    if options.by not in HELD_OUT_BY:
        raise DataError(f"by is {options.by!r}; expected one of {', '.join(HELD_OUT_BY)}")
    if Path(output).exists():
        raise DataError(
            f"{output} exists already and a held-out set is never changed: choose another path or delete it"
        )
    stores = [open_store(path, storage) for path in paths]
    refuse_different(stores, "one held-out set cannot be chosen from these stores")
    choice = _choose(stores, options)
    choice = replace(choice, ce=[*choice.ce, *find_other_answers(stores, choice.all, options.max_tokens)])
    by = None if options.by == "sample" else options.by
    related = find_related(stores, SharedValues.of(choice.all, by))
    _refuse_emptied(related, options)
    held_out = _assemble_held_out_set(stores, choice, related, options)
    _write(stores, choice, held_out, Path(output))
    return held_out


def _choose(stores: Sequence[Store], options: HeldOutOptions) -> Choice:
    sizes: Counter[PartKey] = Counter()
    for store in stores:
        for part in store.manifest.parts:
            sizes[part.key] += part.num_samples
    quotas = ce_quotas(dict(sorted(sizes.items())), options.num_ce)
    decode_of = decode_quotas(stores, sizes, options.num_decode)
    candidates = {
        key: list(
            islice(candidates_of(stores, key, options.seed, options.max_tokens), 4 * (n + decode_of.get(key, 0)) + 16)
        )
        for key, n in quotas.items()
    }
    everyone = [candidate for some in candidates.values() for candidate in some]
    copies = count_copies(find_related(stores, SharedValues.of(everyone, None)), everyone)
    taken: set[str] = set()
    contents: set[object] = set()

    def pick(key: PartKey, count: int, paired: bool = False) -> list[Candidate]:
        usable = [c for c in candidates[key] if c.has_transcript or not paired]
        picked: list[Candidate] = []
        for candidate in sorted(usable, key=lambda c: copies[c.sample_id] > MAX_COPIES):
            same = {candidate.checksum, candidate.transcript_hash} - {None}
            if len(picked) < count and candidate.sample_id not in taken and not same & contents:
                picked.append(candidate)
                taken.add(candidate.sample_id)
                contents.update(same)
        return picked

    ce = [candidate for key, count in quotas.items() for candidate in pick(key, count)]
    prompts = [c for key, count in decode_of.items() for c in pick(key, count, paired=_is_paired(stores, key))]
    return Choice(ce, find_references(stores, prompts, options.max_tokens, taken))


def ce_quotas(sizes: dict[PartKey, int], num_ce: int) -> dict[PartKey, int]:
    """Samples to score per part: by the root of its size, between one sample and a tenth of it."""
    caps = {key: max(1, size // MAX_PART_OF) for key, size in sizes.items()}
    if not len(caps) <= num_ce <= sum(caps.values()):
        raise DataError(
            f"num_ce is {num_ce:,}; set --num-ce to {len(caps):,} (one sample of every source, language and kind) "
            f"up to {sum(caps.values()):,} (a tenth of each)"
        )
    quotas = dict.fromkeys(sizes, 1)
    while (left := num_ce - sum(quotas.values())) > 0:
        open_keys = [key for key in sizes if quotas[key] < caps[key]]
        weights = np.sqrt([sizes[key] for key in open_keys])
        shares = np.floor(left * weights / weights.sum()).astype(int)
        shares[np.argsort(-weights, kind="stable")[: max(0, left - int(shares.sum()))]] += 1
        for key, share in zip(open_keys, shares.tolist(), strict=True):
            quotas[key] = min(caps[key], quotas[key] + share)
    return quotas


def decode_quotas(stores: Sequence[Store], sizes: Mapping[PartKey, int], num_decode: int) -> dict[PartKey, int]:
    """Samples to generate per part: languages take turns, and in each its parts with transcripts, else all speech."""
    by_language: dict[str, list[PartKey]] = {}
    for key in sorted(sizes):
        if key.kind is Kind.SPEECH:
            by_language.setdefault(key.language, []).append(key)
    paired = {language: [key for key in keys if _is_paired(stores, key)] for language, keys in by_language.items()}
    turns = [keys for language in by_language for keys in [paired[language] or by_language[language]]]
    caps = {key: max(1, sizes[key] // MAX_PART_OF) for keys in turns for key in keys}
    if turns and num_decode > sum(caps.values()):
        raise DataError(
            f"num_decode is {num_decode:,}; set --num-decode to at most {sum(caps.values()):,}, a tenth of the speech "
            "that can be generated"
        )
    quotas: Counter[PartKey] = Counter()
    while turns and quotas.total() < num_decode:
        for keys in turns:
            open_keys = [key for key in keys if quotas[key] < caps[key]]
            if open_keys and quotas.total() < num_decode:
                quotas[min(open_keys, key=lambda key: quotas[key])] += 1
    return dict(quotas)


def _is_paired(stores: Sequence[Store], key: PartKey) -> bool:
    return any(
        variant.name == "native"
        for store in stores
        for part in store.manifest.parts
        if part.key == key
        for variant in part.variants
    )


def _refuse_emptied(related: Sequence[Related], options: HeldOutOptions) -> None:
    """Refuses to hold out most of a part: it has few recordings or speakers, and nothing to train on would be left."""
    held = Counter((related.store, related.part.folder) for related in related)
    sizes = {(related.store, related.part.folder): related.part.num_samples for related in related}
    emptied = [
        f"{folder} ({count:,} of {sizes[number, folder]:,})"
        for (number, folder), count in held.items()
        if count > max(1, MAX_HELD_OUT * sizes[number, folder])
    ]
    if emptied:
        raise DataError(
            f"with --by {options.by} more than half of {emptied[0]} would be held out"
            + (f", and of {len(emptied) - 1} more parts" if len(emptied) > 1 else "")
            + "; hold out less with --by sample or a smaller --num-ce"
        )


def _assemble_held_out_set(
    stores: Sequence[Store], choice: Choice, related: Sequence[Related], options: HeldOutOptions
) -> HeldOutSet:
    chosen = {candidate.sample_id for candidate in choice.all}
    copies = {r.sample_id for r in related if r.is_copy} - chosen
    rest = {r.sample_id for r in related} - chosen - copies
    numbers: dict[str, set[int]] = {}
    for r in related:
        numbers.setdefault(r.part.fingerprint, set()).add(r.number)
    return HeldOutSet(
        seed=options.seed,
        by=options.by,
        max_tokens=options.max_tokens,
        stores=tuple(SourceStore(store.manifest.name, store.fingerprint) for store in stores),
        ce=tuple(sorted(candidate.sample_id for candidate in choice.ce)),
        decode=tuple(_prompt(*pair) for pair in choice.prompts),
        held_out=HeldOutIds(tuple(sorted(chosen)), tuple(sorted(rest)), tuple(sorted(copies))),
        numbers={part: tuple(sorted(some)) for part, some in sorted(numbers.items())},
    ).sealed()


def _prompt(prompt: Candidate, reference: Candidate | None) -> DecodePrompt:
    task = "clone" if reference is not None else "tts" if prompt.has_transcript else "continuation"
    return DecodePrompt(prompt.sample_id, task, prompt.part.language, reference.sample_id if reference else None)


def _write(stores: Sequence[Store], choice: Choice, held_out: HeldOutSet, output: Path) -> None:
    seed = stores[0].manifest.seed
    rows: dict[tuple[int, PartInfo, int], list[int]] = {}
    for candidate in choice.all:
        rows.setdefault((candidate.store, candidate.part, candidate.shard), []).append(candidate.row)
    rewrites = []
    for (number, part, shard), some in rows.items():
        info, chosen = part.shards[shard], partial(StoredShard.take, index_N=np.array(sorted(some), np.int64))
        rewrites.append(ShardRewrite(stores[number].files, part, info, f"{number}-{info.name}", seed, chosen))
    manifest = merged_manifest(stores, "gold of " + " + ".join(store.manifest.name for store in stores), seed)

    assemble_store(
        output,
        manifest,
        rewrites,
        shard_bytes=SHARD_BYTES,
        num_workers=1,
        verb="write",
        finish=lambda folder: write_atomically(folder / HELD_OUT_NAME, held_out.to_json()),
    )
