"""Which value takes precedence: defaults, files, the files they extend, the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.config.config_text import BASE, changed, load, problems
from titan_speech.config.schema import SpeechConfig
from titan_speech.errors import ConfigError
from titan_speech.preflight.config_checks import load_config

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


def test_a_name_that_no_file_can_have_is_a_missing_file(folder: Path) -> None:
    name = "a" * 300
    [problem] = problems(f'[job]\nextends = "{name}.toml"\n')
    assert problem.startswith(f'run.toml:2: job.extends: found no file "{name}.toml"')
    with pytest.raises(ConfigError, match=f'found no file "{name}"'):
        load_config(["--job.config_file", name])


def test_a_misspelt_extends_is_reported_without_what_its_file_would_have_set(folder: Path) -> None:
    Path("base.toml").write_text(BASE)
    [problem] = problems('[job]\nextend = "base.toml"\n[optimizer]\nlr = 1e-5\n')
    assert problem.startswith("run.toml:2: job.extend: found an unknown key")
    assert problem.endswith("did you mean job.extends?")


def test_a_syntax_error_in_a_base_does_not_hide_what_else_is_wrong(folder: Path) -> None:
    Path("base.toml").write_text("[job\n")
    found = problems('[job]\nextends = "base.toml"\nsead = 3\n', "stray")
    assert [line.split(":")[0] for line in found] == ["base.toml", "run.toml", "command line"]
