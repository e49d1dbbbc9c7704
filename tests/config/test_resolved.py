"""The resolved configuration loads back equal, says where values came from, and holds no secret."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from titan_speech.config.convert import convert
from titan_speech.config.fields import config_fields, is_optional, without_none
from titan_speech.config.load import LoadedConfig
from titan_speech.config.resolved import resolved_toml, save_resolved
from titan_speech.config.schema import SpeechConfig
from titan_speech.config.toml_text import parse_toml
from titan_speech.config.tree import TableNode
from titan_speech.preflight.config_checks import load_config
from titan_speech.utils.printable import REMOVED, redact

ROOT = Path(__file__).parents[2]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SCALARS = {
    str: TEXT.filter(lambda text: redact(text) == text),
    int: st.integers(1 - 2**63, 2**63 - 1),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
}


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Any value of a field's type."""
    kind, args = get_origin(hint), get_args(hint)
    if is_optional(hint):
        return st.none() | values(without_none(hint))
    if dataclasses.is_dataclass(hint):
        return tables(hint)  # type: ignore[arg-type]
    if kind is Literal:
        return st.sampled_from(args)
    if kind is dict:
        return st.dictionaries(TEXT, values(args[1]), max_size=3)
    if kind is tuple and args[-1] is Ellipsis:
        return st.lists(values(args[0]), max_size=3).map(tuple)
    if kind is tuple:
        return st.tuples(*(values(arg) for arg in args))
    return SCALARS[hint]


def tables(cls: type) -> st.SearchStrategy[Any]:
    fields = config_fields(cls).values()
    return st.builds(cls, **{entry.name: values(hint) for entry, hint in fields})


@settings(max_examples=40, deadline=None)
@given(tables(SpeechConfig))
def test_any_configuration_written_as_toml_reads_back_equal(config: SpeechConfig) -> None:
    tree = parse_toml(resolved_toml(LoadedConfig(config, {}, (Path("x.toml"),))), "config.toml")
    assert isinstance(tree, TableNode)
    converted, conversion = convert(tree)
    assert conversion.problems == []
    assert converted == config


@pytest.mark.parametrize("path", sorted((ROOT / "train_configs").glob("*.toml")), ids=lambda path: path.name)
def test_the_saved_file_of_each_recipe_starts_the_same_run(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    loaded = load_config(["--job.config_file", str(path), "--job.description", 'a "quoted"\nline', "--data.seed=7"])
    saved = save_resolved(loaded, tmp_path / "run")
    assert [file.name for file in (tmp_path / "run").iterdir()] == [saved.name]
    again = load_config(["--job.config_file", str(saved)])
    assert again.config == loaded.config
    assert str(again.origins["data.seed"]).startswith(f"{saved}:")


def test_each_value_says_where_it_came_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = '[[data.source]]\nname = "all"\nstore = "s"\ntask = "text"\nshare = 1\n'
    Path("base.toml").write_text(f"[training]\nseq_len = 4096\n{source}")
    Path("run.toml").write_text('[job]\nextends = "base.toml"\nseed = 3\n')
    text = resolved_toml(
        load_config(["--job.config_file=run.toml", "--optimizer.lr=1", "--data.source.all.transcript", "romanized"])
    )
    origins = {line.split(" = ")[0]: line.split("# ")[-1] for line in text.splitlines() if " = " in line}
    assert origins["seq_len"] == "base.toml:2"
    assert origins["seed"] == "default"  # that of [data], the later one
    assert "seed = 3" in text
    assert origins["lr"] == "command line"
    assert origins["store"] == "base.toml:5"
    assert origins["transcript"] == "command line"
    assert origins["num_chunks"] == "default"
    assert "extends" not in text


SECRETS = {
    "hub token": ("job.description", "hf_abcdefghijklmnopqrstuvwx"),
    "cloud key": ("job.description", "AKIAABCDEFGHIJKLMNOP"),
    "git token": ("job.description", "ghp_abcdefghijklmnopqrstuvwxyz0123456789"),
    "password in an address": ("tokenizer.path", "hunter22:swordfish"),
    "signed address": ("tokenizer.path", "X-Amz-Signature=deadbeefdeadbeef"),
    "value of a secret variable": ("job.description", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
}


@pytest.mark.parametrize("kind", SECRETS)
def test_what_looks_like_a_secret_is_not_saved(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRETS["value of a secret variable"][1])
    key, secret = SECRETS[kind]
    frame = "s3://{}@host/path" if ":" in secret else "s3://bucket/x?a=1&{}" if "=" in secret else "run with {}"
    loaded = load_config(["--job.config_file", "train_configs/demo.toml", f"--{key}", frame.format(secret)])
    text = resolved_toml(loaded)
    assert secret not in text
    assert frame.split("{}")[0] + REMOVED in text


def test_ordinary_values_are_not_taken_for_secrets() -> None:
    for text in (
        "target_tokens = 1000",
        "tokenizer/tiny",
        "s3://bucket/key/path",
        "9f86d081884c7d65",
        "a@b:c",
    ):
        assert redact(text) == text
