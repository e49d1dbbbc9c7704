"""A blind listening page, used in a real browser, and votes that are read back."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.support.browser import browser
from titan_speech.cli.main import main
from titan_speech.codec.wav import wav_bytes
from titan_speech.evaluate.votes import read_study, read_votes
from titan_speech.exit_codes import EXIT_BAD_INPUT
from titan_speech.report.listening import write_listening_page


def clips(folder: Path, hz: float, names: str = "abc") -> Path:
    folder.mkdir(parents=True)
    wav_T = 0.1 * np.sin(2 * np.pi * hz * np.arange(3200) / 16_000).astype(np.float32)
    for name in names:
        (folder / f"{name}.wav").write_bytes(wav_bytes(wav_T, 16_000))
    return folder


def listen(tmp_path: Path, *more: str) -> int:
    words = [f"old={clips(tmp_path / 'old', 220)}", f"<new>={clips(tmp_path / 'new', 440, 'bcd')}"]
    return main(["evaluate", "listen", *words, "--output", str(tmp_path / "page"), *more])


def test_the_page_hides_which_system_is_which(tmp_path: Path) -> None:
    assert listen(tmp_path) == 0
    text = (tmp_path / "page" / "index.html").read_text()
    assert "old" not in text.replace("bold", "").replace("fold", "").replace("threshold", "")
    assert "&lt;new&gt;" not in text
    study = read_study(tmp_path / "page.KEY.json")
    assert {trial.prompt for trial in study.trials.values()} == {"b", "c"}
    assert len(list((tmp_path / "page" / "clips").iterdir())) == 4
    assert listen_again(tmp_path) == EXIT_BAD_INPUT


def test_texts_that_turn_the_direction_or_speak_to_a_terminal_are_shown_as_escapes(tmp_path: Path) -> None:
    systems = {"one": clips(tmp_path / "one", 220, "a"), "two": clips(tmp_path / "two", 440, "a")}
    write_listening_page(
        systems, tmp_path / "page", 1, "Which?", {"a": "\u00ab\u00a0oui\u00a0\u00bb \x1b[2J\x9b\u202eevil\u2066"}
    )
    page = (tmp_path / "page" / "index.html").read_text()
    assert r"«\u00a0oui\u00a0» \\u001b[2J\\u009b\\u202eevil\\u2066".replace(r"\u00a0", "\u00a0") in page
    assert not re.search("[\x1b\x9b\u202e\u2066]", page)


def listen_again(tmp_path: Path) -> int:
    words = [f"old={tmp_path / 'old'}", f"new={tmp_path / 'new'}", "--output", str(tmp_path / "page")]
    return main(["evaluate", "listen", *words])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["one=old"], "at least two systems"),
        (["old", "new"], "expected NAME=FOLDER"),
        (["one=old", "two=empty"], "has no .wav file"),
        (["one=old", "two=other"], "no file of one name"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    tmp_path: Path, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    clips(Path("old"), 220)
    clips(Path("other"), 220, "xyz")
    Path("empty").mkdir()
    assert main(["evaluate", "listen", *words, "--output", "page"]) == EXIT_BAD_INPUT
    assert message in capsys.readouterr().err
    assert not Path("page").exists()
    assert not Path("page.partial").exists()


def test_a_full_disk_leaves_neither_page_nor_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", fail)
    assert listen(tmp_path) == EXIT_BAD_INPUT
    assert "No space left" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's chromium")
def test_votes_of_a_browser_are_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert listen(tmp_path) == 0
    study = read_study(tmp_path / "page.KEY.json")
    with browser(tmp_path / "profile", tmp_path / "downloads") as page:
        page.open((tmp_path / "page" / "index.html").as_uri())
        assert page.run("document.getElementById('prefer-left').disabled") is True
        page.run("document.getElementById('prefer-left').click()")  # not before both were heard
        for trial in study.trials.values():
            for side in ("left", "right"):
                page.run(
                    f"new Promise((heard, fail) => {{ const a = document.getElementById('{side}');"
                    " a.addEventListener('ended', () => heard(true), { once: true }); a.muted = true;"
                    " a.onerror = fail; a.play().catch(fail); })"
                )
            choice = "left" if trial.left == "<new>" else "right"
            page.run(f"document.getElementById('prefer-{choice}').click()")
        assert "All 2 pairs are done" in page.run("document.getElementById('progress').textContent")
        page.run("document.getElementById('save').click()")
        saved = page.download()
    votes = read_votes(saved, study)
    assert [(vote.trial.left == "<new>") == (vote.choice == "left") for vote in votes] == [True, True]
    assert main(["evaluate", "votes", str(tmp_path / "page.KEY.json"), str(saved), str(saved)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3].startswith("<new>")
    assert "2 votes of 1 listener" in lines[-1]
    content = json.loads(saved.read_text())
    (tmp_path / "other.json").write_text(json.dumps(content | {"study": "another"}))
    assert main(["evaluate", "votes", str(tmp_path / "page.KEY.json"), str(tmp_path / "other.json")]) == EXIT_BAD_INPUT
