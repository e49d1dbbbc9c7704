"""Prompts from a held-out set: recorded sentences that training never reads, with a reference of each speaker.

In: what `store held-out` made. Out: drafts of its generation samples, with the codes of the recording and of the
reference; prompts of a text in one language with a voice of another (subset cross_lingual); transcripts of mixed
languages where the set has them (subset code_mixed). Audio is left out: the codec of the store decodes the codes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from titan_speech.config.schema_data import StorageConfig
from titan_speech.errors import DataError
from titan_speech.evaluate.clip import Sound
from titan_speech.evaluate.prompt_packs.drafts import Draft
from titan_speech.store.held_out_set import read_held_out_set
from titan_speech.store.manifest import Kind
from titan_speech.store.reader import Store, open_store
from titan_speech.store.sample import SampleRow

Found = dict[str, tuple[SampleRow, Sound]]


def held_out_drafts(
    place: str, storage: StorageConfig | None = None, num_cross_lingual: int = 0
) -> tuple[list[Draft], str]:
    """The prompts of a held-out set, and the hash of its codec.

    Args:
        place: folder or s3://bucket/prefix of the set.
        storage: how object storage is reached.
        num_cross_lingual: how many prompts get a voice of another language besides.

    Raises:
        DataError: there is no set, or it has no generation sample with a transcript.
    """
    store, held_out = open_store(place, storage), read_held_out_set(place, storage)
    prompts = {prompt.sample_id: prompt for prompt in held_out.decode}
    wanted = prompts.keys() | {one.reference_id for one in held_out.decode if one.reference_id}
    found = _samples(store, wanted)
    drafts = []
    for sample_id, prompt in prompts.items():
        if sample_id not in found or not (found[sample_id][0].transcript_native or "").strip():
            continue
        row, sound = found[sample_id]
        reference = found.get(prompt.reference_id or "")
        voice, voice_text = (None, "") if reference is None else (reference[1], reference[0].transcript_native or "")
        drafts.append(Draft(sample_id, row.language, row.transcript_native or "", "", voice, voice_text, "", sound))
        if row.transcript_code_mixed:
            mixed = f"{sample_id}/code_mixed"
            drafts.append(Draft(mixed, row.language, row.transcript_code_mixed, "code_mixed", voice, voice_text))
    if not drafts:
        raise DataError(f"{place} has no generation sample with a transcript; make it with --num-decode")
    codec = store.manifest.codec
    return drafts + list(_cross_lingual(drafts, num_cross_lingual)), "" if codec is None else codec.hash


def _samples(store: Store, wanted: set[str]) -> Found:
    """Rows and codes of samples by id."""
    found: Found = {}
    for part in store.parts:
        if part.kind is not Kind.SPEECH:
            continue
        ids = part.column("sample_id").to_pylist()
        for number, sample_id in enumerate(ids):
            if sample_id in wanted:
                found[sample_id] = (part.row(number), Sound(codes_F=np.array(part.codes(number))))
    return found


def _cross_lingual(drafts: list[Draft], count: int) -> Iterator[Draft]:
    """Texts with the voice of the next language in the alphabet."""
    with_voice = [draft for draft in drafts if draft.voice is not None and not draft.subset]
    languages = sorted({draft.language for draft in with_voice})
    if count and len(languages) < 2:
        raise DataError(f"voices across languages need two languages with reference speech, found {len(languages)}")
    by_language = {language: [d for d in with_voice if d.language == language] for language in languages}
    for number in range(min(count, len(with_voice))):
        language = languages[number % len(languages)]
        other = languages[(number + 1) % len(languages)]
        turn = number // len(languages)
        text = by_language[language][turn % len(by_language[language])]
        voice = by_language[other][turn % len(by_language[other])]
        yield Draft(
            f"{text.prompt_id}/in_a_voice_of_{other}-{turn}", language, text.text, "cross_lingual", voice.voice,
            voice.voice_text, other,
        )  # fmt: skip
