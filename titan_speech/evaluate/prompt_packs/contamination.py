"""What of a pack is also in training data: a model that has read its exam proves nothing.

In: a pack and token stores. Out: `Contamination`: prompts whose text is a transcript of the store, exactly or after
normalization for scoring, and recordings or references whose codes are in the store. Text is found in every transcript
variant that the sidecar keeps; audio by its codes, so that the codec must be the store's: sounds without codes, or of
another codec, are counted as not compared. Samples that a held-out set keeps from training are left out of the store.

A pass over the store reads its sidecars, and the codes of samples whose length occurs in the pack.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from titan_speech.evaluate.normalization.scoring import ScoringRules
from titan_speech.evaluate.prompt_packs.prompt_pack import PromptPack, read_sound
from titan_speech.store.manifest import Kind
from titan_speech.store.reader import Part, Store
from titan_speech.store.sample import TRANSCRIPT_VARIANTS

TEXT_RULES = ScoringRules("digits")
"""Numbers stay digits: nothing must be installed, and both sides are written alike."""


@dataclass(frozen=True)
class Overlap:
    """One prompt that the store has too."""

    prompt_id: str
    kind: str
    """exact text, normalized text, codes of the recording, codes of the reference"""
    store: str
    sample_id: str


@dataclass(frozen=True)
class Contamination:
    """What a pack and stores have in common."""

    num_prompts: int
    num_samples: int
    """Of the stores, that training may read."""
    overlaps: tuple[Overlap, ...]
    num_sounds: int
    """Recordings and references whose codes were compared."""
    num_sounds_not_compared: int
    """Without codes, or of another codec than the store's."""

    @property
    def is_clean(self) -> bool:
        return not self.overlaps

    def lines(self) -> list[str]:
        """For a terminal."""
        kinds: dict[str, set[str]] = {}
        for one in self.overlaps:
            kinds.setdefault(one.kind, set()).add(one.prompt_id)
        lines = [f"{self.num_prompts:,} prompts compared with {self.num_samples:,} samples that training may read"]
        lines += [f"{len(ids):,} prompts: {kind}" for kind, ids in sorted(kinds.items())]
        lines += [f"  {one.prompt_id}: {one.kind} of {one.sample_id} in {one.store}" for one in self.overlaps[:20]]
        if self.num_sounds_not_compared:
            lines.append(
                f"{self.num_sounds_not_compared:,} of {self.num_sounds + self.num_sounds_not_compared:,} sounds were "
                "not compared: they have no codes of the store's codec"
            )
        return [*lines, "no overlap" if self.is_clean else "overlap: scores of these prompts are not to be trusted"]


def contamination(
    pack: PromptPack, folder: Path, stores: Sequence[Store], held_out_ids: Iterable[str] = ()
) -> Contamination:
    """Compare a pack with stores.

    Args:
        pack: its prompts.
        folder: of the pack, which holds its sounds.
        stores: that training reads.
        held_out_ids: samples that training never reads (`HeldOutSet.held_out.all`).
    """
    exact: dict[str, list[str]] = {}
    normalized: dict[tuple[str, str], list[str]] = {}
    for prompt in pack.prompts:
        exact.setdefault(prompt.text.strip(), []).append(prompt.prompt_id)
        language = prompt.language.split("-")[0]
        normalized.setdefault((language, TEXT_RULES(prompt.text, prompt.language)), []).append(prompt.prompt_id)
    sounds, num_without = _sounds(pack, folder)
    kept_out, overlaps, num_samples, num_compared = set(held_out_ids), list[Overlap](), 0, 0
    for store in stores:
        codec = store.manifest.codec
        of_store = sounds if codec is not None and codec.hash == pack.codec_hash else {}
        num_compared = max(num_compared, sum(map(len, of_store.values())))
        for part in store.parts:
            if part.kind is not Kind.SPEECH:
                continue
            ids = part.column("sample_id").to_pylist()
            is_read = [one not in kept_out for one in ids]
            num_samples += sum(is_read)
            for number, kind, prompt_ids in _matches(part, exact, normalized, of_store):
                if is_read[number]:
                    overlaps += [Overlap(one, kind, store.path, ids[number]) for one in prompt_ids]
    num_sounds = sum(map(len, sounds.values()))
    return Contamination(
        len(pack.prompts), num_samples, tuple(dict.fromkeys(overlaps)), num_compared,
        num_without + num_sounds - num_compared,
    )  # fmt: skip


def _sounds(pack: PromptPack, folder: Path) -> tuple[dict[bytes, list[tuple[str, str]]], int]:
    """Prompts and kinds by the codes of their sounds, and how many sounds have none."""
    found: dict[bytes, list[tuple[str, str]]] = {}
    num_without = 0
    for prompt in pack.prompts:
        for kind, files in (("codes of the recording", prompt.recording), ("codes of the reference", prompt.voice)):
            if files is None:
                continue
            if files.codes is None:
                num_without += 1
                continue
            codes_F = read_sound(folder, files).codes_F
            assert codes_F is not None
            found.setdefault(codes_F.tobytes(), []).append((prompt.prompt_id, kind))
    return found, num_without


def _matches(
    part: Part,
    exact: dict[str, list[str]],
    normalized: dict[tuple[str, str], list[str]],
    sounds: dict[bytes, list[tuple[str, str]]],
) -> Iterator[tuple[int, str, list[str]]]:
    """Number of a sample, the kind of overlap, and the prompts."""
    primary = part.language.split("-")[0]
    has_language = any(language == primary for language, _ in normalized)
    for variant in TRANSCRIPT_VARIANTS:
        if variant not in part.variants:
            continue
        for number, text in enumerate(part.column(f"transcript_{variant}").to_pylist()):
            if not text:
                continue
            same = exact.get(text.strip(), [])
            alike = normalized.get((primary, TEXT_RULES(text, part.language)), []) if has_language else []
            if same:
                yield number, "exact text", same
            if others := [one for one in alike if one not in same]:
                yield number, "normalized text", others
    lengths = {len(codes) // 2 for codes in sounds}
    for number in np.flatnonzero(np.isin(part.code_len_N, list(lengths))).tolist() if lengths else ():
        for prompt_id, kind in sounds.get(part.codes(number).tobytes(), ()):
            yield number, kind, [prompt_id]
