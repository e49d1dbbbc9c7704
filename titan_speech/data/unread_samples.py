"""Why samples of a stream are not read as its task, counted by reason.

In: the documents of a stream. Out: number of samples per reason, such as `held out` or `without native transcript`. A
sample counts once, for the first reason that holds. Above 2^17 samples the counts are cached next to the store.

Shapes: N samples of a part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from titan_speech.data.documents import USER, ContinuationDocuments, Documents, InstructionDocuments, TextDocuments
from titan_speech.data.held_out_samples import NO_SAMPLES, MaskedPart
from titan_speech.data.paired_documents import (
    CloneDocuments,
    ClonePreferenceDocuments,
    PreferenceDocuments,
    StitchedDocuments,
    TTSDocuments,
    spans_of,
)
from titan_speech.data.pairing import encode_names
from titan_speech.store.derived_cache import derived_if_many, key_of
from titan_speech.store.reader import Part

Mask = NDArray[np.bool_]
Reason = tuple[str, Callable[[], Mask | np.bool_]]
"""Its words, and which samples of the part it holds for."""
UNREAD_VERSION = 1  # raised when the reasons of any task, or their order, change


def count_unread(documents: Iterable[Documents]) -> Counter[str]:
    """Samples of a stream that are not read as its task, by reason; samples above the sequence length are not among
    them."""
    total: Counter[str] = Counter()
    for some in documents:
        total += _count_part(some)
    return total


def describe_counts(counts: Counter[str]) -> str:
    """Such as `51 held out, 3 without native transcript`."""
    return ", ".join(f"{number:,} {reason}" for reason, number in counts.items())


def _count_part(documents: Documents) -> Counter[str]:
    reasons: list[Reason] = [*_reasons(documents), ("for another reason", _every)]
    key = key_of("unread samples", UNREAD_VERSION, documents.key)
    place, num_samples = documents.part.place, documents.num_documents
    counts = derived_if_many(place, num_samples, key, lambda: _count(documents, reasons))
    words = (reason for reason, _ in reasons)
    return Counter({reason: number for reason, number in zip(words, counts.ravel().tolist(), strict=True) if number})


def _count(documents: Documents, reasons: list[Reason]) -> NDArray[np.int64]:
    left_N = documents.lengths(0, documents.num_documents) == 0
    if isinstance(documents, StitchedDocuments):
        following = documents.chains.next_N
        left_N[following[following >= 0]] = False  # read, in the document of an earlier segment
    if isinstance(documents, PreferenceDocuments):
        chosen = np.flatnonzero(documents.rejected_N >= 0)
        left_N[documents.rejected_N[chosen]] = False  # read, with the chosen answer
        if isinstance(documents, ClonePreferenceDocuments):
            left_N[documents.voice_N[chosen]] = False
    counts = []
    for _, mask in reasons:
        holds_N = left_N & mask()
        counts.append(int(holds_N.sum()))
        left_N &= ~holds_N
    return np.array(counts, np.int64).reshape(-1, 1)


def _reasons(documents: Documents) -> list[Reason]:
    """In the order in which they are tried."""
    part = documents.part
    held_out, excluded = (part.held_out, part.excluded) if isinstance(part, MaskedPart) else (NO_SAMPLES, NO_SAMPLES)
    reasons: list[Reason] = [("held out", lambda: _mask_of(part, held_out))]
    if len(excluded):
        reasons.append(("excluded by where", lambda: _mask_of(part, excluded)))
    without_transcript = (
        f"without {documents.transcript} transcript",
        lambda: part.text_len_N(documents.transcript) == 0,
    )
    match documents:
        case StitchedDocuments(max_gap_sec=gap):
            reasons += [
                ("without source_video_id, speaker_id, segment_order or times", lambda: ~_has_place(documents)),
                (f"without a neighbour in their recording within {gap:g} s", _every),
            ]
        case ClonePreferenceDocuments():
            others = "the others of their prompt (X/chosen, X/rejected and X/voice)"
            reasons += [without_transcript, (f"without {others}", _every)]
        case PreferenceDocuments():
            other = "the other answer to their prompt (X/chosen and X/rejected)"
            reasons += [without_transcript, (f"without {other}", _every)]
        case TTSDocuments():
            reasons.append(without_transcript)
        case CloneDocuments(seq_len=seq_len):
            reference = f"a reference that does not overlap and keeps the pair within {seq_len:,} tokens"
            reasons += [
                without_transcript,
                ("without speaker_id", lambda: encode_names(part.column("speaker_id")) < 0),
                ("without another transcribed segment of the speaker", lambda: _alone(documents)),
                (f"without {reference}", _every),
            ]
        case ContinuationDocuments():
            reasons += [("of fewer than 2 codes", lambda: part.code_len_N < 2)]
        case InstructionDocuments():
            reasons += [("without a user's turn", lambda: part.text_len_N(USER) == 0)]
        case TextDocuments() if USER in part.variants:
            reasons += [("instructions", lambda: part.text_len_N(USER) > 0)]
    return reasons


def _every() -> np.bool_:
    return np.True_


def _mask_of(part: Part, numbers: NDArray[np.int64]) -> Mask:
    mask_N = np.zeros(part.num_samples, np.bool_)
    mask_N[numbers] = True
    return mask_N


def _has_place(documents: StitchedDocuments) -> Mask:
    part, spans = documents.part, spans_of(documents.part)
    known_N = (spans.recording_N >= 0) & (encode_names(part.column("speaker_id")) >= 0)
    known_N &= part.column("segment_order").is_valid().to_numpy()
    return known_N & np.isfinite(spans.start_sec_N) & np.isfinite(spans.end_sec_N)


def _alone(documents: CloneDocuments) -> Mask:
    """Samples whose speaker has no other transcribed one."""
    speaker_N = encode_names(documents.part.column("speaker_id"))
    usable_N = (speaker_N >= 0) & (documents.text_len_N(0, documents.part.num_samples) > 0)
    counts = np.bincount(speaker_N[usable_N], minlength=int(speaker_N.max(initial=0)) + 1)
    return counts[np.maximum(speaker_N, 0)] < 2
