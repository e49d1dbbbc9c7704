"""A contestant of tests: steps that do nothing but count; told to, it fails. Several ranks are counted together."""

from __future__ import annotations

import os
import sys

from benchmarks.talker import Talker


def main(tokens: int, *, fails: bool) -> None:
    if fails:
        raise SystemExit("no such store")
    if os.environ["WORLD_SIZE"] != "1":
        from torch.distributed import init_process_group

        init_process_group("gloo")
    talker = Talker()
    while talker.at_boundary():
        talker.count(tokens, tokens // 2, 1)


if __name__ == "__main__":
    main(int(sys.argv[1]), fails="fail" in sys.argv)
