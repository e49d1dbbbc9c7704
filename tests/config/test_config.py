"""The help, the recipes, and what loading a configuration must not import."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.config.config_text import ROOT
from titan_speech.config.fields import Bounds, config_fields
from titan_speech.config.help import help_text
from titan_speech.config.problem import nearest_name
from titan_speech.preflight.config_checks import load_config


def test_help_documents_every_table_and_field(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load_config(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert text == help_text()
    for flag in ("--training.seq_len INT (default: 2048)", "--data.source.NAME.share NUMBER (required)"):
        assert flag in text
    assert "--data.language_rule.INDEX.pin {NAME = NUMBER, ...} (default: {})" in text
    assert '--model.family llama3|qwen3 (default: "llama3")' in text
    assert '--job.umask ""|002|' in text
    assert "Multiple" not in text
    lines = text.splitlines()
    flags = [i for i, line in enumerate(lines) if line.startswith("  --")]
    assert len(flags) > 50
    assert all(lines[i + 1].startswith("        ") and lines[i + 1].strip() for i in flags)


# recipes, and what loading must not import


@pytest.mark.parametrize("path", sorted((ROOT / "train_configs").glob("*.toml")), ids=lambda path: path.name)
def test_every_shipped_recipe_loads_and_opens_with_launch_hardware_tokens_and_time(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    load_config(["--job.config_file", str(path.relative_to(ROOT))])
    opening = re.match(r"(#.*\n)+", path.read_text(encoding="utf-8"))
    assert opening is not None
    for word in ("launch", "hardware", "tokens", "time"):
        assert re.search(rf"^# {word}\s+\S", opening.group(), re.MULTILINE), word


def test_loading_a_configuration_does_not_import_torch_or_numpy() -> None:
    modules = "titan_speech.config.load, titan_speech.config.resolved"
    code = f"import sys, {modules}; print({{'torch', 'numpy'}} & {{*sys.modules}})"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, env=os.environ
    )
    assert out.stdout.strip() == "set()"


def test_a_field_named_by_a_python_keyword_has_the_keyword_as_its_key() -> None:
    @dataclass(frozen=True)
    class StageConfig:
        from_: str = ""

    assert list(config_fields(StageConfig)) == ["from"]


def test_bounds_are_stated_in_words() -> None:
    assert str(Bounds(at_least=0, below=1)) == "a value at least 0 and below 1"
    assert not Bounds(above=0).allow(0)
    assert nearest_name("zzz", ["seq_len"]) is None
