"""A contestant of tests: steps that do nothing but count; told to, it fails."""

from __future__ import annotations

import sys

from benchmarks.talker import Talker


def main(tokens: int, *, fails: bool) -> None:
    if fails:
        raise SystemExit("no such store")
    talker = Talker()
    while talker.at_boundary():
        talker.count(tokens, tokens // 2, 1)


if __name__ == "__main__":
    main(int(sys.argv[1]), fails="fail" in sys.argv)
