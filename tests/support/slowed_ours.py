"""This trainer with a loader that sleeps: a build that has lost speed, for the alarm to find."""

from __future__ import annotations

import sys
import time
from typing import Any

import benchmarks.loops.ours as ours
from titan_speech.data import loader

SLEEP_SEC = 10.0
"""Of a batch; reading ahead hides what is shorter than a step, and steps are long on a busy machine."""

_as_batch = loader.as_batch


def _slow_batch(laid: Any) -> Any:
    time.sleep(SLEEP_SEC)
    return _as_batch(laid)


if __name__ == "__main__":
    loader.as_batch = _slow_batch
    ours.main(sys.argv[1:])
