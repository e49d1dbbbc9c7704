"""A variant of tests: steps that do nothing but count; told to, it fails, takes its time for a step, or reads ahead
what takes a while. Several ranks are counted together."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator

from benchmarks.talker import Talker
from titan_speech.data.loader import Prefetcher

STEP_SEC, READ_SEC, NUM_READ_AHEAD = 0.2, 0.05, 4


def slowly() -> Iterator[int]:
    while True:
        time.sleep(READ_SEC)
        yield 0


def main(tokens: int, *, fails: bool, works: bool, reads: bool) -> None:
    if fails:
        raise SystemExit("no such store")
    if os.environ["WORLD_SIZE"] != "1":
        from torch.distributed import init_process_group

        init_process_group("gloo")
    talker = Talker()
    batches = Prefetcher(talker.only_in_turn(slowly()), NUM_READ_AHEAD) if reads else None
    while talker.at_boundary():
        if batches is not None:
            next(batches)
        time.sleep(STEP_SEC * works)
        talker.count(tokens, tokens // 2, 1)


if __name__ == "__main__":
    main(int(sys.argv[1]), fails="fail" in sys.argv, works="work" in sys.argv, reads="read" in sys.argv)
