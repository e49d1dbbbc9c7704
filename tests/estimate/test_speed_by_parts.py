"""The time of a pass by parts: what moves it, what it says of published runs, and files that refit it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.compile_for_gpu import RESULTS
from benchmarks.peers import peers
from titan_speech.config.schema import SpeechConfig
from titan_speech.errors import EstimateError
from titan_speech.estimate.devices import DEVICES
from titan_speech.estimate.efficiencies import DEFAULT_EFFICIENCIES, calibrated
from titan_speech.estimate.result import count_storage
from titan_speech.estimate.speed_by_parts import (
    RECOMPUTED,
    Pass,
    elementwise_bytes,
    layer_matrices,
    levers,
    parts_of_pass,
    speed_by_parts,
)
from titan_speech.model.backbones import published_shape
from titan_speech.model.flops import count_flops

SHAPE, ROWS, H100 = published_shape("llama3", "1B"), 193_856, DEVICES["h100"]
PASS = Pass(
    num_tokens=16_384,
    attended=238.0,
    recomputation="selective",
    is_compiled=True,
    is_float8=False,
    num_ranks_per_sequence=1,
    num_shards=32,
    passes_per_step=1,
    num_chunks=8,
    sending_sec=0.004,
)


def seconds(one: Pass) -> float:
    return sum(parts_of_pass(SHAPE, ROWS, one, H100, DEFAULT_EFFICIENCIES).values())


def test_matrices_of_a_layer_have_its_parameters() -> None:
    queries, keys = SHAPE.num_heads * SHAPE.head_dim, SHAPE.num_kv_heads * SHAPE.head_dim
    expected = SHAPE.dim * (2 * queries + 2 * keys) + 3 * SHAPE.dim * SHAPE.hidden_dim
    assert sum(inputs * outputs for inputs, outputs in layer_matrices(SHAPE).values()) == expected


def test_no_part_is_faster_than_the_peak() -> None:
    parts = parts_of_pass(SHAPE, ROWS, replace(PASS, recomputation="none"), H100, DEFAULT_EFFICIENCIES)
    products = parts["products of the layers"] + parts["products of the head"]
    assert products > count_flops(SHAPE, ROWS).matrices * PASS.num_tokens / H100.bf16_flops


def test_each_lever_makes_a_pass_cheaper_per_token_and_names_only_changes() -> None:
    for name, other in levers(PASS, H100, num_chunks=4).items():
        assert seconds(other) / other.num_tokens < seconds(PASS) / PASS.num_tokens, name
    assert "compile.enable = true" not in levers(PASS, H100, num_chunks=4)
    assert "loss.num_chunks = 8" not in levers(PASS, H100, num_chunks=8)
    assert 'float8.recipe = "rowwise"' not in levers(PASS, DEVICES["a100"], num_chunks=4)
    uncompiled = replace(PASS, is_compiled=False)
    assert seconds(uncompiled) > seconds(PASS)


def test_chunks_of_a_frozen_head_add_up_no_gradients() -> None:
    frozen, name = replace(PASS, trains_head=False), "sums of the head's gradient"
    assert name in parts_of_pass(SHAPE, ROWS, PASS, H100, DEFAULT_EFFICIENCIES)
    assert name not in parts_of_pass(SHAPE, ROWS, frozen, H100, DEFAULT_EFFICIENCIES)
    flops = count_flops(SHAPE, ROWS)
    found = speed_by_parts(SHAPE, ROWS, replace(frozen, num_chunks=64), 2048, flops, H100, DEFAULT_EFFICIENCIES)
    assert found is not None
    assert found.chosen_loss_head.num_chunks == 64


def test_the_honest_mfu_is_over_what_the_chip_does_and_at_the_lengths_of_documents() -> None:
    flops = count_flops(SHAPE, ROWS)
    found = speed_by_parts(SHAPE, ROWS, PASS, 2048, flops, DEVICES["h200"], DEFAULT_EFFICIENCIES)
    assert found is not None
    assert found.chip_bf16_flops == 788e12
    assert found.honest_mfu == pytest.approx(found.tokens_per_sec_per_gpu * flops.at(238.0) / 788e12)
    assert found.mfu == pytest.approx(found.tokens_per_sec_per_gpu * flops.at(2048) / 989e12)
    assert speed_by_parts(SHAPE, ROWS, PASS, 2048, flops, DEVICES["cpu"], DEFAULT_EFFICIENCIES) is None


def test_published_runs_are_met_within_the_stated_gap_and_on_both_sides() -> None:
    """Nothing is fitted to them; runs of eight groups, three of them at lowered power."""
    gaps = [one.gap for one in peers()]
    assert all(abs(gap) < 0.6 for gap in gaps), gaps
    assert min(gaps) < 0 < max(gaps)


def test_a_stated_mfu_over_whole_windows_is_more_than_twice_the_one_at_documents() -> None:
    [scicom] = [one for one in peers() if one.name == "Scicom Qwen3-0.6B"]
    assert scicom.stated_mfu is not None
    assert scicom.stated_mfu > 2 * scicom.honest_mfu


def test_elementwise_bytes_are_those_that_the_compiler_counts() -> None:
    steps = {step["name"]: step for step in json.loads(RESULTS.read_text())["steps"]}
    step = steps["pt_s1_llama3_1b bf16"]
    graphs = [graph for graph in step["graphs"] if graph["region"] == "layer"]
    counted = {graph["direction"]: graph["elementwise_bytes"] for graph in graphs}
    tokens = step["sizes"]["packs"] * step["sizes"]["seq_len"]
    forward, backward = elementwise_bytes(SHAPE, tokens)
    assert forward == pytest.approx(counted["forward"], rel=0.15)
    again = RECOMPUTED[step["sizes"]["recomputation"]][1]
    assert backward + again * forward == pytest.approx(counted["backward"], rel=0.15)


def report(tmp_path: Path, **changed: object) -> Path:
    path = tmp_path / "report.json"
    path.write_text(
        json.dumps({"device": "h100", "efficiencies": {"products": 0.7, "chip_bf16_flops": 7e14}, **changed})
    )
    return path


def test_a_report_replaces_what_it_measured_and_nothing_else(tmp_path: Path) -> None:
    found = calibrated(report(tmp_path), "h100")
    assert (found.products, found.chip_bf16_flops) == (0.7, 7e14)
    assert found.memory == DEFAULT_EFFICIENCIES.memory
    assert found.origin.startswith("measured (chip_bf16_flops, products)")


def test_moments_in_bf16_make_a_full_checkpoint_smaller() -> None:
    config = SpeechConfig()
    small = replace(config, optimizer=replace(config.optimizer, implementation="fused_opt_states_bf16"))
    full, less = (count_storage(one, 1000, num_steps=10).full_bytes for one in (config, small))
    assert (full, less) == (12_000, 8_000)


BAD_REPORTS = {
    "no efficiencies": ({"efficiencies": None}, "no report of a GPU"),
    "another device": ({"device": "h200\x1b"}, r"'h200\\x1b'.*--gpu"),
    "an unknown name": ({"efficiencies": {"speed": 1.0}}, "is no efficiency"),
    "above the peak": ({"efficiencies": {"products": 1.2}}, "at most 1"),
    "zero": ({"efficiencies": {"memory": 0}}, "above 0"),
    "not a number": ({"efficiencies": {"memory": "fast\x1b"}}, r"memory is 'fast\\x1b', expected a number"),
    "a number as text": ({"efficiencies": {"memory": "0.7"}}, "expected a number"),
    "a truth value": ({"efficiencies": {"memory": True}}, "expected a number"),
    "no finite number": ({"efficiencies": {"memory": float("nan")}}, "memory is nan"),
    "more digits than a float has": ({"efficiencies": {"memory": 10**400}}, "at most 1"),
}


@pytest.mark.parametrize("name", BAD_REPORTS)
def test_a_report_that_cannot_be_is_refused(name: str, tmp_path: Path) -> None:
    changed, message = BAD_REPORTS[name]
    with pytest.raises(EstimateError, match=message):
        calibrated(report(tmp_path, **changed), "h100")
