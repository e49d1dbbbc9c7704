"""The page of a run: complete, of one file, and safe against what names and texts of a run may hold."""

from __future__ import annotations

import gzip
import json
import re
import threading
import urllib.error
import urllib.request
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.report.run_folders import log_step, write_run
from titan_speech.cli.main import main
from titan_speech.errors import DataError
from titan_speech.report.page import page
from titan_speech.report.run import open_runs
from titan_speech.report.serve import serve
from titan_speech.training.jsonl_log import JsonlLogger
from titan_speech.utils.locks import LOCK_NAME

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\x1b[2J\u202e\"'&"


class Elements(HTMLParser):
    """The tags of a page with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_page_shows_what_happened(tmp_path: Path) -> None:
    text = page(open_runs([write_run(tmp_path / "run", restart_at=40)]))
    for expected in ("step 50 of 50", "complete", "2 starts, 1 of them restarts", "Loss on gold", "loop, no stop"):
        assert expected in text, expected
    assert text.count("Step 9 is skipped") == 1, "messages that differ in numbers are one"
    assert "Step 7 is skipped" not in text


def test_norms_of_tensors_are_a_table_of_layers_in_their_order_with_the_relative_update(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", steps=20)
    log = JsonlLogger(folder / "metrics.jsonl")
    for step in (19, 20):
        norms = {f"weight/layers/{layer}": 10.0 + layer for layer in range(12)} | {"update/layers/11": 0.021}
        log.event("tensor_norms", step=step, **{f"tensors/{name}": norm for name, norm in norms.items()})
    log.close()
    text = page(open_runs([folder]))
    assert "Norms at step 20" in text
    assert text.index(">layers/2<") < text.index(">layers/10<")
    assert "1.00e-03" in text
    assert "layers/6" in text, "the middle layer has a line"


def test_several_runs_are_drawn_together_and_their_differing_settings_are_listed(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name / "run", description=name) for name in ("one", "other")]
    text = page(open_runs(folders))
    assert "one/run" in text
    assert "other/run" in text
    assert "job.description" in text
    with pytest.raises(DataError, match="twice"):
        open_runs([folders[0], folders[0]])


def test_nothing_of_a_run_becomes_markup_or_a_request(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "config.toml").write_text(f"[job]\ndescription = {_toml(HOSTILE)}\n")
    log = JsonlLogger(folder / "metrics.jsonl")
    log.log({"loss": 1.0, f"loss/language/{HOSTILE}": 1.0, "loss/language/hi": 2.0}, 51)
    log.event("validation", step=51, set=HOSTILE, **{f"validation/{HOSTILE}/loss": 1.0})
    log.event("start", step=51, start_from=HOSTILE, world_size=1)
    log.close()
    with (folder / "logs" / "rank-0.log").open("a") as file:
        file.write(f"2026-01-01 10:00:03,123 WARNING root: {HOSTILE}\n")
    (folder / "generation" / "step-51.json").write_text(
        f'[{{"sample_id": {_toml(HOSTILE)}, "task": 1, "language": [], "text": {_toml(HOSTILE)}}}, 3]'
    )
    text = page(open_runs([folder]))
    elements = Elements(text).found
    scripts = [attributes for tag, attributes in elements if tag == "script"]
    assert [attributes for attributes in scripts if attributes.get("type") != "application/json"] == [{}], "ours alone"
    assert not [tag for tag, _ in elements if tag in ("img", "iframe", "object", "link")]
    assert not [attributes for _, attributes in elements if any(name.startswith("on") for name in attributes)]
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert not re.search(r"""(?:src|href)=["'](?!#|data:)""", text)
    assert "default-src 'none'" in text


def test_a_damaged_run_still_has_a_page(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "config.toml").write_text("[job")
    (folder / "generation" / "step-50.json").write_text("[" * 100_000)
    (folder / "health").mkdir()
    (folder / "health" / "rollbacks.json").write_text("{")
    (folder / "checkpoint" / "step-9").mkdir(parents=True)
    (folder / "checkpoint" / "step-9" / "commit.json").write_text("{}")
    text = page(open_runs([folder]))
    for expected in ("config.toml cannot be read", "rollbacks.json cannot be read", "marker is damaged"):
        assert expected in text


def test_report_writes_one_file_and_names_a_folder_that_is_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, output = write_run(tmp_path / "run"), tmp_path / "page.html"
    assert main(["report", str(run), "--output", str(output)]) == 0
    assert output.read_text().startswith("<!DOCTYPE html>")
    assert main(["report", str(tmp_path)]) == 2
    assert "is not a run folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "config"),
    [
        ('{"event": "validation", "step": 1, "validation/x/loss": 1}', ""),
        ("", "[training]\nglobal_batch_tokens = 1HUGE\ntarget_tokens = 1HUGE\n"),
        (
            '{"step": 1, "step_time_sec": 9e299}',
            "[training]\nglobal_batch_tokens = 1\ntarget_tokens = 9000000000000000000\n",
        ),
    ],
)
def test_a_run_folder_of_others_has_a_page(tmp_path: Path, line: str, config: str) -> None:
    folder = write_run(tmp_path / "run", steps=3)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(line + "\n")
    (folder / "config.toml").write_text(config.replace("HUGE", "0" * 400))
    (folder / LOCK_NAME).write_text("held")
    assert "Overview" in page(open_runs([folder]))


def test_a_served_page_follows_the_run_and_answers_its_own_machine_only(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", steps=20)
    with serve(open_runs([folder]), "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            port = server.server_address[1]
            tag, first = _get(port)
            assert "step 20 of 50" in first
            with pytest.raises(urllib.error.HTTPError, match="304"):
                _get(port, **{"If-None-Match": tag})
            log = JsonlLogger(folder / "metrics.jsonl")
            log_step(log, 21)
            log.close()
            news, second = _get(port, **{"If-None-Match": tag})
            assert news != tag
            assert "step 21 of 50" in second
            for place in ("evaluation/results", "rollouts", "parity.json"):
                (folder / place).mkdir(parents=True)
                before, (news, _) = news, _get(port)
                assert news != before, f"{place} is shown on the page"
            with pytest.raises(urllib.error.HTTPError, match="403"):
                _get(port, Host="attacker.example")
            with pytest.raises(urllib.error.HTTPError, match="404"):
                _get(port, "/config.toml")
        finally:
            server.shutdown()
            thread.join()


def _get(port: int, path: str = "/", **headers: str) -> tuple[str, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    with urllib.request.urlopen(request) as answer:
        return answer.headers["ETag"], gzip.decompress(answer.read()).decode()


def _toml(text: str) -> str:
    """A string of JSON, which TOML reads too."""
    return json.dumps(text)


def test_the_ledger_of_time_is_shown_over_restarts(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    lines = [
        {"kind": "begin", "rank": 0, "start": 0, "world_size": 1, "node": HOSTILE, "from_step": 0, "at": 1000.0},
        {
            "kind": "span",
            "start": 0,
            "first_step": 1,
            "last_step": 9,
            "until": 1090.0,
            "sec": {"start": 10, "step": 80},
        },
        {"kind": "begin", "rank": 0, "start": 1, "world_size": 1, "node": HOSTILE, "from_step": 0, "at": 1100.0},
        {
            "kind": "span",
            "start": 1,
            "first_step": 1,
            "last_step": 9,
            "until": 1200.0,
            "sec": {"start": 20, "step": 80},
        },
        {"kind": "end", "start": 1, "until": 1200.0, "how": "complete"},
    ]
    (folder / "ledger").mkdir()
    (folder / "ledger" / "rank-0.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = page(open_runs([folder]))
    assert "40.0% goodput of 3:20" in text
    assert "lost work 40.0 %" in text
    assert HOSTILE not in text


def test_how_starts_ended_and_which_bounds_were_left_are_listed_over_restarts(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    log = JsonlLogger(folder / "metrics.jsonl")
    log.event("flagged", step=50, what="generation", message="loop 1 is above 0.9")
    log.event("end", step=50, how="failed")
    log.event("start", step=40, start_from="step-40", world_size=1)
    log.close()
    text = page(open_runs([folder]))
    assert "failed at step 50" in text
    assert "loop 1 is above 0.9" in text
