"""Words with several accepted spellings: what a reader accepts is not an error.

In: a file in which each line is a language and spellings of one word, separated by tabs; a spelling may have several
words ("web site"). Out: `Spellings`, which turns a reference into a row of slots, each with its accepted spellings. An
error rate against slots is the least over all ways to read them: orthographically informed WER (OIWER, arXiv
2603.00941). Spellings and references pass the same rules (scoring.py).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from titan_speech.errors import DataError
from titan_speech.evaluate.normalization.scoring import ScoringRules
from titan_speech.utils.json_text import read_small_file

Words = tuple[str, ...]
Slot = tuple[Words, ...]
"""Accepted readings of one place of a reference; the first is the one that was written."""
MAX_FILE_BYTES = 64 << 20


@dataclass(frozen=True)
class Spellings:
    """Accepted spellings by language; empty: every word has one."""

    groups: dict[str, dict[Words, Slot]] = field(default_factory=dict)
    """By language, each spelling with all of its group."""
    version: str = ""
    """Of the file."""

    def slots(self, words: Words, language: str) -> list[Slot]:
        """A reference as slots; the longest spelling that begins at a word is taken.

        Args:
            words: of the reference, as they are compared.
            language: BCP 47 tag; its primary subtag counts.
        """
        groups = self.groups.get(language.split("-")[0], {})
        longest = max(map(len, groups), default=0)
        slots, at = [], 0
        while at < len(words):
            candidates = (words[at : at + n] for n in range(min(longest, len(words) - at), 0, -1))
            found = next((one for one in candidates if one in groups), None)
            written = found or words[at : at + 1]
            others = tuple(one for one in groups[found] if one != found) if found else ()
            slots.append((written, *others))
            at += len(written)
        return slots


NO_SPELLINGS = Spellings()


def read_spellings(path: Path, rules: ScoringRules) -> Spellings:
    """Read a file of accepted spellings.

    Args:
        path: UTF-8 lines of a language and two spellings or more, separated by tabs; # begins a comment.
        rules: that references are normalized by.

    Raises:
        DataError: the file cannot be read, or a line is not as expected.
    """
    try:
        content = read_small_file(path, MAX_FILE_BYTES)
        lines = content.decode().splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"no accepted spellings can be read from {path}: {error}; expected UTF-8 text") from error
    groups: dict[str, dict[Words, Slot]] = defaultdict(dict)
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        language, *spellings = line.split("\t")
        group = tuple(dict.fromkeys(tuple(rules(one, language).split()) for one in spellings if one.strip()))
        if len(spellings) < 2 or not all(group):
            raise DataError(
                f"{path}, line {number}: found {len(spellings)} spellings, expected a language and at least two "
                "spellings with letters, separated by tabs"
            )
        by_spelling = groups[language.split("-")[0]]
        for one in group:
            if by_spelling.get(one, group) != group:
                raise DataError(f"{path}, line {number}: {' '.join(one)!r} is in two groups; join them in one line")
            by_spelling[one] = group
    return Spellings(dict(groups), hashlib.sha256(content).hexdigest()[:16])
