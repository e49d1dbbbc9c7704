"""In: (prompt key, language, transcript) of every utterance. Out: which prompts are held out.

A prompt key names a sentence in all its languages and voices (the prompt's file name, the English message,
the help page). Two keys with the same transcript in any one language are the same prompt too ("vm-and" and
"and" both say "and"), so keys are joined into groups first and a whole group falls on one side. The side
follows from a hash of the group's smallest key: it does not change when other prompts are added, unless
they join two groups.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

HELDOUT_PER_MILLE = 90


def heldout_keys(prompts: Iterable[tuple[str, str, str]]) -> set[str]:
    """Keys on the held-out side, from (key, language, transcript) triples."""
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for key, language, transcript in prompts:
        a, b = sorted((root(key), root(f"\0{language}\0{plain(transcript)}")), reverse=True)
        parent[a] = b
    members: dict[str, list[str]] = {}
    for key in parent:
        members.setdefault(root(key), []).append(key)
    names = [[k for k in group if not k.startswith("\0")] for group in members.values()]
    return {key for group in names for key in group if _is_heldout(min(group))}


def plain(transcript: str) -> str:
    """Lower case, letters and digits only: two prompts that sound alike compare equal."""
    return " ".join(re.sub(r"[\W_]+", " ", transcript.lower()).split())


def _is_heldout(key: str) -> bool:
    return stable_order(key) % 1000 < HELDOUT_PER_MILLE


def stable_order(key: str) -> int:
    """A number that depends on the key alone: a shuffle that is the same everywhere."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
