"""The result of one evaluation as JSON: what was scored with what, and every score of every clip.

In: clips, their scores, and the key: what was scored (fingerprint of the checkpoint), with which prompts (hash of the
pack), how it was decoded, by which scorers. Out: `Result`, one JSON file, read back checked. Results are compared only
where everything but the model is equal (`series`): another temperature or another ASR starts a new series.

Every score is kept, not means alone: comparisons are paired by prompt (statistics.py), and the worst clips are shown
first.

RUN/evaluation/results/KEY.json      one result, or why it is missing; parity-...json: of an export
RUN/evaluation/claims/KEY.json       a worker is at it (watch/claims.py)
RUN/evaluation/audio/KEY/HASH.wav    clips that were kept, by a hash of the prompt's id
RUN/evaluation/step-N.md             a summary, for the card of the export of a step (hf/export.py)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from titan_speech.errors import DataError
from titan_speech.evaluate.clip import Clip, Score, Scores
from titan_speech.utils.files import write_atomically
from titan_speech.utils.json_text import read_json_file
from titan_speech.utils.printable import escape_controls
from titan_speech.utils.record_types import check_types

RESULTS_DIR, CLAIMS_DIR, AUDIO_DIR = "results", "claims", "audio"
PARITY_PREFIX = "parity-"
"""Of keys whose result is the comparison of a milestone export with its checkpoint."""

RESULT_VERSION = 1
MAX_SCORE = 1e12


@dataclass(frozen=True)
class ResultKey:
    """What a result depends on; two results of one key are the same result."""

    model: str
    """Fingerprint of the checkpoint's or export's weights; a name for clips that no model made."""
    pack: str
    """Hash of the prompt pack."""
    decoding: dict[str, float | str]
    """Sampling parameters by name; engine and task where they are not the usual ones."""
    scorers: dict[str, str]
    """Version of each scorer by name."""

    @property
    def series(self) -> str:
        """16 hex digits of everything but the model: results of one series can be compared."""
        return _digest([self.pack, self.decoding, self.scorers])

    @property
    def id(self) -> str:
        """16 hex digits of the whole key: the name of the result's file."""
        return _digest([self.model, self.series])


@dataclass(frozen=True)
class ScoredClip:
    """The scores of one clip, without its audio."""

    prompt_id: str
    language: str
    subset: str
    seed: int
    scores: dict[str, Score]

    def value(self, metric: str) -> float | None:
        """None if the metric was not scored, or has no value."""
        return self.scores[metric].value if metric in self.scores else None


@dataclass(frozen=True)
class Result:
    """One evaluation."""

    key: ResultKey
    clips: tuple[ScoredClip, ...]
    step: int | None = None
    """Of the checkpoint."""
    name: str = ""
    """For people: the run, the export or the folder that was scored."""
    trust: tuple[dict[str, Any], ...] = ()
    """Rows of the ASR trust table (trust.py) that decided which error rates are measured."""
    notes: dict[str, float] | None = None
    """Of the generation: tokens per second, seconds."""
    version: int = RESULT_VERSION

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of all metrics, in the order of the scorers."""
        return tuple(dict.fromkeys(name for clip in self.clips for name in clip.scores))

    def failures(self) -> dict[str, set[str]]:
        """What went wrong, by prompt; a metric that does not apply is not a failure."""
        found: dict[str, set[str]] = {}
        for clip in self.clips:
            for score in clip.scores.values():
                if score.failed:
                    found.setdefault(clip.prompt_id, set()).add(score.reason)
        return found

    def missing(self) -> dict[str, dict[str, int]]:
        """How many clips have no value of a metric, by metric and reason."""
        found: dict[str, dict[str, int]] = {}
        for clip in self.clips:
            for name, score in clip.scores.items():
                if score.value is None:
                    reasons = found.setdefault(name, {})
                    reasons[score.reason] = reasons.get(score.reason, 0) + 1
        return found

    def to_json(self) -> dict[str, Any]:
        """The content of the JSON file."""
        return {"series": self.key.series, "id": self.key.id} | asdict(self)

    def write(self, path: Path) -> None:
        """Write the JSON file; an existing one is replaced.

        Raises:
            DataError: it cannot be written.
        """
        try:
            text = json.dumps(self.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
            write_atomically(path, escape_controls(text) + "\n")
        except OSError as error:
            raise DataError(f"the result cannot be written to {path}: {error}; give another path") from error


def make_result(
    key: ResultKey,
    clips: Sequence[Clip],
    scores: Sequence[Scores],
    *,
    step: int | None = None,
    name: str = "",
    trust: Sequence[Mapping[str, Any]] = (),
    notes: dict[str, float] | None = None,
) -> Result:
    """The result of clips and their scores, both in one order."""
    rows = (
        ScoredClip(clip.prompt_id, clip.language, clip.subset, clip.seed, dict(found))
        for clip, found in zip(clips, scores, strict=True)
    )
    return Result(key, tuple(rows), step, name, tuple(map(dict, trust)), notes)


def read_result(path: Path) -> Result:
    """Read a result.

    Raises:
        DataError: the file is missing or damaged, or it was written by a newer version.
    """
    try:
        content = read_json_file(path)
    except (OSError, ValueError) as error:
        raise DataError(f"no result can be read at {path}: {error}; evaluate again") from error
    return result_from_json(content, str(path))


def result_from_json(content: Any, where: str) -> Result:
    """The inverse of `Result.to_json`.

    Args:
        content: parsed JSON.
        where: it comes from, for messages.

    Raises:
        DataError: it is damaged, or was written by a newer version.
    """
    try:
        if content["version"] != RESULT_VERSION:
            found = f"has version {content['version']!r}, this titan_speech reads {RESULT_VERSION}"
            raise DataError(f"{where} {found}; upgrade titan_speech, or evaluate again")
        result = Result(
            ResultKey(**content["key"]),
            tuple(_clip(clip) for clip in content["clips"]),
            trust=tuple(content["trust"]),
            **{name: content[name] for name in ("step", "name", "notes", "version")},
        )
        check_types(result)
        _check_scores(result)
        stated = content["id"]
    except DataError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{where} is no result of an evaluation, or is damaged ({error!r}); evaluate again") from error
    if stated != result.key.id:
        raise DataError(f"{where} is damaged: its id is {stated!r}, its key gives {result.key.id}; evaluate again")
    return result


def _check_scores(result: Result) -> None:
    """Raises ValueError where products and sums of scores would leave the range of floats, a weight is negative, or
    one clip is there twice."""
    if len({(clip.prompt_id, clip.seed) for clip in result.clips}) < len(result.clips):
        raise ValueError("two clips have one prompt and seed")
    for clip in result.clips:
        for name, score in clip.scores.items():
            if not (abs(score.value or 0.0) <= MAX_SCORE and 0 <= score.weight <= MAX_SCORE):
                found = f"{score.value:g} with weight {score.weight:g}" if score.value is not None else score.weight
                raise ValueError(f"{name} of {clip.prompt_id!r:.80} is {found}, expected at most {MAX_SCORE:g}")


def _clip(content: dict[str, Any]) -> ScoredClip:
    scores = {name: Score(**score) for name, score in content["scores"].items()}
    return replace(ScoredClip(**content), scores=scores)


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def result_path(key_id: str) -> str:
    """The result of a key."""
    return f"{RESULTS_DIR}/{key_id}.json"


def claim_path(key_id: str) -> str:
    """The claim of a key."""
    return f"{CLAIMS_DIR}/{key_id}.json"


def audio_path(key_id: str, prompt_id: str) -> str:
    """The clip of a prompt; any text may be the id of a prompt, so its hash is the name."""
    return f"{AUDIO_DIR}/{key_id}/{clip_name(prompt_id)}.wav"


def clip_name(prompt_id: str) -> str:
    """The name of a prompt's clip, without .wav."""
    return hashlib.sha256(prompt_id.encode()).hexdigest()[:16]
