"""Exit codes, which a scheduler can act on; docs/checkpoints.md says how.

In: nothing. Out: one number for each way in which a command or a rank of a run ends.
"""

EXIT_DONE = 0

EXIT_FOUND_WRONG = 1
"""The command did its work and found damage: `verify`, `audit`."""

EXIT_BAD_INPUT = 2
"""Configuration, stores or checkpoints are not as they should be, found before the first step."""

EXIT_UNHEALTHY = 3
"""A run or a reward training stopped itself over its health, or after its first step over data or checkpoints: it would
do the same again."""

EXIT_HUNG = 4
"""Another rank is lost or did not answer: a restart resumes from the last checkpoint."""

EXIT_RESTART = 75
"""EX_TEMPFAIL of sysexits.h: the run was asked to stop, or was rolled back; the same command resumes."""

EXIT_INTERRUPTED = 130
"""Ctrl-C: 128 + SIGINT, as shells have it."""

EXIT_TERMINATED = 143
"""128 + SIGTERM."""
