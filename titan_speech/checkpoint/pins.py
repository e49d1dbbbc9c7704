"""Checkpoints pinned by hand, which retention leaves as they are.

In: a checkpoint folder and a step. Out: `pinned/step-N`, one empty file a pin: it is made and removed whole, also while
the run goes on.
"""

from __future__ import annotations

from pathlib import Path

from titan_speech.checkpoint.commit import STEP_NAME
from titan_speech.errors import CheckpointError

FOLDER = "pinned"


def pinned_steps(folder: Path) -> frozenset[int]:
    matches = (STEP_NAME.fullmatch(path.name) for path in (folder / FOLDER).glob("step-*"))
    return frozenset(int(match[1]) for match in matches if match)


def pin(folder: Path, step: int) -> None:
    (folder / FOLDER).mkdir(exist_ok=True)
    (folder / FOLDER / f"step-{step}").touch()


def unpin(folder: Path, step: int) -> None:
    """
    Raises:
        CheckpointError: the step is not pinned.
    """
    try:
        (folder / FOLDER / f"step-{step}").unlink()
    except FileNotFoundError as error:
        pinned = ", ".join(map(str, sorted(pinned_steps(folder)))) or "none"
        raise CheckpointError(
            f"step {step} in {folder} is not pinned, so nothing was changed; pinned: {pinned}"
        ) from error
