"""Reference curves: written from runs, and a run that leaves its band is named with the step."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.report.run_folders import write_run
from titan_speech.cli.main import main
from titan_speech.errors import DataError
from titan_speech.report.reference import compare, names, open_reference
from titan_speech.report.run import open_runs
from titan_speech.training.jsonl_log import JsonlLogger

CURVE = """{"format": 1, "name": "", "about": "",
 "curves": {"loss": {"steps": STEPS, "mean": MEAN, "low": [1, 1], "high": [1, 1]}}}"""


def test_a_run_leaves_its_band_at_the_first_of_two_records_outside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [write_run(tmp_path / name) for name in ("one", "two")]
    path = tmp_path / "reference.json"
    words = ["report", *map(str, folders), "--output", str(tmp_path / "page.html"), "--save-reference", str(path)]
    assert main(words) == 0
    assert main(["report", str(folders[0]), "--output", str(tmp_path / "page.html"), "--against", str(path)]) == 0
    assert "within the bands of reference" in capsys.readouterr().out

    log = JsonlLogger(folders[1] / "metrics.jsonl")
    log.event("start", step=9, start_from="step-9", world_size=1)
    for step in range(10, 51):
        log.log({"loss": 10.0 / step * (1.5 if step in (12, *range(30, 40)) else 1.0)}, step)
    log.close()
    found = compare(open_runs([folders[1]])[0], open_reference(str(path)))
    departure = next(one for one in found if one.metric == "loss")
    assert (departure.left_at, departure.num_outside, departure.num_compared) == (30, 11, 50)
    assert main(["report", str(folders[1]), "--output", str(tmp_path / "page.html"), "--against", str(path)]) == 1
    assert "loss leaves the band of reference at step 30: 0.5, expected 0.3267 to 0.34" in capsys.readouterr().out
    assert "step 30" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        '{"format": 2, "name": "", "about": "", "curves": {}}',
        CURVE.replace("STEPS", "[2, 1]").replace("MEAN", "[1, 1]"),
        CURVE.replace("STEPS", "[1, 2]").replace("MEAN", "[1e999, 1]"),
        CURVE.replace("STEPS", "[1, 2]").replace("MEAN", "[1]"),
        "{" * 5000,
    ],
)
def test_a_damaged_reference_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "reference.json"
    path.write_text(content)
    with pytest.raises(DataError):
        open_reference(str(path))


def test_every_reference_of_the_package_has_its_curves_and_its_picture() -> None:
    pictures = Path(__file__).parents[2] / "docs" / "pictures"
    assert names()
    for name in names():
        assert open_reference(name).curves["loss"].steps
        assert (pictures / f"{name}.svg").is_file(), "run scripts/draw_references.py"
    with pytest.raises(DataError, match="expected one of"):
        open_reference("no-such-reference")
