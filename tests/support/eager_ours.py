"""This trainer with compilation switched off whatever is asked for: a build that has lost it, for the alarm to find."""

from __future__ import annotations

import sys

import benchmarks.loops.ours as ours

if __name__ == "__main__":
    ours.main([*sys.argv[1:], "--compile.enable", "false"])
