"""Every shipped recipe can be estimated and dry-run at the world size its launch line states."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.recipe_headers import FOLDER, PAGE, estimate_recipes, page, with_estimate, world_sizes
from titan_speech.cli.main import main
from titan_speech.config.budget import Budget
from titan_speech.config.schema import SpeechConfig
from titan_speech.estimate.devices import DEVICES
from titan_speech.estimate.dry_run import MAX_BASE_ROWS, dry_run, shortened
from titan_speech.estimate.estimate_run import estimate_runs
from titan_speech.estimate.offline import run_shape
from titan_speech.estimate.result import EstimateRequest, RunEstimate
from titan_speech.preflight.config_checks import load_config
from titan_speech.tokenization.vocabulary import NUM_CODES, NUM_SPECIAL_ROWS

ROOT = Path(__file__).parents[2]
RECIPES = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "train_configs").glob("*.toml"))] + [
    str(path.relative_to(ROOT)) for path in sorted((ROOT / "train_configs/tour").glob("*.toml"))
]


@pytest.fixture(autouse=True)
def _paths_of_recipes_start_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def world_size_of(recipe: str) -> int:
    """Nodes times processes of its launch line."""
    text = Path(recipe).read_text("utf-8")
    found = {name: re.search(rf"--{name} (\d+)", text) for name in ("nnodes", "nproc")}
    assert found["nproc"] is not None
    return int(found["nproc"][1]) * (int(found["nnodes"][1]) if found["nnodes"] else 1)


def config_of(recipe: str) -> SpeechConfig:
    return load_config(["--job.config_file", recipe], world_size=world_size_of(recipe)).config


def request_of(recipe: str) -> EstimateRequest:
    return EstimateRequest(config_of(recipe), recipe, world_size_of(recipe), DEVICES["h100"], price_per_gpu_hour=2.0)


def check_that_a_rank_holds_its_part(plan: RunEstimate) -> None:
    """fp32 weights and two moments of what is trained, sharded over all ranks that are no copies of each other."""
    copies = plan.request.config.parallelism.data_parallel_replicate_degree
    each, resident, sizes = 4 * copies / plan.request.world_size, plan.trace.resident, plan.parameters
    assert resident["parameters"] == pytest.approx(each * (sizes.total + sizes.adapters), rel=0.02), plan.request.name
    assert resident["optimizer state"] == pytest.approx(2 * each * sizes.trained, rel=0.02), plan.request.name


@pytest.mark.slow
def test_every_recipe_is_planned_and_its_head_says_what_the_plan_does() -> None:
    plans = estimate_recipes(world_sizes())
    for name, plan in plans.items():
        check_that_a_rank_holds_its_part(plan)
        text = (FOLDER / f"{name}.toml").read_text("utf-8")
        assert with_estimate(text, plan) == text, "run python scripts/recipe_headers.py"
    text = PAGE.read_text("utf-8")
    assert page(text, plans) == text


@pytest.mark.slow
def test_recipes_for_a_cpu_are_planned_too() -> None:
    for plan in estimate_runs([request_of(recipe) for recipe in RECIPES if Path(recipe).stem not in world_sizes()]):
        check_that_a_rank_holds_its_part(plan)
        assert plan.speed is not None
        assert plan.speed.price is not None


def test_heads_of_all_recipes_for_gpus_give_figures_that_come_out() -> None:
    sizes = world_sizes()
    assert [recipe for recipe in RECIPES if Path(recipe).stem not in sizes and "/tour/" not in recipe] == [
        "train_configs/demo.toml",
    ]
    for name in sizes:
        text = (FOLDER / f"{name}.toml").read_text("utf-8")
        found = re.search(r"\(([\d,]+) tokens/s per GPU, ([\d,.]+) GPU hours\)", text)
        assert found is not None, name
        rate, hours = (float(figure.replace(",", "")) for figure in found.groups())
        config = config_of(f"train_configs/{name}.toml")
        budget = Budget.from_config(config)
        tokens = budget.total_tokens - config.stage.num_done * budget.tokens_per_step
        assert rate * hours * 3600 == pytest.approx(tokens, rel=0.01), name  # three digits each


LAYOUTS = {
    "FSDP": (),
    "HSDP": ("--parallelism.data_parallel_replicate_degree", "4"),
    "DDP": ("--parallelism.data_parallel_replicate_degree", "32", "--parallelism.data_parallel_shard_degree", "1"),
    "tensor parallel": ("--parallelism.tensor_parallel_degree", "2"),
    "context parallel": ("--parallelism.context_parallel_degree", "2"),
    "pipeline": ("--model.flavor", "debug_untied", "--parallelism.pipeline_parallel_degree", "4"),
    "all": (
        *("--model.flavor", "debug_untied", "--parallelism.pipeline_parallel_degree", "2"),
        *("--parallelism.tensor_parallel_degree", "2", "--parallelism.context_parallel_degree", "2"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_takes_steps_on_32_ranks(layout: str) -> None:
    words = ["--job.config_file", "train_configs/demo.toml", *LAYOUTS[layout]]
    done = dry_run(load_config(words, world_size=32).config, 32)
    assert done.world_size == 32
    assert len(done.ranks) == (2 if layout in ("pipeline", "all") else 1)


@pytest.mark.slow
def test_json_tells_of_the_dry_run(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["estimate", "--job.config_file", "train_configs/demo.toml", "--world-size", "8", "--dry-run", "--json"]
    assert main(words) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["dry_run"]["num_steps"] == 2
    assert content["computed"]["composition"]["problems"] == []


@pytest.mark.slow
def test_two_layers_of_the_demonstration_take_steps_on_eight_ranks() -> None:
    done = dry_run(config_of("train_configs/demo.toml"), 8)
    assert (done.world_size, done.num_rows) == (8, MAX_BASE_ROWS + NUM_CODES + NUM_SPECIAL_ROWS)
    assert done.num_rows == done.num_rows_of_run


def step_of(recipe: str) -> tuple[Hashable, ...]:
    """All that its dry run builds a step of; rates, data and the names of a run are not in it, and the number of chunks
    of the loss neither, each of which is the same step again."""
    config, world_size = config_of(recipe), world_size_of(recipe)
    short = shortened(config, world_size)
    tables = (short.training, short.parallelism, short.activation_checkpoint, short.float8, short.debug)
    tables = (*tables, short.lora)
    return (world_size, run_shape(config)[0], *tables, replace(short.optimizer, lr=1.0))


DRY_RUN = ("demo", "overfit32", "pt_s1", "pt_s1_qwen3_0.6b", "pt_s1_llama3_1b", "pt_s1_llama3_1b_ddp")
DRY_RUN += ("pt_s1_llama3_1b_hsdp", "pt_s1_llama3_8b", "pt_s1_llama3_8b_tp", "lora_voice", "lora_language")
DRY_RUN += ("control", "dpo")
DRY_RUN += ("pt_s3_llama3_1b",)  # with recomputation, as sft_llama3_1b


@pytest.mark.slow
@pytest.mark.parametrize("recipe", DRY_RUN)
def test_two_layers_of_every_step_there_is_are_taken_at_the_gpus_they_are_for(recipe: str) -> None:
    recipe = f"train_configs/{recipe}.toml"
    assert dry_run(config_of(recipe), world_size_of(recipe)).world_size == world_size_of(recipe)


def test_every_recipe_takes_the_steps_of_one_that_is_dry_run() -> None:
    dry = {step_of(f"train_configs/{recipe}.toml") for recipe in DRY_RUN}
    assert len(dry) == len(DRY_RUN)
    assert not [recipe for recipe in RECIPES if step_of(recipe) not in dry]
