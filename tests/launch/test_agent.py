"""The launcher: exit codes, messages, signals, restarts and log files, with ranks that do little."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch.ranks import run_code
from tests.support.runs import ROOT, children, kill
from titan_speech.distributed.last_words import LAUNCHER_VARIABLE, resume_hint
from titan_speech.launch import agent
from titan_speech.launch.agent import exit_code

EXIT_BY_RANK = "import os, sys; sys.exit({}[int(os.environ['RANK'])])"


@pytest.fixture(autouse=True)
def same_environment() -> Iterator[None]:
    """A launch sets variables for its ranks; here it shares the process with the tests."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize("codes", [[0], [2], [3], [4], [75], [1], [0, 0], [2, 2], [3, 3], [75, 75], [0, 7]])
def test_the_code_of_the_ranks_is_the_code_of_the_launcher(tmp_path: Path, codes: list[int]) -> None:
    assert run_code(tmp_path, EXIT_BY_RANK.format(codes), len(codes), max_restarts=0) == max(codes)


def test_what_a_rank_found_comes_before_what_followed_from_it() -> None:
    assert exit_code([4, 2]) == exit_code([75, 2]) == exit_code([-9, 2]) == 2
    assert exit_code([4, 3, 75]) == 3
    assert exit_code([4, -9]) == exit_code([-9, 75]) == 128 + 9
    assert exit_code([4, 75]) == 4
    assert exit_code([0, 75]) == 75


def test_an_elastic_run_that_has_one_node_is_resumed_by_the_same_command(tmp_path: Path) -> None:
    words = ["--job.config_file", "my.toml", "--training.seq_len", "128"]
    tell = f"import os, sys; sys.exit(int(os.environ['{LAUNCHER_VARIABLE}']) != 1)"
    assert run_code(tmp_path, tell, 1) == 0
    assert resume_hint(words, 1, 1) == "To resume: titan-speech train my.toml --nproc 1 --training.seq_len 128"
    os.environ[LAUNCHER_VARIABLE] = "2"  # of --nnodes 1:2
    assert resume_hint(words, 1, 1) == "The same command on every node resumes the run"


def test_the_launcher_adds_nothing_to_a_refusal_and_leaves_no_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    refuse = "import os, sys; os.environ['RANK'] == '0' and print('no such store', file=sys.stderr); sys.exit(2)"
    assert run_code(tmp_path / "run", refuse, 2, max_restarts=3) == 2  # not tried again
    assert capfd.readouterr().err == "no such store\n"
    assert not (tmp_path / "run").exists()


def test_a_rank_that_fails_is_named_with_its_error_and_its_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    error = json.dumps({"message": {"message": "ValueError: no", "extraInfo": {"py_callstack": "", "timestamp": "1"}}})
    fail = (
        "import os, sys, time\n"
        "if os.environ['RANK'] == '0': sys.exit(0)\n"
        f"open(os.environ['TORCHELASTIC_ERROR_FILE'], 'w').write({error!r})\n"
        "print('Traceback of rank 1', file=sys.stderr); sys.exit(1)"
    )
    assert run_code(tmp_path, fail, 2) == 1
    shown = capfd.readouterr().err
    file = tmp_path / "logs" / "rank-1-stderr.log"
    assert shown == f"titan_speech: rank 1 ended with exit code 1: ValueError: no; its output is in {file}\n"
    assert file.read_text() == "Traceback of rank 1\n"
    assert sorted(path.name for path in file.parent.iterdir()) == ["agent.log", "rank-1-stderr.log"]


def test_a_killed_rank_restarts_all_of_them(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    die_once = (
        "import os, signal, sys\n"
        "if os.environ['TORCHELASTIC_RESTART_COUNT'] == '0' and os.environ['RANK'] == '1':\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "print('rank', os.environ['RANK'], 'is done')"
    )
    assert run_code(tmp_path, die_once, 2, max_restarts=1) == 0
    shown = capfd.readouterr().err
    assert "rank 1 was killed by SIGKILL" in shown
    assert "all ranks start again from the last checkpoint (0 restarts left after this one)" in shown
    assert (tmp_path / "logs" / "restart-1" / "rank-1-stdout.log").read_text() == "rank 1 is done\n"


@pytest.mark.parametrize(("restarts", "code"), [(True, 0), (False, 75)])
def test_a_stop_of_the_ranks_own_is_a_restart_only_where_a_rollback_may_be_the_reason(
    tmp_path: Path, restarts: bool, code: int
) -> None:
    stop_once = "import os, sys; sys.exit(75 if os.environ['TORCHELASTIC_RESTART_COUNT'] == '0' else 0)"
    assert run_code(tmp_path, stop_once, 1, max_restarts=1, restarts_after_stop=restarts) == code


def test_after_a_stop_the_other_ranks_have_time_to_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "OTHERS_SEC", 0.1)
    save = (
        "import os, pathlib, sys, time\n"
        "if os.environ['RANK'] == '0': sys.exit(75)\n"
        f"time.sleep(1); pathlib.Path({str(tmp_path / 'saved')!r}).touch(); sys.exit(75)"
    )
    assert run_code(tmp_path, save, 2) == 75
    assert (tmp_path / "saved").exists()


RECORD_SIGNALS = """
import os, signal, subprocess, sys, time
child = subprocess.Popen(["sleep", "100"])
got = []
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda number, _: got.append(signal.Signals(number).name))
open(os.environ["READY"] + os.environ["RANK"], "w").close()
while len(got) < int(os.environ["SIGNALS"]):
    time.sleep(0.02)
print(os.environ["RANK"], *got, child.poll(), flush=True)
child.kill()
sys.exit(75)
"""


def start_launch(
    folder: Path,
    num_ranks: int,
    num_signals: int,
    stop_within_sec: float = 20,
    code: str = RECORD_SIGNALS,
    max_restarts: int = 0,
) -> subprocess.Popen[str]:
    """A launch whose ranks are ready for signals."""
    words = (folder, num_ranks, stop_within_sec, code, max_restarts)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.launch.ranks", *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "READY": f"{folder}/ready-", "SIGNALS": str(num_signals)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while len(list(folder.glob("ready-*"))) < num_ranks:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    return process


@pytest.mark.parametrize(("sent", "received"), [(signal.SIGINT, "SIGINT"), (signal.SIGHUP, "SIGTERM")])
def test_a_signal_reaches_every_rank_but_not_what_ranks_have_started(
    tmp_path: Path, sent: signal.Signals, received: str
) -> None:
    process = start_launch(tmp_path, 2, 1)
    try:
        process.send_signal(sent)
        shown, errors = process.communicate(timeout=30)
    finally:
        kill(process)
    assert (process.returncode, errors) == (75, "")
    assert shown == f"0 {received} None\n"  # its child lives
    assert (tmp_path / "logs" / "rank-1-stdout.log").read_text() == f"1 {received} None\n"


def test_a_second_ctrl_c_is_passed_on_at_once(tmp_path: Path) -> None:
    process = start_launch(tmp_path, 1, 2, stop_within_sec=500)
    try:
        process.send_signal(signal.SIGINT)
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        shown, errors = process.communicate(timeout=30)
    finally:
        kill(process)
    assert (process.returncode, shown, errors) == (75, "0 SIGINT SIGINT None\n", "")


def test_a_rank_that_does_not_stop_in_time_is_killed(tmp_path: Path) -> None:
    process = start_launch(tmp_path, 1, 9, stop_within_sec=2)
    ranks = children(process.pid)
    try:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    finally:
        kill(process)
    assert process.returncode == 128 + signal.SIGTERM
    assert errors.splitlines()[-1].startswith("titan_speech: stopped; no checkpoint was saved yet.")
    assert not any(Path(f"/proc/{rank}").exists() for rank in ranks)


CANNOT_SAVE = """
import os, threading
from titan_speech.health.signals import StopSignals
StopSignals(2, lambda _: None, lambda: "step-1 is complete").listen()
open(os.environ["READY"] + os.environ["RANK"], "w").close()
threading.Event().wait()
"""


def test_one_ctrl_c_stays_one_where_a_rank_cannot_save_in_time(tmp_path: Path) -> None:
    process = start_launch(tmp_path, 1, 1, stop_within_sec=2, code=CANNOT_SAVE)
    try:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        kill(process)
    assert "could not save within 2 s of Ctrl-C (health.stop_within_sec); step-1 is complete" in errors
    assert "again" not in errors
    assert process.returncode == 75


SAVE_AS_THE_OTHER_RANK_FAILS = """
import os, signal, sys, time
got = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: got.append(signal.Signals(number).name))
open(os.environ["READY"] + os.environ["RANK"], "w").close()
if os.environ["RANK"] == "1":
    while not os.path.exists(os.environ["READY"] + "0"):
        time.sleep(0.02)
    sys.exit(1)
while not got:
    time.sleep(0.02)
open(os.environ["READY"] + "saving", "w").close()
for _ in range(75):  # a signal cuts one sleep short
    time.sleep(0.02)
print(*got, os.environ["TORCHELASTIC_RESTART_COUNT"], flush=True)
sys.exit(75)
"""


def test_ctrl_c_while_ranks_save_for_a_restart_ends_the_launch_and_lets_them_save(tmp_path: Path) -> None:
    process = start_launch(tmp_path, 2, 1, code=SAVE_AS_THE_OTHER_RANK_FAILS, max_restarts=1)
    try:
        while not (tmp_path / "ready-saving").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        time.sleep(0.7)  # longer than two signals count as one
        process.send_signal(signal.SIGINT)
        shown, _ = process.communicate(timeout=30)
    finally:
        kill(process)
    assert (process.returncode, shown) == (1, "SIGTERM 0\n")
