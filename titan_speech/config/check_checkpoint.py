"""When checkpoints are saved, before a run begins.

In: the configuration. Out: findings for a cadence whose rules do not follow each other up to the end of the run.
"""

from __future__ import annotations

from collections.abc import Iterator

from titan_speech.config.finding import Finding
from titan_speech.config.tables import SpeechConfig


def check_cadence(config: SpeechConfig) -> Iterator[Finding]:
    """Rules follow each other; the last one covers all that is left."""
    rules = config.checkpoint.cadence
    if not rules:
        yield Finding(("checkpoint.cadence",), "no rule", "at least one, such as [{every = 1_000}]")
    before = 0
    for index, rule in enumerate(rules):
        key, is_last = f"checkpoint.cadence.{index}", index == len(rules) - 1
        if rule.every < 1:
            yield Finding((f"{key}.every",), str(rule.every), "a value at least 1")
        if is_last != (rule.until is None):
            found = "no until" if rule.until is None else f"until = {rule.until} in the last rule"
            yield Finding((f"{key}.until",), found, "until in every rule but the last")
        elif rule.until is not None and rule.until <= before:
            yield Finding((f"{key}.until",), str(rule.until), f"more than the rule before it, {before}")
        before = rule.until or before
