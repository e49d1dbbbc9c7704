"""What an earlier life of a run wrote to torchrun's store is not met again."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.runs import ROOT, free_port


@pytest.mark.parametrize("how", ["standalone", "static"])
def test_a_restarted_life_meets_at_a_store_of_its_own(how: str) -> None:
    static = ("--master-addr", "127.0.0.1", "--master-port", str(free_port()))
    launch = ("--standalone",) if how == "standalone" else static
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", *launch, "--nproc-per-node", "2", "--max-restarts", "1"),
            "tests/support/meet_again.py",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    said = sorted(line for line in finished.stdout.splitlines() if line.startswith("rank"))
    assert said == [f"rank {rank} read {life}, was there before: False" for rank in range(2) for life in range(2)], (
        finished.stderr[-4000:]
    )
    assert finished.returncode == 0
