"""A step compiled for a GPU that is not here: what must not be in it, and one recipe's layer, loss and optimizer."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from benchmarks.compile_for_gpu import GPUS, PRECISIONS, all_recipes, cases_of, compile_case, left_out
from benchmarks.deviceless.child import StepRequest
from benchmarks.deviceless.findings import judge, summarize
from benchmarks.deviceless.results import RESULTS, read_steps
from benchmarks.machine import ROOT

FORWARD = {"step": 1, "region": "layer", "direction": "forward", "extern": {"mm": 5}, "moved_bytes": 10}
LAYER = {**FORWARD, "num_operators": 9, "num_kernels": 1, "num_launches": 6, "complex_operators": 0, "host_syncs": 0}
KERNEL = {"name": "triton_0", "shared_bytes": 8, "registers": 32, "spilled_bytes": 0, "error": ""}
SOUND: dict[str, Any] = {
    "request": {"num_layers": 1},
    "graphs": [LAYER, {**LAYER, "direction": "backward", "extern": {"mm": 10}}],
    "kernels": [KERNEL],
    "counters": {},
    "sizes": {"float8": "none", "num_converted": 0},
    "error": "",
}
FLOAT8 = {"float8": "rowwise", "num_converted": 5}


def with_graph(**changed: Any) -> dict[str, Any]:
    return {**SOUND, "graphs": [*SOUND["graphs"], {**LAYER, **changed}]}


BROKEN = {
    "graph break": {**SOUND, "counters": {"graph_break": {"call to print\nwhere": 1}}},
    "does not compile": {**SOUND, "error": "RuntimeError: no such operator"},
    "not compiled": {**SOUND, "graphs": []},
    "new graph": with_graph(step=2),
    "fall-back": with_graph(extern={"torch.ops.aten.view_as_complex.default": 1}),
    "host sync": with_graph(host_syncs=1),
    "kernel": {**SOUND, "kernels": [{**KERNEL, "error": "asks for too much"}]},
    "spills": {**SOUND, "kernels": [{**KERNEL, "spilled_bytes": 512}]},
    "float8": {**SOUND, "sizes": FLOAT8},
}


def test_a_sound_step_has_no_findings() -> None:
    assert judge(SOUND) == []
    assert summarize(SOUND).extern == {"mm": 15}
    assert summarize(SOUND).layer_bytes == 20


@pytest.mark.parametrize("rule", BROKEN)
def test_each_defect_is_named_by_its_rule(rule: str) -> None:
    assert {finding.rule for finding in judge(BROKEN[rule])} == {rule}


def test_complex_numbers_are_a_fall_back_even_without_a_call() -> None:
    assert [finding.rule for finding in judge(with_graph(complex_operators=3))] == ["fall-back"]


def test_a_float8_step_needs_every_product_in_float8() -> None:
    record = deepcopy({**SOUND, "sizes": FLOAT8})
    for graph, times in zip(record["graphs"], (5, 10), strict=True):
        graph["extern"] = {"_scaled_mm": times}
    assert judge(record) == []
    record["graphs"][1]["extern"]["_scaled_mm"] = 9
    assert [finding.rule for finding in judge(record)] == ["float8"]


def test_recipes_of_one_step_are_compiled_once_and_none_is_left_out_without_a_reason() -> None:
    recipes = all_recipes()
    found = {str(path.relative_to(ROOT)) for path in (ROOT / "train_configs").glob("*.toml")}
    assert found == {*recipes, *left_out()}
    assert list(left_out()) == ["train_configs/demo.toml"]
    cases = cases_of(recipes, ["bf16"], world_size=GPUS)
    assert len(recipes) == len(cases) + sum(len(case.like) for case in cases)
    assert 5 < len(cases) < len(recipes)


def test_every_recipe_was_compiled_in_bf16_and_all_that_was_is_sound() -> None:
    """The record beside the benchmarks; the slow tests compile again, in both precisions."""
    steps = read_steps(RESULTS)
    recorded = {(step["name"], tuple(step["like"])) for step in steps}
    cases = {one: {(case.name, case.like) for case in cases_of(all_recipes(), [one], GPUS)} for one in PRECISIONS}
    assert cases["bf16"] <= recorded <= cases["bf16"] | cases["float8"]
    assert not [step["name"] for step in steps if step["findings"] or step["error"]]


def test_a_layer_of_the_1b_recipe_compiles_for_hopper() -> None:
    words = ("--job.config_file", "train_configs/pt_s1_llama3_1b.toml")
    record = compile_case(StepRequest(words, "sm_90", world_size=GPUS, num_layers=1, max_base_rows=4096))
    assert judge(record) == []
    kernels = {kernel["name"]: kernel for kernel in record["kernels"]}
    attention = [kernel for name, kernel in kernels.items() if "flex_attention" in name and "tem_fused" in name]
    assert len(attention) == 2, "forward and backward"
    assert all(kernel["tensor_core_instructions"] for kernel in attention)
    assert all(kernel["registers"] for kernel in kernels.values()), "each was compiled to machine code"
