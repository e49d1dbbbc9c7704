"""A small configuration as text, loaded with changes: what the tests of loading share."""

from __future__ import annotations

from pathlib import Path

import pytest

from titan_speech.config.load import LoadedConfig
from titan_speech.errors import ConfigError
from titan_speech.preflight.config_checks import load_config

ROOT = Path(__file__).parents[2]

BASE = """\
[job]
description = "base"
[training]
seq_len = 512
global_batch_tokens = 8_192
target_tokens = 1e6

[optimizer]
lr = 1e-3
[lr_scheduler]
end_lr = 1e-4

[[data.source]]
name = "speech"
store = "demo_data"
task = "speech"
share = 0.75

[[data.source]]
name = "tts"
store = "demo_data"
task = "tts"
share = 0.25
languages = ["hi", "ta"]

[[data.language_rule]]
sources = ["speech", "tts"]
alpha = 0.5
cap = { en = 0.45 }
"""


def load(text: str, *flags: str, **options) -> LoadedConfig:
    Path("run.toml").write_text(text, encoding="utf-8")
    return load_config(["--job.config_file", "run.toml", *flags], **options)


def problems(text: str, *flags: str, **options) -> list[str]:
    """The lines of the one error, without its heading."""
    with pytest.raises(ConfigError) as caught:
        load(text, *flags, **options)
    heading, *lines = str(caught.value).splitlines()
    assert heading.startswith(f"{len(lines)} problem")
    return [line.strip() for line in lines]


def line_of(text: str, part: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), 1) if part in line)


def changed(old: str, new: str) -> str:
    assert BASE.count(old) >= 1, old
    return BASE.replace(old, new, 1)
