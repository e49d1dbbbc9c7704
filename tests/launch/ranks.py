"""Launches ranks that only run a line of Python, as `titan-speech train` launches those of a run.

`python -m tests.launch.ranks FOLDER NUM_RANKS STOP_WITHIN_SEC CODE MAX_RESTARTS` ends with the launcher's code.
"""

from __future__ import annotations

import sys
from pathlib import Path

from titan_speech.launch import agent
from titan_speech.launch.agent import Launch, run_ranks


def run_code(
    folder: Path,
    code: str,
    num_ranks: int,
    *,
    max_restarts: int = 0,
    stop_within_sec: float = 20.0,
    restarts_after_stop: bool = False,
) -> int:
    """The exit code of a launch whose ranks run `code`."""
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    launch = Launch(
        name="test",
        num_processes=num_ranks,
        min_nodes=1,
        max_nodes=1,
        endpoint="",
        local_address=None,
        max_restarts=max_restarts,
        stop_within_sec=stop_within_sec,
        restarts_after_stop=restarts_after_stop,
        checkpoints=folder / "checkpoint",
        logs=folder / "logs",
        entry=("-c", code),
    )
    return run_ranks(launch, [])


if __name__ == "__main__":
    agent.IMPORTS_SEC = agent.OTHERS_SEC = 0  # these ranks import nothing that takes long, and fail on purpose
    folder, num_ranks, stop_within_sec, code, max_restarts = sys.argv[1:]
    sys.exit(
        run_code(
            Path(folder), code, int(num_ranks), stop_within_sec=float(stop_within_sec), max_restarts=int(max_restarts)
        )
    )
