"""Names in the folder in which evaluations of a run are kept.

RUN/evaluation/results/KEY.json      one result (result.py), or why there is none; parity-...json: of an export
RUN/evaluation/claims/KEY.json       a worker is at it (watch/claims.py)
RUN/evaluation/audio/KEY/HASH.wav    clips that were kept, by a hash of the prompt's id
RUN/evaluation/step-N.md             a summary, for the card of the export of a step (hf/export.py)
"""

from __future__ import annotations

import hashlib

RESULTS, CLAIMS, AUDIO = "results", "claims", "audio"
PARITY_PREFIX = "parity-"
"""Of keys whose result is the comparison of a milestone export with its checkpoint."""


def result_path(key_id: str) -> str:
    """The result of a key."""
    return f"{RESULTS}/{key_id}.json"


def claim_path(key_id: str) -> str:
    """The claim of a key."""
    return f"{CLAIMS}/{key_id}.json"


def audio_path(key_id: str, prompt_id: str) -> str:
    """The clip of a prompt; any text may be the id of a prompt, so its hash is the name."""
    return f"{AUDIO}/{key_id}/{clip_name(prompt_id)}.wav"


def clip_name(prompt_id: str) -> str:
    """The name of a prompt's clip, without .wav."""
    return hashlib.sha256(prompt_id.encode()).hexdigest()[:16]
