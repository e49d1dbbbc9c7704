"""The examples of docs/mixing.md load as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from titan_speech.preflight.config_checks import load_config

PAGE = (Path(__file__).parents[1] / "docs/mixing.md").read_text("utf-8")
EXAMPLES = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_is_a_configuration_without_problems(number: int, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(EXAMPLES[number], encoding="utf-8")
    config = load_config(["--job.config_file", str(path)]).config
    assert sum(source.share for source in config.data.source) == pytest.approx(1)


def test_the_page_shows_every_view_and_key_of_the_data_table() -> None:
    assert len(EXAMPLES) == 6
    for key in (
        "phase",
        "from",
        "held_out",
        "too_long",
        "stitch_gap_sec",
        "where",
        "max_epochs",
        "pin",
        "floor",
        "augment",
    ):
        assert any(re.search(rf"^{key} = ", example, re.MULTILINE) for example in EXAMPLES), key
