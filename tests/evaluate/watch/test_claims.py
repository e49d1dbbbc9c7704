"""Work is done once: workers that are killed, slow or late lose nothing and double nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import pytest

from tests.support.runs import ROOT
from titan_speech.config.schema_data import StorageConfig
from titan_speech.evaluate.result import CLAIMS_DIR, RESULTS_DIR
from titan_speech.evaluate.watch import claims
from titan_speech.evaluate.watch.claims import MAX_ATTEMPTS, Claim, WorkQueue, do_once
from titan_speech.storage.shared_files import SharedFolder, VersionedFile, shared_folder

LEASE_SEC, BEAT_SEC = 0.6, 0.1


@pytest.fixture
def folder(tmp_path: Path) -> SharedFolder:
    return shared_folder(tmp_path / "shared", StorageConfig())


def queue(folder: SharedFolder, worker: str) -> WorkQueue:
    return WorkQueue(folder, worker, LEASE_SEC, BEAT_SEC)


def test_a_claim_keeps_others_out_as_long_as_it_beats(folder: SharedFolder) -> None:
    mine, other = queue(folder, "a"), queue(folder, "b")
    with mine.claimed("k") as claim:
        assert claim is not None
        deadline = time.monotonic() + 2 * LEASE_SEC
        while time.monotonic() < deadline:
            with other.claimed("k") as theirs:
                assert theirs is None
            time.sleep(0.05)
        assert mine.publish("k", {"score": 1})
    assert folder.names(CLAIMS_DIR) == []
    with other.claimed("k") as theirs:
        assert theirs is None
    assert other.result("k") == {"score": 1}


def test_work_that_fails_is_free_at_once(folder: SharedFolder) -> None:
    def fail() -> dict[str, int]:
        raise ValueError("this machine has no codec")

    with pytest.raises(ValueError, match="no codec"):
        do_once(queue(folder, "a"), "k", fail)
    assert do_once(queue(folder, "b"), "k", lambda: {"score": 2})


def test_work_that_is_given_back_late_is_still_that_of_who_took_it_over(folder: SharedFolder) -> None:
    """Between the look at its own claim and the write, the slow worker's claim is taken over."""
    path = f"{CLAIMS_DIR}/k.json"
    taken = Claim("b", "other token").to_json()

    class Overtaken:
        def read(self, name: str) -> VersionedFile | None:
            found = folder.read(name)
            if name == path and found is not None and has_failed:
                assert folder.replace(path, taken, found.version)
            return found

        def __getattr__(self, name: str) -> Any:
            return getattr(folder, name)

    has_failed = False
    slow = WorkQueue(cast("SharedFolder", Overtaken()), "a", LEASE_SEC, 60.0)

    def fail() -> dict[str, int]:
        nonlocal has_failed
        has_failed = True
        raise ValueError("failed")

    with pytest.raises(ValueError, match="failed"):
        do_once(slow, "k", fail)
    left = folder.read(path)
    assert left is not None
    assert left.content == taken


def test_a_claim_that_stands_still_is_taken_over_and_the_slow_worker_adds_nothing(folder: SharedFolder) -> None:
    slow = Claim("slow", "token")
    assert folder.create(f"{CLAIMS_DIR}/k.json", slow.to_json())
    other = queue(folder, "b")
    assert not do_once(other, "k", lambda: {"by": "b"})  # seen for the first time
    time.sleep(1.1 * LEASE_SEC)
    assert do_once(other, "k", lambda: {"by": "b"})
    assert not queue(folder, "slow").publish("k", {"by": "slow"})
    assert other.result("k") == {"by": "b"}


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"worker": 3, "token": "t"}', b"\xff"])
def test_a_damaged_claim_is_taken_over(folder: SharedFolder, content: bytes) -> None:
    folder.create(f"{CLAIMS_DIR}/k.json", content)
    mine = queue(folder, "a")
    assert not do_once(mine, "k", dict)
    time.sleep(1.1 * LEASE_SEC)
    assert do_once(mine, "k", dict)


def test_work_that_ends_every_worker_is_given_up(folder: SharedFolder) -> None:
    folder.create(f"{CLAIMS_DIR}/k.json", Claim("gone", "token", attempt=MAX_ATTEMPTS).to_json())
    mine = queue(folder, "a")
    assert not do_once(mine, "k", dict)
    time.sleep(1.1 * LEASE_SEC)
    assert do_once(mine, "k", lambda: pytest.fail("begun once more"), {"step": 7})
    found = mine.result("k") or {}
    assert found["step"] == 7
    assert f"begun {MAX_ATTEMPTS} times" in found["failed"]


def test_a_damaged_result_is_named(folder: SharedFolder) -> None:
    folder.create(f"{RESULTS_DIR}/k.json", b"{")
    with pytest.raises(claims.DataError, match="result k is damaged"):
        queue(folder, "a").result("k")


WORKER = """
import os, sys, time
from pathlib import Path
from titan_speech.config.schema_data import StorageConfig
from titan_speech.evaluate.watch.claims import WorkQueue, do_once
from titan_speech.storage.shared_files import shared_folder
folder, done = Path(sys.argv[1]), Path(sys.argv[2])
queue = WorkQueue(shared_folder(folder, StorageConfig()), f"worker {os.getpid()}", 0.6, 0.1)
def work():
    time.sleep(0.15)
    return {"by": os.getpid()}
while len(queue.done()) < 12:
    for number in range(12):
        if do_once(queue, f"k{number}", work):
            with open(done, "a") as file:
                file.write(f"k{number} {os.getpid()}\\n")
    time.sleep(0.05)
"""


def test_two_workers_under_random_kills_do_each_piece_once(tmp_path: Path) -> None:
    published, draw = tmp_path / "published", random.Random(0)

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", WORKER, str(tmp_path / "shared"), str(published)]
        return subprocess.Popen(command, cwd=ROOT)

    workers, num_kills = [start(), start()], 0
    deadline = time.monotonic() + 120
    while any(worker.poll() is None for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(draw.uniform(0.2, 0.6))
        place = draw.randrange(2)
        if num_kills < 6 and workers[place].poll() is None and (tmp_path / "shared").exists():
            os.kill(workers[place].pid, signal.SIGKILL)
            workers[place].wait()
            workers[place], num_kills = start(), num_kills + 1
    assert num_kills
    assert [worker.returncode for worker in workers] == [0, 0]
    written = sorted((tmp_path / "shared" / RESULTS_DIR).iterdir())
    results = [path for path in written if ".tmp-" not in path.name]  # of a worker that was killed while it wrote
    assert {path.stem for path in results} == {f"k{number}" for number in range(12)}
    by = {path.stem: json.loads(path.read_text())["by"] for path in results}
    lines = [line.split() for line in published.read_text().splitlines()]
    assert len({key for key, _ in lines}) == len(lines)  # nobody published what was there
    assert all(by[key] == int(pid) for key, pid in lines)
    claims = {path.name.partition(".")[0] for path in (tmp_path / "shared" / CLAIMS_DIR).iterdir()}
    assert claims <= set(by)  # killed after its result
