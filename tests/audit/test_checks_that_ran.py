"""An audit says which of its checks ran, and of the others why not; a store of wav files runs all but one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from titan_speech.audit.checks import AUDIT_CHECKS
from titan_speech.audit.rules import AUDIT_RULES
from titan_speech.cli.main import main
from titan_speech.codec.wav import write_wav

ROOT = Path(__file__).parents[2]
TOKENIZER = str(ROOT / "tokenizer/tiny")
WORDS = "please hold the line while we look for your message".split()  # noqa: SIM905


def build_from_wavs(folder: Path, number: int) -> Path:
    """A store of recordings of noise, of which each word of the transcript takes 0.2 s."""
    rng = np.random.default_rng(0)
    (folder / "in").mkdir()
    for i in range(number):
        words = [*rng.choice(WORDS, 3 + i % 4), str(i)]
        write_wav(folder / f"in/{i}.wav", rng.normal(0, 0.1, 3200 * len(words)).astype(np.float32))
        (folder / f"in/{i}.txt").write_text(" ".join(words))
    words = f"store build --from audio --input {folder / 'in'} --codec embedded --language en --source tapes --name n"
    words += f" --licence own --tokenizer {TOKENIZER} --workers 1 --output {folder / 'store'}"
    assert main(words.split()) == 0
    return folder / "store"


def test_a_store_of_wavs_runs_all_checks_but_that_of_segments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, page = build_from_wavs(tmp_path, 24), tmp_path / "audit.html"
    main(["store", "audit", str(store), "--tokenizer", TOKENIZER, "--codec", "none", "--output", str(page)])
    said = capsys.readouterr().out
    assert f"{len(AUDIT_RULES) - 1} of {len(AUDIT_RULES)} checks ran\n" in said
    why = "no sample has source_video_id, segment_order and start_time"
    assert [line.strip() for line in said.splitlines() if "not checked" in line] == [
        f"not checked: segment-order: {why}"
    ]
    shown = page.read_text()
    assert f"12 of 13 ran; not run: segment-order: {why}" in shown
    assert f"not run: {why}" in shown


def test_a_check_that_ran_nowhere_or_in_some_languages_has_its_own_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = build_from_wavs(tmp_path, 3)
    main(["store", "audit", str(store), "--codec", "none", "--output", str(tmp_path / "audit.html")])
    said = capsys.readouterr().out
    assert "9 of 13 checks ran\n" in said
    assert "not checked: unknown-token: give --tokenizer" in said
    for check in ("chars-per-sec", "chars-per-code"):
        assert f"not checked: {check}: fewer than 20 transcribed samples" in said


def test_every_check_has_a_title_and_a_threshold() -> None:
    assert list(AUDIT_CHECKS) == [rule.name for rule in AUDIT_RULES]
