"""What is wrong with a configuration is reported at once, each with its place and what was expected."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.config.config_text import BASE, changed, line_of, load, problems
from titan_speech.config.problem import Finding
from titan_speech.config.schema import SpeechConfig
from titan_speech.errors import ConfigError
from titan_speech.preflight.config_checks import load_config

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
        "debug, debug_untied, debug_head32, 1B, 8B, initial for llama3; did",
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


@pytest.mark.parametrize("kind", ["context", "pipeline"])
def test_a_generation_check_where_no_rank_can_generate_alone_is_refused(folder: Path, kind: str) -> None:
    flags = (f"--parallelism.{kind}_parallel_degree", "2", "--generation_check.every_steps", "4")
    untied = ("--model.flavor", "debug_untied")
    [problem] = problems(BASE, *untied, *flags, "--data.held_out", '["gold"]')
    assert problem.startswith("command line: generation_check.every_steps: found 4 with ")
    assert "titan-speech evaluate run RUN --watch" in problem
    assert load(BASE, *untied, *flags).config.generation_check.every_steps == 4  # without a set there is no check


def test_a_voice_that_nobody_can_hear_is_refused(folder: Path) -> None:
    [problem] = problems(BASE, "--generation_check.voice", "resemblyzer")
    assert problem.startswith(
        'command line: generation_check.voice: found "resemblyzer" without generation_check.codec'
    )


def test_a_bound_that_nothing_could_leave_is_refused(folder: Path) -> None:
    flags = ("--generation_check.stop_below", "{length_ratio = 0.5}")
    [problem] = problems(BASE, *flags, "--generation_check.every_steps", "4")
    assert problem.startswith("command line: generation_check.stop_below: found a bound without data.held_out")
    load(BASE, *flags, "--generation_check.every_steps", "4", "--data.held_out", '["gold"]')
    load(BASE, *flags, "--generation_check.every_steps", "0")


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
