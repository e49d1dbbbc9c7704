"""Every recipe's step compiles for a GPU, in both precisions, and defects that are planted in one are caught."""

from __future__ import annotations

import pytest

from benchmarks.compile_for_gpu import GPUS, PRECISIONS, Case, all_recipes, cases_of, compile_case
from benchmarks.deviceless.child import StepRequest
from benchmarks.deviceless.findings import judge

pytestmark = pytest.mark.slow

CASES = cases_of(all_recipes(), list(PRECISIONS), world_size=GPUS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_recipe_compiles(case: Case) -> None:
    assert judge(compile_case(case.request("sm_90", world_size=GPUS))) == []


@pytest.mark.parametrize(
    ("planted", "rule"),
    [("item", "host sync"), ("branch", "graph break"), ("complex", "fall-back"), ("shape", "new graph")],
)
def test_a_planted_defect_is_caught(planted: str, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANTED", planted)
    words = ("--job.config_file", "train_configs/pt_s1_qwen3_0.6b.toml")
    request = StepRequest(words, "sm_90", world_size=GPUS, num_layers=1, max_base_rows=4096)
    assert rule in {finding.rule for finding in judge(compile_case(request, "tests.support.planted_step"))}
