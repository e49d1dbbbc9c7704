"""Scores of the samples of a token store, for `[[data.source]] where`.

In: a local store, the codec of its codes, and scorers. Out: `scores/PART.parquet` in the store
(store/score_columns.py), one column per metric, with the version of its scorer. Parts that have these columns already
are left alone, so that an interrupted run resumes with the part it was at; what another version computed is named.
Other columns of a part are kept. Every sample is decoded once: with the embedded codec and DNSMOS that is slower than
the audio on one busy core, so large stores are scored in part (`--datasets`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from titan_speech.codec.base import Codec
from titan_speech.errors import DataError
from titan_speech.evaluate.clip import Clip, Sound, resynthesized
from titan_speech.evaluate.scorers.base import Scorer, score_clips, unusable
from titan_speech.store.manifest import Kind
from titan_speech.store.reader import Part, open_store
from titan_speech.store.score_columns import UNKNOWN_SCORER, read_scores, scorers_of, write_scores

BATCH_SAMPLES = 32


@dataclass(frozen=True)
class ScoredPart:
    """What was done with a part."""

    name: str
    language: str
    num_samples: int
    num_values: dict[str, int]
    """Samples that have a value, by metric; empty where nothing was left to do."""
    other_scorers: dict[str, str] = field(default_factory=dict)
    """By metric that was there already: the scorer that computed it, where it is another one or another version."""


def score_store(
    place: Path,
    codec: Codec,
    scorers: Sequence[Scorer],
    datasets: Sequence[str] = (),
    report: Callable[[ScoredPart], None] = lambda _: None,
) -> list[ScoredPart]:
    """Score the speech of a store.

    Args:
        place: folder of the store.
        codec: that made its codes.
        scorers: whose metrics become columns.
        datasets: only these dataset sources; empty: all.
        report: called with each part when it is done.

    Raises:
        DataError: the codec is another one, the store has no such speech, a scorer fails on all of a part, or scores
            cannot be written.
    """
    store = open_store(place)
    made_by = store.manifest.codec
    if made_by is None or made_by.hash != codec.codec_hash:
        found = "no codec" if made_by is None else f"{made_by.name} ({made_by.hash})"
        raise DataError(f"{place} is of {found}, not of {codec.name} ({codec.codec_hash}); give its codec")
    parts = [one for one in store.parts if one.kind is Kind.SPEECH and (not datasets or one.dataset_source in datasets)]
    if not parts:
        raise DataError(f"{place} has no speech of {', '.join(datasets) or 'any source'}")
    done = []
    for part in parts:
        done.append(_score_part(place, part, codec, scorers))
        report(done[-1])
    return done


def _score_part(place: Path, part: Part, codec: Codec, scorers: Sequence[Scorer]) -> ScoredPart:
    columns = read_scores(part)
    versions = {metric.name: f"{scorer.name} {scorer.version}" for scorer in scorers for metric in scorer.metrics}
    names, before = list(versions), scorers_of(part)
    if set(names) <= columns.keys():
        kept = {name: before.get(name, UNKNOWN_SCORER) for name in names}
        others = {name: by for name, by in kept.items() if by != versions[name]}
        return ScoredPart(part.name, part.language, part.num_samples, {}, others)
    outcomes: dict[str, Counter[str]] = {name: Counter() for name in names}
    """Of samples that a model can take: how many failed by which reason, and "" of the others."""
    new = {name: np.full(part.num_samples, np.nan, np.float32) for name in names}
    for first in range(0, part.num_samples, BATCH_SAMPLES):
        numbers = range(first, min(first + BATCH_SAMPLES, part.num_samples))
        clips = _clips(part, numbers, codec)
        for number, clip, scores in zip(numbers, clips, score_clips(clips, scorers), strict=True):
            for name, score in scores.items():
                new[name][number] = np.nan if score.value is None else score.value
                if not unusable(clip.sound):
                    outcomes[name][score.reason if score.failed else ""] += 1
    for name, reasons in outcomes.items():
        if reasons and "" not in reasons:  # NaN would count as scored, and never be tried again
            ((reason, _),) = reasons.most_common(1)
            raise DataError(
                f"{name} of no sample of {part.name} could be computed: {reason}. Parts before it are scored; run the "
                "command again when that is mended"
            )
    try:
        write_scores(place, part, columns | new, before | versions)
    except OSError as error:
        raise DataError(f"scores cannot be written into {place}: {error}; make room, or copy the store") from error
    counts = {name: int(np.isfinite(values_N).sum()) for name, values_N in new.items()}
    return ScoredPart(part.name, part.language, part.num_samples, counts)


def _clips(part: Part, numbers: Sequence[int], codec: Codec) -> list[Clip]:
    clips = []
    for number in numbers:
        row = part.row(number)
        sound = resynthesized(Sound(codes_F=np.array(part.codes(number))), codec)
        clips.append(
            Clip(prompt_id=row.sample_id, language=row.language, text=row.transcript_native or "", sound=sound)
        )
    return clips
