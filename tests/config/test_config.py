"""Loading a configuration: which value takes precedence, and the messages of problems."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from titan_speech.config.fields import Bounds, config_fields
from titan_speech.config.help import help_text
from titan_speech.config.load import LoadedConfig
from titan_speech.config.problem import Finding, nearest_name
from titan_speech.config.schema import SpeechConfig
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


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


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


# precedence


def test_a_file_sets_values_and_the_rest_keeps_its_default(folder: Path) -> None:
    loaded = load(BASE)
    assert loaded.config.training.seq_len == 512
    assert loaded.config.training.target_tokens == 1_000_000
    assert isinstance(loaded.config.training.target_tokens, int)
    assert loaded.config.comm == SpeechConfig().comm
    assert [source.name for source in loaded.config.data.source] == ["speech", "tts"]
    assert loaded.config.data.language_rule[0].cap == {"en": 0.45}
    assert str(loaded.origins["training.seq_len"]) == "run.toml:4"
    assert str(loaded.origins["loss.num_chunks"]) == "default"
    assert loaded.files == (Path("run.toml"),)


def test_the_command_line_overrides_the_file_and_the_last_flag_the_others(folder: Path) -> None:
    loaded = load(BASE, "--training.seq_len", "1024", "--optimizer.lr=2e-3", "--training.seq_len=256")
    assert loaded.config.training.seq_len == 256
    assert loaded.config.optimizer.lr == 2e-3
    assert str(loaded.origins["training.seq_len"]) == "command line"


def test_array_elements_are_set_by_index_and_by_name(folder: Path) -> None:
    flags = [
        "--data.source.0.share",
        "0.6",
        "--data.source.tts.share=0.4",
        "--data.language_rule.0.cap.en",
        "0.3",
    ]
    loaded = load(BASE, *flags, "--data.source.tts.languages.1", "bn", "--data.language_rule.0.floor.hi=.1")
    assert [source.share for source in loaded.config.data.source] == [0.6, 0.4]
    assert loaded.config.data.source[1].languages == ("hi", "bn")
    assert loaded.config.data.language_rule[0].cap == {"en": 0.3}
    assert loaded.config.data.language_rule[0].floor == {"hi": 0.1}


def test_a_renamed_source_is_addressed_by_its_new_name(folder: Path) -> None:
    renamed = ("--data.source.tts.name", "voices", "--data.language_rule.0.sources", "speech,voices")
    loaded = load(BASE, *renamed, "--data.source.voices.max_epochs", "2")
    assert loaded.config.data.source[1].max_epochs == 2.0


def test_whole_lists_and_tables_can_be_given_on_the_command_line(folder: Path) -> None:
    one = '--data.source=[{name = "one", store = "s", task = "text", share = 1}]'
    loaded = load(BASE, one, "--data.language_rule", "[]", "--optimizer.betas", "0.8,0.9")
    assert [source.task for source in loaded.config.data.source] == ["text"]
    assert loaded.config.data.language_rule == ()
    assert loaded.config.optimizer.betas == (0.8, 0.9)


def test_text_on_the_command_line_is_read_as_the_type_of_its_field(folder: Path) -> None:
    flags = ["--job.description", "1e9", "--compile.enable", "--checkpoint.enable", "False"]
    loaded = load(BASE, *flags, "--training.target_tokens", "2e6", "--data.source.0.max_epochs", "none")
    assert loaded.config.job.description == "1e9"
    assert loaded.config.compile.enable is True
    assert loaded.config.checkpoint.enable is False
    assert loaded.config.training.target_tokens == 2_000_000
    assert loaded.config.data.source[0].max_epochs is None


def test_a_negative_value_is_no_flag(folder: Path) -> None:
    loaded = load(BASE, "--parallelism.data_parallel_shard_degree", "-1", "--job.seed", "3")
    assert loaded.config.parallelism.data_parallel_shard_degree == -1
    assert loaded.config.job.seed == 3


# extends


def test_a_chain_merges_tables_and_replaces_arrays_of_tables_whole(folder: Path) -> None:
    (folder / "recipes").mkdir()
    Path("recipes/base.toml").write_text(BASE)
    Path("recipes/middle.toml").write_text('[job]\nextends = "base.toml"\n[training]\nseq_len = 1024\n')
    source = '[[data.source]]\nname = "all"\nstore = "s"\ntask = "speech"\nshare = 1.0\n'
    rule = '[[data.language_rule]]\nsources = ["all"]\nalpha = 0.7\n'
    loaded = load(f'[job]\nextends = "recipes/middle.toml"\nseed = 5\n{source}{rule}')
    config = loaded.config
    assert (config.job.description, config.job.seed) == ("base", 5)
    assert (config.training.seq_len, config.training.global_batch_tokens) == (1024, 8192)
    assert [source.name for source in config.data.source] == ["all"]
    assert config.data.language_rule[0].cap == {}
    assert [str(path) for path in loaded.files] == ["recipes/base.toml", "recipes/middle.toml", "run.toml"]
    assert str(loaded.origins["training.seq_len"]) == "recipes/middle.toml:4"
    assert str(loaded.origins["job.description"]) == "recipes/base.toml:2"


def test_a_file_may_extend_several_each_overriding_those_before(folder: Path) -> None:
    Path("backbone.toml").write_text('[job]\nextends = "places.toml"\n[model]\nfamily = "qwen3"\n')
    Path("places.toml").write_text('[tokenizer]\npath = "there"\n[training]\nseq_len = 1024\n')
    Path("stage.toml").write_text(BASE)
    loaded = load('[job]\nextends = ["stage.toml", "backbone.toml"]\nseed = 5\n')
    assert [str(path) for path in loaded.files] == ["stage.toml", "places.toml", "backbone.toml", "run.toml"]
    config = loaded.config
    assert (config.model.family, config.tokenizer.path, config.training.seq_len) == ("qwen3", "there", 1024)
    assert (config.job.seed, config.job.description) == (5, "base")


def test_every_missing_file_of_several_is_reported_with_its_line(folder: Path) -> None:
    found = problems('[job]\nextends = [\n  "a.toml",\n  "b.toml",\n  3,\n]\n')
    assert [line.split(": found ")[0] for line in found] == [f"run.toml:{n}: job.extends" for n in (3, 4, 5)]
    assert found[2].endswith("found 3; expected the path of a TOML file, or a list of them")


STORES = '[data.stores]\nraw = "s3://corpora/raw"\ngold = "stores/gold"\n'


def test_a_store_name_may_be_defined_in_another_file(folder: Path) -> None:
    Path("places.toml").write_text(STORES)
    text = BASE.replace('store = "demo_data"', 'store = "raw"').replace("[job]", '[job]\nextends = "places.toml"')
    loaded = load(text, "--data.held_out", "gold,./more")
    assert {source.store for source in loaded.config.data.source} == {"s3://corpora/raw"}
    assert loaded.config.data.held_out == ("stores/gold", "./more")
    assert str(loaded.origins["data.source.0.store"]) == "places.toml:2"
    assert loaded.config.data.stores == {}  # what is saved has places only
    moved = load(text, "--data.stores.raw", "/disk/raw", "--data.held_out", "")
    assert moved.config.data.source[0].store == "/disk/raw"


def test_a_misspelt_store_name_is_reported_with_the_nearest(folder: Path) -> None:
    found = problems(BASE.replace('store = "demo_data"', 'store = "row"', 1) + STORES)
    expected = 'found "{0}"; expected a name of [data.stores] (raw, gold), or a path with a / (./{0})'
    assert found[0].endswith(f"data.source.0.store: {expected.format('row')}; did you mean raw?")
    assert found[1].endswith(f"data.source.1.store: {expected.format('demo_data')}")


def test_a_store_name_stands_for_a_path_and_not_for_another_name(folder: Path) -> None:
    found = problems(BASE.replace('store = "demo_data"', 'store = "a"') + '[data.stores]\na = "b"\nb = "./x"\nc = ""\n')
    assert [line.split(": ")[1] for line in found] == ["data.stores.a", "data.stores.c"]


def test_a_problem_in_an_inherited_file_names_that_file(folder: Path) -> None:
    Path("base.toml").write_text(changed("seq_len = 512", "seq_length = 512"))
    [problem] = problems('[job]\nextends = "base.toml"\n')
    assert problem.startswith("base.toml:4: training.seq_length: found an unknown key")


def test_a_cycle_of_files_is_reported_with_the_line_that_closes_it(folder: Path) -> None:
    Path("a.toml").write_text('[job]\nextends = "run.toml"\n')
    [problem] = problems('[job]\n\nextends = "a.toml"\n')
    assert problem.startswith("a.toml:2: job.extends: found a cycle: run.toml -> a.toml -> run.toml")


def test_a_missing_base_is_reported_with_the_nearest_file(folder: Path) -> None:
    Path("pt_s1.toml").write_text(BASE)
    [problem] = problems('[job]\nextends = "pt_s_1.toml"\n')
    assert problem.startswith('run.toml:2: job.extends: found no file "pt_s_1.toml"')
    assert problem.endswith("did you mean pt_s1.toml?")


def test_a_misspelt_extends_is_reported_without_what_its_file_would_have_set(folder: Path) -> None:
    Path("base.toml").write_text(BASE)
    [problem] = problems('[job]\nextend = "base.toml"\n[optimizer]\nlr = 1e-5\n')
    assert problem.startswith("run.toml:2: job.extend: found an unknown key")
    assert problem.endswith("did you mean job.extends?")


def test_a_syntax_error_in_a_base_does_not_hide_what_else_is_wrong(folder: Path) -> None:
    Path("base.toml").write_text("[job\n")
    found = problems('[job]\nextends = "base.toml"\nsead = 3\n', "stray")
    assert [line.split(":")[0] for line in found] == ["base.toml", "run.toml", "command line"]


# one problem at a time: where, what, expected, nearest

S3_PROBLEM = ("data.source.1.store", "expected s3://bucket/prefix, a bucket of")

ONE_PROBLEM = {
    "misspelt key": (
        "seq_len = 512",
        "seq_length = 512",
        "training.seq_length",
        "did you mean training.seq_len?",
    ),
    "misspelt table": ("[optimizer]", "[optimiser]", "optimiser", "did you mean optimizer?"),
    "key of another table": (
        "[optimizer]",
        "[optimizer]\nend_lr = 1",
        "optimizer.end_lr",
        "lr_scheduler.end_lr?",
    ),
    "misspelt choice": ('"tts"\nshare', '"tss"\nshare', "data.source.1.task", "did you mean tts?"),
    "unknown task": ('"tts"\nshare', '"zzz"\nshare', "data.source.1.task", 'one of "speech", "continuation"'),
    "text for a number": ("lr = 1e-3", 'lr = "fast"', "optimizer.lr", 'found "fast"; expected a number'),
    "bool for an int": (
        "seq_len = 512",
        "seq_len = true",
        "training.seq_len",
        "found true; expected a whole",
    ),
    "broken int": (
        "target_tokens = 1e6",
        "target_tokens = 1.5",
        "training.target_tokens",
        "found 1.5; expected a",
    ),
    "nan": ("lr = 1e-3", "lr = nan", "optimizer.lr", "found nan; expected a number"),
    "int for text": (
        'description = "base"',
        "description = 3",
        "job.description",
        "found 3; expected a string",
    ),
    "value for a table": ("[optimizer]\nlr = 1e-3", "optimizer = 3", "training.optimizer", "did you mean optimizer?"),
    "int for a bool": (
        "[optimizer]",
        "[compile]\nenable = 1\n[optimizer]",
        "compile.enable",
        "true or false",
    ),
    "scalar for a list": ('["hi", "ta"]', '"hi"', "data.source.1.languages", 'found "hi"; expected a list'),
    "wrong element": (
        '["hi", "ta"]',
        '["hi",\n 3]',
        "data.source.1.languages.1",
        "found 3; expected a string",
    ),
    "wrong count": ("[optimizer]", "[optimizer]\nbetas = [0.9]", "optimizer.betas", "a list of 2 values"),
    "list for a table": (
        "cap = { en = 0.45 }",
        "cap = [0.45]",
        "data.language_rule.0.cap",
        "such as {hi = 0.1}",
    ),
    "table for arrays": (
        "[[data.language_rule]]",
        "[data.language_rule]",
        "data.language_rule",
        "[[data.langu",
    ),
    "missing value": ('name = "tts"\n', "", "data.source.1.name", "found nothing; expected a value"),
    "not a multiple": (
        "global_batch_tokens = 8_192",
        "global_batch_tokens = 8_000",
        "training.global_batch_tokens",
        "such as 8192",
    ),
    "end above peak": (
        "end_lr = 1e-4",
        "end_lr = 1e-2",
        "lr_scheduler.end_lr",
        "at most optimizer.lr = 0.001",
    ),
    "decay of a constant rate": (
        "end_lr = 1e-4",
        'decay = "constant"\ndecay_ratio = 0.1',
        "lr_scheduler.decay_ratio",
        "a constant rate has no decay",
    ),
    "a branch of nothing": ("[optimizer]", "[stage]\nbranch = true\n[optimizer]", "stage.branch", "of the stable run"),
    "a branch with other data": (
        "[optimizer]",
        '[stage]\nfrom = "x"\nbranch = true\ncontinue_data = false\n[optimizer]',
        "stage.continue_data",
        "a branch continues the data order",
    ),
    "ratio above 1": (
        "end_lr = 1e-4",
        "warmup_ratio = 10",
        "lr_scheduler.warmup_ratio",
        "at least 0 and at most 1",
    ),
    "negative": ("lr = 1e-3", "lr = 1e-3\nweight_decay = -1", "optimizer.weight_decay", "found -1; expected"),
    "beta of 1": ("lr = 1e-3", "lr = 1e-3\nbetas = [0.9, 1.0]", "optimizer.betas.1", "below 1"),
    "no shard degree": (
        "[optimizer]",
        "[parallelism]\ndata_parallel_shard_degree = 0\n[optimizer]",
        "parallelism.data_parallel_shard_degree",
        "-1 (all that are left)",
    ),
    "shares off": ("share = 0.25", "share = 0.3", "data.source.0.share", "add up to 1.05 (0.75 + 0.3)"),
    "share of 0": (
        "share = 0.75",
        "share = 1.0\n[[data.source]]\nname = 'x'\nstore = 's'\ntask = 'text'\nshare = -0.25",
        "data.source.1.share",
        "above 0",
    ),
    "same name": (
        'name = "tts"',
        'name = "speech"',
        "data.source.1.name",
        "unlike that of data.source.0.name",
    ),
    "name of digits": ('name = "tts"', 'name = "1"', "data.source.1.name", "not only digits"),
    "no epochs": ("languages =", "max_epochs = 0\nlanguages =", "data.source.1.max_epochs", "above 0"),
    "no language": ('"ta"]', '"Tamil"]', "data.source.1.languages.1", "a language tag"),
    "rule's source": (
        '["speech", "tts"]',
        '["speech", "ttss"]',
        "data.language_rule.0.sources.1",
        "did you mean tts?",
    ),
    "pin above 1": (
        "cap = { en",
        "pin = { hi = 15 }\ncap = { en",
        "data.language_rule.0.pin.hi",
        "from 0 to 1",
    ),
    "pin for the rest": (
        "cap = { en",
        'pin = { "*" = 0.1 }\ncap = { en',
        "data.language_rule.0.pin.*",
        "all others",
    ),
    "floor above cap": (
        "cap = { en",
        "floor = { en = 0.5 }\ncap = { en",
        "data.language_rule.0.floor.en",
        "the cap of 0.45",
    ),
    "rest above cap": (
        "cap = { en",
        'floor = { "*" = 0.5 }\ncap = { en',
        "data.language_rule.0.floor.*",
        "the cap of 0.45",
    ),
    "pin above cap": (
        "cap = { en",
        "pin = { en = 0.5 }\ncap = { en",
        "data.language_rule.0.pin.en",
        "its cap of 0.45",
    ),
    "floors above 1": (
        "cap = { en",
        "floor = { hi = 0.6, ta = 0.5 }\ncap = { en",
        "data.language_rule.0.floor",
        "the whole pool",
    ),
    "address that lost a slash": (
        'store = "demo_data"\ntask = "tts"',
        'store = "s3:/abc/x"\ntask = "tts"',
        "data.source.1.store",
        "did you mean s3://abc/x?",
    ),
    "address without a bucket": ('store = "demo_data"\ntask = "tts"', 'store = "s3:///x"\ntask = "tts"', *S3_PROBLEM),
    "address with an empty part": (
        'store = "demo_data"\ntask = "tts"',
        'store = "s3://abc/a//x"\ntask = "tts"',
        *S3_PROBLEM,
    ),
    "address of another kind": (
        'store = "demo_data"\ntask = "tts"',
        'store = "gs://bucket/x"\ntask = "tts"',
        "data.source.1.store",
        "the folder of a token store, or s3://bucket/prefix",
    ),
    "address of a held-out set": (
        "[optimizer]",
        '[data]\nheld_out = ["s3://b"]\n[optimizer]',
        "data.held_out.0",
        "s3://bucket/prefix",
    ),
    "upload to a folder": (
        "[optimizer]",
        '[upload]\nto = "runs/pt_s1"\n[optimizer]',
        "upload.to",
        "s3://bucket/prefix of this run, or empty",
    ),
    "upload elsewhere": (
        "[optimizer]",
        '[upload]\nto = "gs://bucket/run"\n[optimizer]',
        "upload.to",
        "expected s3://bucket/prefix",
    ),
    "small parts": ("[optimizer]", "[upload]\npart_mb = 1.0\n[optimizer]", "upload.part_mb", "at least 5.3"),
    "nothing to upload": (
        "[optimizer]",
        '[upload]\nto = "s3://bucket/run"\n[checkpoint]\nenable = false\n[optimizer]',
        "checkpoint.enable",
        "there is nothing to upload",
    ),
    "endpoint without a scheme": (
        "[optimizer]",
        '[storage]\nendpoint_url = "127.0.0.1:9000"\n[optimizer]',
        "storage.endpoint_url",
        "https://host:port",
    ),
    "negative alpha": ("alpha = 0.5", "alpha = -1", "data.language_rule.0.alpha", "1 is in proportion"),
    "chunks": ("[optimizer]", "[loss]\nnum_chunks = 7\n[optimizer]", "loss.num_chunks", "512 / 1 = 512"),
    "tp": (
        "[optimizer]",
        "[parallelism]\ntensor_parallel_degree = 4\n[optimizer]",
        "parallelism.tensor_parallel_degree",
        "a divisor of the 2 key and value heads of this llama3; did you mean 2?",
    ),
    "flavor": (
        "[optimizer]",
        '[model]\nflavor = "1.7B"\n[optimizer]',
        "model.flavor",
        "debug, debug_untied, 1B, 8B, initial for llama3; did",
    ),
    "varlen": (
        "[optimizer]",
        '[model]\nattention = "varlen"\n[optimizer]\n[parallelism]\ncontext_parallel_degree = 2',
        "model.attention",
        'did you mean model.attention = "flex"?',
    ),
}


@pytest.mark.parametrize("kind", ONE_PROBLEM)
def test_each_kind_of_problem_is_reported_once_with_file_line_key_and_expectation(folder: Path, kind: str) -> None:
    old, new, key, part = ONE_PROBLEM[kind]
    text = changed(old, new)
    if kind == "misspelt table":
        text = text.replace("end_lr = 1e-4", "end_lr = 1e-5")
    if kind == "varlen":
        text = text.replace("[optimizer]\n[para", "[para", 1).replace("lr = 1e-3", "[optimizer]\nlr = 1e-3", 1)
    if kind in ("missing value", "same name", "name of digits"):
        text = text.replace('["speech", "tts"]', '["speech"]')
    found = problems(text)
    assert len(found) == 1, found
    assert re.match(rf"run\.toml:\d+: {re.escape(key)}: found .*; expected ", found[0]), found
    assert part in found[0]
    line = int(found[0].split(":")[1])
    last = key.split(".")[-1]
    where = text.splitlines()[line - 1]
    assert last in where or last.isdecimal() or kind in {"missing value", "tp"}, where


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("[optimizer]", '[storage]\nendpoint_url = "https://ID:SECRET@host"\n[optimizer]', "storage.endpoint_url"),
        ("[optimizer]", '[storage]\nendpoint_url = "https://host/?sig=SECRET"\n[optimizer]', "storage.endpoint_url"),
        ('store = "demo_data"\ntask = "tts"', 'store = "s3://ID:SECRET@bucket/x"\ntask = "tts"', "data.source.1.store"),
    ],
)
def test_credentials_in_an_address_are_refused_and_not_repeated(folder: Path, old: str, new: str, key: str) -> None:
    [problem] = problems(changed(old, new))
    assert re.match(rf"run\.toml:\d+: {re.escape(key)}: found a name", problem)
    assert "AWS_SECRET_ACCESS_KEY" in problem
    assert "SECRET@" not in problem
    assert "sig=" not in problem


def test_a_default_that_contradicts_what_was_written_says_it_is_the_default(folder: Path) -> None:
    [problem] = problems(changed("lr = 1e-3", "lr = 1e-5").replace("end_lr = 1e-4", 'decay = "cosine"'))
    assert problem.startswith("run.toml:9: lr_scheduler.end_lr: found 3e-05 (the default); expected at most")


def test_alpha_twice_for_one_source_is_refused_also_when_one_rule_is_for_all(folder: Path) -> None:
    [problem] = problems(BASE + "[[data.language_rule]]\nalpha = 0.7\n")
    assert problem.startswith(f"run.toml:{line_of(BASE, 'cap = ') + 2}: data.language_rule.1.alpha: ")
    assert "a second alpha for speech, tts" in problem
    apart = BASE.replace('["speech", "tts"]', '["tts"]')
    loaded = load(apart + '[[data.language_rule]]\nsources = ["speech"]\nalpha = 0.7\n')
    assert [rule.alpha for rule in loaded.config.data.language_rule] == [0.5, 0.7]


def test_no_source_at_all_is_refused(folder: Path) -> None:
    assert problems("[job]\nseed = 1\n")[0].startswith("run.toml: data.source: found none")


def test_shares_within_the_tolerance_are_accepted(folder: Path) -> None:
    assert load(changed("share = 0.25", "share = 0.2500005")).config.data.source[1].share == 0.2500005


# several problems, and what a problem must not cause


def test_all_problems_come_in_one_message_in_the_order_of_the_files(folder: Path) -> None:
    text = changed("seq_len = 512", 'seq_length = "x"').replace("lr = 1e-3", 'lr = "fast"')
    text = text.replace('task = "tts"', 'task = "tss"').replace("share = 0.25", "share = 0.5")
    found = problems(text, "--model.famly", "qwen3", "--data.source.tsts.share", "1", "stray")
    places = [line.split(": ")[0] for line in found]
    lines = ["seq_length", "lr =", "share = 0.75", 'task = "tss"']
    assert places == [f"run.toml:{line_of(text, part)}" for part in lines] + ["command line"] * 3
    assert any("did you mean data.source.tts.share?" in line for line in found)
    assert any("did you mean model.family?" in line for line in found)


def test_what_only_follows_from_another_problem_is_not_reported(folder: Path) -> None:
    assert len(problems(changed("seq_len = 512", "seq_len = 'x'").replace("8_192", "1_000"))) == 1
    assert len(problems(changed("share = 0.25", "share = 'x'"))) == 1
    assert len(problems(changed('name = "tts"', "name = 7"))) == 1
    assert len(problems(BASE.replace("[[data.source]]", "[[data.sources]]"))) == 1
    assert len(problems('[data]\nsource = [1, {name = "a", store = "s", task = "text", share = 0.5}]\n')) == 1


def test_further_checks_are_reported_in_the_same_message(folder: Path) -> None:
    def check_tokenizer(config: SpeechConfig) -> list[Finding]:
        return [Finding(("tokenizer.path",), f'"{config.tokenizer.path}"', "a folder with tokenizer.json")]

    found = problems(changed("seq_len = 512", "seq_len = 500"), checks=[check_tokenizer])
    default = '"tokenizer/tiny" (the default)'
    assert found[0] == f"run.toml: tokenizer.path: found {default}; expected a folder with tokenizer.json"
    assert len(found) == 3  # with the batch and the chunks


@pytest.mark.parametrize(
    ("flags", "world_size", "part"),
    [
        (
            ["--parallelism.tensor_parallel_degree", "2"],
            3,
            "a divisor of the world size 3; did you mean a world size of 2 or 4",
        ),
        (["--parallelism.data_parallel_shard_degree", "2"], 8, "found a product of all degrees of 2"),
        (
            ["--parallelism.context_parallel_degree", "4"],
            6,
            "a divisor of the world size 6; did you mean a world size of 4 or 8",
        ),
    ],
)
def test_degrees_that_do_not_fit_the_world_are_refused(
    folder: Path, flags: list[str], world_size: int, part: str
) -> None:
    [problem] = problems(BASE, *flags, world_size=world_size)
    assert problem.startswith(f"command line: {flags[0][2:]}: ")  # the one to blame, not another one's default
    assert part in problem
    assert load(BASE, *flags, world_size=None).config.training.seq_len == 512
    assert load(BASE, *flags, world_size=world_size * 8 if "shard" not in part and world_size != 8 else 2)


def test_the_local_sequence_after_context_parallel_must_hold_whole_chunks(folder: Path) -> None:
    cp = ("--parallelism.context_parallel_degree", "4")
    assert load(BASE, *cp, "--loss.num_chunks", "128").config.loss.num_chunks == 128
    [problem] = problems(BASE, *cp, "--loss.num_chunks", "256")
    assert "a divisor of the local sequence, 512 / 4 = 128" in problem


# the command line itself


def test_without_a_file_the_ones_that_exist_are_listed(folder: Path) -> None:
    (folder / "train_configs").mkdir()
    for name in ("demo.toml", "pt_s1.toml"):
        (folder / "train_configs" / name).write_text(BASE)
    with pytest.raises(ConfigError, match=r"such as train_configs/demo\.toml, train_configs/pt_s1\.toml"):
        load_config([])
    with pytest.raises(ConfigError, match=r'no file "train_configs/dmo\.toml".*mean train_configs/demo\.toml\?'):
        load_config(["--job.config_file", "train_configs/dmo.toml"])
    with pytest.raises(ConfigError, match="which is not a file"):
        load_config(["--job.config_file=train_configs"])


@pytest.mark.parametrize(
    ("flag", "part"),
    [
        ("training.seq_len=4", 'found "training.seq_len=4"; expected --table.key value'),
        ("--training..seq_len=4", "expected --table.key value"),
        ("--training.seq-len=4", "did you mean training.seq_len?"),
        ("--trainng.seq_len=4", "did you mean training?"),
        ("--seq_len=4", "did you mean training.seq_len?"),
        ("--data.source.7.share=1", "an index from 0 to 1 or a name (speech, tts)"),
        ("--data.language_rule.3.alpha=1", "an index from 0 to 0"),
        ("--training.seq_len", "found no value; expected a whole number"),
        ("--training=3", 'training: found "3"; expected a table'),
        ("--job.extends=x.toml", "[job] extends in a file"),
        ("--training.seq_len.x=3", "training.seq_len: found a table; expected a whole number"),
        ("--job.description=\udcff", "a string in UTF-8"),
    ],
)
def test_a_bad_flag_is_a_problem_of_the_command_line(folder: Path, flag: str, part: str) -> None:
    [problem] = problems(BASE, flag)
    assert problem.startswith("command line: ")
    assert part in problem


def test_files_that_are_no_toml_are_problems(folder: Path) -> None:
    Path("run.toml").write_bytes(b"[job]\n\xff\n")
    with pytest.raises(ConfigError, match=r"run\.toml:2: found byte 0xff; expected UTF-8 text"):
        load_config(["--job.config_file", "run.toml"])
    assert problems("[job]\nseed = \n")[0].startswith("run.toml:2: found a syntax error")


def test_messages_do_not_show_secrets(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123")
    text = changed("lr = 1e-3", 'lr = "hf_ABCDEFGHIJKLMNOPQRSTUV"')
    found = problems(text, "--training.seq_len", "0123456789abcdef0123", "s3://user:swordfish@host/x")
    for secret in ("hf_ABC", "0123456789abcdef", "swordfish"):
        assert secret not in "\n".join(found)


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
