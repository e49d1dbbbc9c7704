"""Which checkpoint is sent next.

In: what lies complete in the folder and not yet at the address. Out: one of them. What was begun is finished first, so
that a slow network ends one checkpoint after the other instead of beginning many. Then, where several wait, the newest
full one: should the machine go away now, that is the one to go on from. The others follow, the oldest first.
"""

from __future__ import annotations

from collections.abc import Sequence

from titan_speech.checkpoint.upload.local import LocalCheckpoint


def next_to_send(
    waiting: Sequence[LocalCheckpoint], newest_sent_step: int = -1, begun: str | None = None
) -> LocalCheckpoint | None:
    """`newest_sent_step` is the step of the newest full checkpoint that is complete at the address already."""
    for one in waiting:
        if one.name == begun:
            return one
    newest = max((one for one in waiting if one.kind == "full"), key=lambda one: one.step, default=None)
    if newest is not None and newest.step > newest_sent_step:
        return newest
    return min(waiting, key=lambda one: (one.step, one.kind != "full"), default=None)
