"""How a run ends, as an exit code a scheduler can act on.

In: the reason. Out: one of these codes, which docs/resilience.md says how to act on.
"""

from __future__ import annotations

EXIT_BAD_INPUT = 2
"""Configuration, stores or checkpoints are not as they should be; nothing was trained."""

EXIT_UNHEALTHY = 3
"""The run stopped itself: it would do the same again."""

EXIT_HUNG = 4
"""Another rank did not answer: a restart goes on from the last checkpoint."""

EXIT_RESTART = 75
"""EX_TEMPFAIL of sysexits.h: the run was asked to stop, or goes back a little; the same command goes on."""


class LeaveRun(SystemExit):
    """Ends every rank at a step boundary, with everything in order; no failure, so no traceback."""

    def __init__(self, reason: str) -> None:
        super().__init__(EXIT_RESTART)
        self.reason = reason
