"""The console of a run: widths, no control codes in a log, no time left too early, a summary as the file says."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.runs import ROOT, SMALL, figures, start_run, train
from titan_speech.preflight.config_checks import load_config
from titan_speech.training.console import CONSOLE_WIDTH, RunConsole, group_lines, row_lines
from titan_speech.training.loss import GroupLoss
from titan_speech.training.run_report import command_lines, summary_lines
from titan_speech.utils.logging import PRINTED, RunLog
from titan_speech.utils.printable import printable_stdout
from titan_speech.utils.progress import RateEstimate

LONGEST = {
    "loss": 11.1256,
    "lr": 3e-4,
    "grad_norm": 1234567.8,
    "tokens_per_sec_per_gpu": 123456.7,
    "mfu": 0.412,
    "data_wait_fraction": 1.0,
    "memory_peak_gib": 79.1,
}
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f\x9b]")


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _console(file: io.StringIO, num_steps: int = 2_000_000, table_every: int = 0) -> RunConsole:
    console = RunConsole(table_every, file)
    console.begin(0, num_steps)
    return console


def _losses() -> dict[str, GroupLoss]:
    languages = [f"language/{i:02d}-a-language-with-a-long-name" for i in range(23)] + ["language/hi", "language/en"]
    names = ["kind/code", "kind/text", "task/tts", f"source/{'s' * 140}", *languages]
    return {"loss": GroupLoss(9.0, 1), **{f"loss/{name}": GroupLoss(123.4567, 10) for name in names}}


def test_no_line_of_a_run_is_wider_than_100_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RateEstimate, "left_sec", 1e7)  # months
    file = io.StringIO()
    console = _console(file, table_every=1)
    for step in (1_000_000, 2_000_000):
        console.log_step(step, LONGEST, _losses())
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= CONSOLE_WIDTH
    assert "115 d 17 h" in file.getvalue()
    assert any("1,000,000" in line and "41.2%" in line for line in lines)


def test_the_mfu_is_shown_only_where_it_is_known() -> None:
    file = io.StringIO()
    console = _console(file)
    console.log_step(1, {name: value for name, value in LONGEST.items() if name != "mfu"}, {})
    assert "MFU" not in file.getvalue()
    assert "tokens/s/GPU" in file.getvalue()


def test_the_bar_moves_the_cursor_where_output_is_escaped_and_what_others_print_is_escaped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in a run: its stdout is guarded before the console is made."""
    file = _Terminal()
    monkeypatch.setattr(sys, "stdout", file)
    monkeypatch.setenv("TERM", "xterm-256color")
    with printable_stdout():
        console = RunConsole(0)
        console.begin(0, 10)
        print("a name\x1bc of others")
        console.print(["a name\x1b[2J of a source"])
        console.close()
    shown = file.getvalue()
    assert "\x1b[2K" in shown
    assert "\\u001b[2K" not in shown
    assert "a name\\u001bc of others" in shown
    assert "a name\\u001b[2J of a source" in shown
    assert sys.stdout is file


def test_every_group_is_in_the_table_once_and_under_its_kind() -> None:
    text = "\n".join(group_lines(_losses()))
    assert len(re.findall(r"12\.346", text)) == len(_losses()) - 1
    assert [line.split()[0] for line in text.splitlines() if not line.startswith(" " * 8)] == [
        "kind",
        "language",
        "source",
        "task",
    ]


def test_a_log_has_no_bar_and_no_control_codes_and_a_terminal_has_both() -> None:
    shown = {}
    for file in (io.StringIO(), _Terminal()):
        console = _console(file)
        console.step_done(1)
        console.log_step(1, LONGEST, _losses())
        console.close()
        shown[file.isatty()] = file.getvalue()
    assert not CONTROL.search(shown[False])
    assert len(shown[False].splitlines()) == 2  # the header and the row
    assert "━" in shown[True]
    assert shown[True].rfind("\x1b[?25h") > shown[True].rfind("\x1b[?25l") >= 0  # a kill leaves the cursor visible


def test_no_time_left_before_three_steps_and_three_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    console = _console(file, num_steps=100)
    now_sec = [0.0]
    monkeypatch.setattr("titan_speech.utils.progress.time.monotonic", lambda: now_sec[0])
    for step, sec in enumerate((60.0, 62.0, 64.0, 66.0, 68.0), 1):  # the first step compiles
        now_sec[0] = sec
        console.step_done(step)
        console.log_step(step, LONGEST, {})
    rows = [line for line in file.getvalue().splitlines() if not line.lstrip().startswith("step")]
    assert [line.split()[-1] for line in rows] == ["100.0%", "100.0%", "100.0%", "3:12", "3:10"]


class _FullDisk(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def test_output_to_a_full_disk_does_not_end_a_run(root_logger: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    RunLog()
    _console(_FullDisk()).log_step(1, LONGEST, _losses())
    monkeypatch.setattr(sys, "stderr", _FullDisk())
    _log_everything(root_logger)


def test_the_log_of_a_library_on_a_full_disk_leaves_no_traceback(
    root_logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    """W&B opens a log of its own in the run folder."""
    RunLog()
    library, file = logging.getLogger("a_library"), logging.FileHandler("/dev/full")
    library.addHandler(file)
    library.propagate = False
    try:
        library.error("Uncaught exception in run_soon callback.")
    finally:
        library.removeHandler(file)
        with contextlib.suppress(OSError):
            file.close()
    assert capsys.readouterr().err == ""


def test_the_header_and_the_row_have_their_cells_below_each_other() -> None:
    header, row = row_lines({"step": "7", "loss": "1.0000", "grad norm": "12.000"})
    assert header == "step      loss  grad norm"
    assert row == "   7    1.0000     12.000"


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root, level, raises = logging.getLogger(), logging.getLogger().level, logging.raiseExceptions
    handlers = root.handlers[:]
    yield root
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:], root.level, logging.raiseExceptions = handlers, level, raises
    logging.captureWarnings(False)


def _record(level: int, message: str, *, is_ours: bool) -> logging.LogRecord:
    path = str(ROOT / "titan_speech" / "trainer.py") if is_ours else "/site-packages/torchtitan/trainer.py"
    return logging.LogRecord("root", level, path, 1, message, (), None)


def _log_everything(root: logging.Logger) -> None:
    for is_ours in (True, False):
        for level in (logging.INFO, logging.WARNING, logging.ERROR):
            root.handle(
                _record(level, f"{'our' if is_ours else 'their'} {logging.getLevelName(level)}", is_ours=is_ours)
            )


def test_the_engines_log_is_in_the_file_and_our_messages_on_the_terminal_of_one_rank(
    root_logger: logging.Logger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = {}
    for rank, local_rank in ((0, 0), (1, 1), (8, 0)):
        log = RunLog(rank, local_rank)
        logging.getLogger("titan_speech.x").info("a row", extra=PRINTED)
        _log_everything(root_logger)
        log.open(tmp_path / "logs" / f"rank-{rank}.log")
        root_logger.handle(_record(logging.INFO, "later", is_ours=False))
        shown[rank] = capsys.readouterr()
        text = (tmp_path / "logs" / f"rank-{rank}.log").read_text()
        assert all(f"{whose} {level}" in text for whose in ("our", "their") for level in ("INFO", "WARNING", "ERROR"))
        assert "a row" in text
        assert "later" in text
    assert shown[0].out == "our INFO\n"
    assert shown[0].err == "warning: our WARNING\nerror: our ERROR\nerror: their ERROR\n"
    assert (shown[1].out, shown[1].err) == ("", "rank 1: error: our ERROR\nrank 1: error: their ERROR\n")
    assert shown[8].err.startswith("rank 8: warning: our WARNING\n")


def test_nothing_is_written_before_the_run_folder_is_opened(
    root_logger: logging.Logger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    RunLog()
    _log_everything(root_logger)
    assert not list(tmp_path.iterdir())


def test_a_next_command_is_cut_before_an_option_where_it_is_too_wide() -> None:
    command = f"titan-speech sample --run {'r' * 50} --output {'o' * 30}"
    lines = list(command_lines("hear it", command))
    assert max(map(len, lines)) <= CONSOLE_WIDTH
    assert len(lines) == 2
    assert re.sub(r" \\\n +", " ", "\n".join(lines)) == f"  hear it     {command}"


def test_the_summary_is_what_metrics_jsonl_says(tmp_path: Path) -> None:
    config = load_config(["--job.config_file", str(ROOT / SMALL), "--job.dump_folder", str(tmp_path)]).config
    (tmp_path / "checkpoint" / "step-12").mkdir(parents=True)
    records = [
        {"event": "start", "step": 0},
        {"step": 5, "loss": 1.0},  # rolled back, trained again below
        {"step": 5, "loss": 9.25},
        {"step": 8, "loss": 8.125},
        {"step": 10, "loss": None},
        {"step": 12, "loss": 8.5, "skipped_steps": 3},
        {"step": 14, "loss": 0.5},  # after the step that the run went back to
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records) + '{"step": 15, "lo')
    facts = {"step": 12, "first_step": 4, "elapsed_sec": 65.0, "memory_gib": 1.5, "log": tmp_path / "x.log"}
    text = "\n".join(summary_lines(config, is_complete=True, **facts))
    assert "8.5000 at step 12, best 8.1250 at step 8" in text
    assert "12 of 12, 8 of them now, 12.3 k tokens" in text
    assert "3 steps without an update" in text
    commands = re.sub(r" \\\n +", " ", text)
    assert f"titan-speech model export --checkpoint {tmp_path}/checkpoint/step-12 --output {tmp_path}/hf" in commands
    assert f"titan-speech train NEXT.toml --stage.from {tmp_path}\n" in commands + "\n"
    assert "model merge" not in text
    adapter = replace(config, lora=replace(config.lora, rank=4))
    text = re.sub(r" \\\n +", " ", "\n".join(summary_lines(adapter, is_complete=True, **facts)))
    assert f"titan-speech model merge --checkpoint {tmp_path} --output {tmp_path}-merged\n" in text
    assert f"titan-speech train NEXT.toml --stage.from {tmp_path}-merged\n" in text + "\n"
    assert "titan-speech sample" not in "\n".join(summary_lines(config, is_complete=False, **facts))
    assert "1:05, peak memory 1.50 GiB" in text
    facts["memory_gib"] = 0.0  # of a start that had no steps left
    assert "peak memory" not in "\n".join(summary_lines(config, is_complete=True, **facts))


def test_a_run_of_two_ranks_prints_each_line_once_and_ends_with_its_losses(tmp_path: Path) -> None:
    finished = train(tmp_path, "--training.target_tokens", "4096", world_size=2)
    assert finished.returncode == 0, finished.output[-3000:]
    text = finished.output
    assert not CONTROL.search(text)
    for noise in ("Peak FLOPS", "safetensors", "[titan]", "UserWarning", "Training completed", "rank 1"):
        assert noise not in text
    assert text.count("starts from      random initialization") == 1
    assert "initial weights" not in text
    records = figures(tmp_path)
    best = min(records, key=lambda step: records[step]["loss"])
    assert f"{records[4]['loss']:.4f} at step 4, best {records[best]['loss']:.4f} at step {best}" in text
    rows = [line for line in text.splitlines() if re.match(r" *\d+ +\d+\.\d{4} ", line)]
    assert [int(row.split()[0]) for row in rows] == [1, 2, 3, 4]
    assert max(len(line) for line in text.splitlines() if str(tmp_path) not in line) <= CONSOLE_WIDTH
    for rank in range(2):
        assert "Peak FLOPS" in (tmp_path / "logs" / f"rank-{rank}.log").read_text()


def test_an_error_of_training_is_on_the_terminal_and_in_the_log(tmp_path: Path) -> None:
    script = tmp_path / "failing.py"
    script.write_text(
        "import sys\n"
        "from titan_speech import train\n"
        "from titan_speech.trainer import SpeechTrainer\n"
        "def fail(self, *args, **kwargs): raise RuntimeError('the third step breaks')\n"
        "SpeechTrainer.forward_backward_step = fail\n"
        "sys.exit(train.main())\n"
    )
    process = start_run(tmp_path / "run", entry=str(script))
    assert process.wait(300) != 0
    text = (tmp_path / "run" / "log.txt").read_text()
    assert "error: Training failed at rank 0, step 1" in text
    assert "the third step breaks" in text
    assert "Traceback" in text
    assert sys.executable not in (tmp_path / "run" / "logs" / "rank-0.log").read_text()
    assert "Training failed at rank 0" in (tmp_path / "run" / "logs" / "rank-0.log").read_text()
