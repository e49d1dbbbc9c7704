"""The shipped recipes: they load, pass their checks at the sizes they are for, and have the values decided for them."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from titan_speech.checkpoint.retention import is_due
from titan_speech.config.budget import Budget
from titan_speech.config.load import LoadedConfig
from titan_speech.config.schema import SpeechConfig
from titan_speech.errors import ConfigError
from titan_speech.preflight.config_checks import load_config
from titan_speech.preflight.machine_checks import check_folders_exist

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "train_configs/README.md").read_text("utf-8")
FOLDER = ROOT / "train_configs"
RECIPES = {path.stem: path for path in sorted(FOLDER.glob("*.toml"))} | {
    f"tour/{path.stem}": path for path in sorted((FOLDER / "tour").glob("*.toml"))
}

# seq_len, tokens per step, target tokens, peak, end, warmup
STAGES = {
    "smoke": (2048, 262_144, 5_000 * 262_144, 1.2e-4, 1e-5, 0.05),
    "pt_s1": (2048, 524_288, 200_000_000_000, 1.2e-4, 3e-5, 0.10),
    "pt_s2": (2048, 524_288, 30_000_000_000, 3e-5, 1.5e-5, 0.03),
    "pt_s3": (4096, 262_144, 20_000_000_000, 1.5e-5, 7e-6, 0.02),
    "sft": (2048, 262_144, 2_000_000_000, 7e-6, 2.3e-6, 0.05),
}
PEAKS = {  # where a backbone's differ
    "smoke_qwen3_0.6b": 2e-4,
    "pt_s1_qwen3_0.6b": 2e-4,
    "smoke_llama3_1b": 1.5e-4,
    "pt_s1_llama3_1b": 1.5e-4,
    "pt_s1_llama3_8b": 1e-4,
}
BACKBONES = ("qwen3_1.7b", "qwen3_0.6b", "llama3_1b", "llama3_8b")
MIXTURES = {  # shares of tokens by task
    "smoke": {"speech": 0.80, "paired": 0.10, "text": 0.10},
    "pt_s1": {"speech": 0.80, "paired": 0.10, "text": 0.10},
    "pt_s2": {"speech": 0.60, "paired": 0.35, "text": 0.05},
    "pt_s3": {"speech": 1.0},
    "sft": {"paired": 1.0},
}
KINDS = {"speech": "speech", "continuation": "speech", "tts": "paired", "clone": "paired", "text": "text"}
SFT_STORES = {"wild_paired": 0.65, "studio": 0.20, "curated": 0.10, "indic_anchor": 0.05}
ONE_GPU_IS_TOO_FEW = {"pt_s1_llama3_1b_ddp", "pt_s1_llama3_1b_hsdp", "pt_s1_llama3_8b_tp"}


def load(name: str, world_size: int | None = None) -> LoadedConfig:
    return load_config(["--job.config_file", str(RECIPES[name])], world_size=world_size)


def config_of(stage: str, backbone: str) -> SpeechConfig:
    return load(stage if backbone == "qwen3_1.7b" else f"{stage}_{backbone}").config


def stage_of(name: str) -> str:
    return next((stage for stage in STAGES if name.startswith(stage)), "")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_passes_its_checks_with_equal_batches_and_schedule_on_any_gpus_it_is_for(name: str) -> None:
    sizes = (32,) if name.endswith("_ddp") else (8, 24, 64) if name in ONE_GPU_IS_TOO_FEW else (1, 8, 24, 64)
    configs = [load(name, world_size).config for world_size in sizes]
    assert len({Budget.from_config(config) for config in configs}) == 1
    assert len(set(map(repr, configs))) == 1


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_opens_with_what_a_person_needs_to_know(name: str) -> None:
    head = RECIPES[name].read_text("utf-8").split("\n[job]")[0]
    for word in ("launch ", "hardware ", "tokens ", "time ", "Why these values"):
        assert f"# {word}" in head, word
    assert f"train_configs/{name}.toml" in head


@pytest.mark.parametrize("name", [name for name in RECIPES if stage_of(name)])
def test_a_stage_has_the_values_decided_for_it(name: str) -> None:
    stage = stage_of(name)
    config = load(name).config
    seq_len, batch, target, peak, end, warmup = STAGES[stage]
    backbone = next((f"{stage}_{backbone}" for backbone in BACKBONES if f"{stage}_{backbone}" in name), "")
    peak = PEAKS.get(backbone, peak)
    if name == "sft_after_s2":
        peak, end = 1.5e-5, 5e-6
    training = config.training
    assert (training.seq_len, training.global_batch_tokens, training.target_tokens) == (seq_len, batch, target)
    assert (config.optimizer.lr, config.lr_scheduler.end_lr, config.lr_scheduler.warmup_ratio) == (peak, end, warmup)
    assert (config.optimizer.betas, config.optimizer.eps, config.optimizer.weight_decay) == ((0.9, 0.95), 1e-8, 0.1)
    assert (training.max_norm, config.lr_scheduler.decay, config.optimizer.implementation) == (1.0, "cosine", "fused")
    assert (training.dtype, training.mixed_precision_param) == ("float32", "bfloat16")
    assert config.compile.enable
    assert len(config.data.held_out) == 1


@pytest.mark.parametrize("name", [name for name in RECIPES if stage_of(name)])
def test_a_stage_mixes_tasks_and_languages_as_decided(name: str) -> None:
    stage, data = stage_of(name), load(name).config.data
    shares: dict[str, float] = {}
    for source in data.source:
        shares[KINDS[source.task]] = shares.get(KINDS[source.task], 0) + source.share
        assert source.train_on == ("target" if stage == "sft" else "all")
        assert (source.stitch_gap_sec is not None) == (stage == "pt_s3")
    assert shares == pytest.approx(MIXTURES[stage])
    [rule] = data.language_rule
    assert (rule.alpha, rule.pin, rule.floor) == (0.5, {"hi": 0.15}, {"*": 0.02})
    assert rule.cap == {"en": 0.55 if stage == "sft" else 0.45}
    pool = set(rule.sources) or {source.name for source in data.source}
    assert pool == {source.name for source in data.source if source.task != "text"}


@pytest.mark.parametrize("name", [name for name in RECIPES if stage_of(name)])
def test_a_stage_saves_and_keeps_as_decided(name: str) -> None:
    table, is_sft = load(name).config.checkpoint, stage_of(name) == "sft"
    due = [step for step in range(1, 70_001) if is_due(table.cadence, step)]
    assert due[:3] == [1_000, 2_000, 3_000]
    assert {after - before for before, after in pairwise(due)} == ({1_000, 2_000} if is_sft else {1_000, 5_000, 10_000})
    if not is_sft:
        assert [step for step in due if 8_000 < step <= 60_000 and step not in range(20_000, 50_000)] == [
            *(9_000, 10_000, 15_000, 50_000, 60_000)
        ]
    assert (table.keep_last_full, table.keep_last_model_only, table.milestone_every_steps) == (5, 20, 50_000)


def test_sft_takes_its_stores_in_the_shares_decided_and_clones_for_the_most_part() -> None:
    for backbone in BACKBONES:
        sources = config_of("sft", backbone).data.source
        for store, share in SFT_STORES.items():
            assert sum(s.share for s in sources if s.store.endswith(f"/{store}")) == pytest.approx(share)
        assert sum(s.share for s in sources if s.task == "clone") > 0.5


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_learning_rate_only_drops_from_stage_to_stage_and_each_takes_over_from_the_one_before(
    backbone: str,
) -> None:
    stages = [config_of(stage, backbone) for stage in ("pt_s1", "pt_s2", "pt_s3", "sft")]
    for before, after in pairwise(stages):
        assert after.stage.from_ == before.job.dump_folder
        assert after.optimizer.lr <= before.lr_scheduler.end_lr
        assert after.lr_scheduler.end_lr < after.optimizer.lr
    without_s3 = load("sft_after_s2").config
    assert without_s3.optimizer.lr == load("pt_s2").config.lr_scheduler.end_lr
    assert without_s3.stage.from_ == load("pt_s2").config.job.dump_folder


def test_the_tour_hands_over_like_the_stages_it_shows() -> None:
    stages = [load(f"tour/{stage}").config for stage in ("s1", "s2", "s3", "sft")]
    for before, after in pairwise(stages):
        assert after.stage.from_ == before.job.dump_folder
        assert after.stage.strict
        assert after.optimizer.lr == before.lr_scheduler.end_lr


def test_a_backbone_brings_its_own_sizes_tokenizer_and_stores_to_every_stage() -> None:
    for backbone in BACKBONES:
        family, flavor = backbone.split("_")
        for stage in ("pt_s1", "pt_s2", "pt_s3", "sft"):
            config = config_of(stage, backbone)
            assert (config.model.family, config.model.flavor.lower()) == (family, flavor)
            assert config.tokenizer.path == config.model.initial
            assert {Path(source.store).parent.name for source in config.data.source} == {family}


def test_the_folders_that_stages_write_are_all_different() -> None:
    folders = [load(name).config.job.dump_folder for name in RECIPES if name not in ONE_GPU_IS_TOO_FEW]
    assert len(set(folders)) == len(folders)


def test_the_page_names_every_recipe_and_its_own_example_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = set(re.findall(r"`(\w[\w./]*)\.toml`", PAGE))
    patterns = [re.escape(name).replace(r"\*", r"\w+") for name in re.findall(r"`(\*[\w.]*)\.toml`", PAGE)]
    assert [name for name in RECIPES if name not in named and not any(re.fullmatch(p, name) for p in patterns)] == []
    monkeypatch.chdir(ROOT)
    [example] = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    mine = tmp_path / "mine.toml"
    mine.write_text(example.replace("train_configs", str(ROOT / "train_configs")), encoding="utf-8")
    config = load_config(["--job.config_file", str(mine)]).config
    assert config.data.language_rule[0].pin == {"hi": 0.5, "en": 0.2}


def test_the_annotated_recipe_of_the_documents_loads(tmp_path: Path) -> None:
    page = (ROOT / "docs/configuration.md").read_text("utf-8")
    mine = tmp_path / "hindi.toml"
    mine.write_text(re.findall(r"```toml\n(.*?)```", page, re.DOTALL)[0], encoding="utf-8")
    (tmp_path / "train_configs").symlink_to(FOLDER)
    config = load_config(["--job.config_file", str(mine)], world_size=32).config
    assert [source.name for source in config.data.source] == ["raw", "tts"]


def test_all_missing_folders_are_reported_at_once_with_the_lines_to_fill_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--job.config_file", str(RECIPES["pt_s1"]), "--data.stores.text", "s3://corpora/text"]
    with pytest.raises(ConfigError) as caught:
        load_config(words, checks=(check_folders_exist,))
    lines = str(caught.value).splitlines()[1:]
    keys = [re.search(r"(\w+\.toml):\d+: ([\w.]+): found no folder", line) for line in lines]
    assert [key.groups() for key in keys if key] == [
        ("places_qwen3.toml", "data.stores.raw_speech"),
        ("places_qwen3.toml", "data.stores.paired"),
        ("places_qwen3.toml", "data.stores.gold"),
        ("7b.toml", "model.initial"),
        ("7b.toml", "tokenizer.path"),
    ]
    with pytest.raises(ConfigError) as caught:  # a later stage takes its weights from the one before
        load_config(["--job.config_file", str(RECIPES["pt_s2"])], checks=(check_folders_exist,))
    assert "model.initial" not in str(caught.value)
    assert 'pt_s2.toml:20: stage.from: found no folder "outputs/pt_s1"' in str(caught.value)
    (tmp_path / "outputs/pt_s2/checkpoint/step-1000").mkdir(parents=True)
    with pytest.raises(ConfigError) as caught:  # and goes on from its own once it has some
        load_config(["--job.config_file", str(RECIPES["pt_s2"])], checks=(check_folders_exist,))
    assert "stage.from" not in str(caught.value)


FLAGS_OF_THE_PAGE = [
    ("pt_s1", 32, "--parallelism.data_parallel_replicate_degree 4"),
    ("pt_s1", 8, "--float8.recipe rowwise"),
    ("pt_s1", 8, "--activation_checkpoint.kind full"),
    ("pt_s1", 8, "--loss.num_chunks 16"),
    ("pt_s3", 8, "--parallelism.context_parallel_degree 2"),
    ("pt_s1_llama3_8b", 8, "--parallelism.tensor_parallel_degree 4"),
    ("pt_s1_llama3_8b_tp", 8, "--compile.enable_async_tensor_parallel"),
    ("pt_s1_llama3_8b", 16, "--parallelism.pipeline_parallel_degree 2 --training.local_batch_packs 4"),
    ("pt_s1", 8, "--training.cuda_graphs"),
]


@pytest.mark.parametrize(("name", "world_size", "flags"), FLAGS_OF_THE_PAGE)
def test_the_flags_of_the_page_are_compatible_with_the_recipe(name: str, world_size: int, flags: str) -> None:
    assert f"`{flags}`" in PAGE
    load_config(["--job.config_file", str(RECIPES[name]), *flags.split()], world_size=world_size)


def test_the_page_has_no_flag_that_is_not_tried() -> None:
    table = PAGE.partition("## Optional techniques")[2].partition("\n## ")[0]
    listed = set(re.findall(r"`(--[^`]+)`", table)) - {"--training.local_batch_packs"}
    assert listed == {flags for _, _, flags in FLAGS_OF_THE_PAGE}
