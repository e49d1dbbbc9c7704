"""Feature compatibility: every rule has a configuration that breaks it, reported with reason and nearest choice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.pipelining.schedules import get_schedule_class
from torchtitan.distributed.pipeline_parallel import _generate_llm_fqn_per_model_part

from titan_speech.config.fields import check_bounds
from titan_speech.config.schema import SpeechConfig
from titan_speech.distributed.pipeline import stage_layers
from titan_speech.errors import ConfigError
from titan_speech.model.backbones import FLAVORS, published_shape
from titan_speech.preflight.compatibility import (
    COMPATIBILITY_RULES,
    FEATURES,
    Composition,
    check_compatibility,
    describe_composition,
    enabled_features,
    excluded_features,
)
from titan_speech.preflight.config_checks import load_config
from titan_speech.preflight.machine_checks import is_installed, missing_device_features, refuse_unsupported_run
from titan_speech.preflight.parallel_degrees import check_divisibility

SMALL = Path(__file__).parents[1] / "assets" / "small.toml"


def config_with(**tables: dict[str, Any]) -> SpeechConfig:
    """The default configuration, valid, with some keys of some tables set."""
    config = SpeechConfig()
    assert not [*check_bounds(config), *check_compatibility(config), *check_divisibility(config)]
    return replace(config, **{name: replace(getattr(config, name), **keys) for name, keys in tables.items()})


BREAKING = {
    "varlen attention with context parallel": {
        "model": {"attention": "varlen"},
        "parallelism": {"context_parallel_degree": 2},
    },
    "varlen attention with CUDA graphs": {"model": {"attention": "varlen"}, "training": {"cuda_graphs": True}},
    "pipeline parallel with tied embeddings": {"parallelism": {"pipeline_parallel_degree": 2}},
    "pipeline parallel with CUDA graphs": {
        "model": {"flavor": "debug_untied"},
        "parallelism": {"pipeline_parallel_degree": 2},
        "training": {"cuda_graphs": True},
    },
    "preference loss with pipeline parallel": {
        "model": {"flavor": "debug_untied"},
        "parallelism": {"pipeline_parallel_degree": 2},
        "preference": {"loss": "dpo"},
    },
    "preference loss with CUDA graphs": {"preference": {"loss": "dpo"}, "training": {"cuda_graphs": True}},
    "emulated float8 with compiled layers": {
        "float8": {"recipe": "rowwise", "emulate": True},
        "compile": {"enable": True},
    },
    "FSDP in symmetric memory with DDP": {
        "parallelism": {
            "data_parallel_replicate_degree": 4,
            "data_parallel_shard_degree": 1,
            "enable_fsdp_symm_mem": True,
        },
    },
    "memory budget without compiled layers": {
        "activation_checkpoint": {"kind": "memory_budget"},
        "compile": {"enable": True, "components": ("loss",)},
    },
    "async tensor parallel without compiled layers": {
        "compile": {"enable_async_tensor_parallel": True},
        "parallelism": {"tensor_parallel_degree": 2},
    },
    "async tensor parallel without tensor parallel": {
        "compile": {"enable": True, "enable_async_tensor_parallel": True},
    },
}


def test_every_rule_has_a_configuration_that_breaks_it() -> None:
    assert sorted(BREAKING) == sorted(map(str, COMPATIBILITY_RULES))


@pytest.mark.parametrize("name", BREAKING)
def test_a_contradiction_is_reported_alone_with_its_reason_and_the_nearest_choice(name: str) -> None:
    [finding] = check_compatibility(config_with(**BREAKING[name]))
    rule = next(rule for rule in COMPATIBILITY_RULES if str(rule) == name)
    assert finding.found == name
    assert rule.reason in finding.expected
    assert finding.nearest == rule.nearest


def test_contradictions_are_reported_with_all_other_problems_before_anything_starts() -> None:
    words = ["--parallelism.pipeline_parallel_degree", "2", "--training.cuda_graphs", "--training.max_norm", "-1"]
    with pytest.raises(ConfigError, match="3 problems in the configuration") as caught:
        load_config(["--job.config_file", str(SMALL), *words])
    for part in ("tied embeddings", "CUDA graphs", "training.max_norm"):
        assert part in str(caught.value)


def test_context_and_tensor_parallel_ranks_share_one_block_of_the_mask() -> None:
    degrees = {"context_parallel_degree": 2, "tensor_parallel_degree": 2}
    assert list(check_divisibility(config_with(parallelism=degrees, training={"seq_len": 256}))) == []


SIZES = {
    "heads": ({"parallelism": {"tensor_parallel_degree": 4}}, "2 key and value heads"),
    "heads of an 8B": ({"model": {"flavor": "8B"}, "parallelism": {"tensor_parallel_degree": 16}}, "8 key and value"),
    "blocks of a rank": (
        {"parallelism": {"context_parallel_degree": 2}, "training": {"seq_len": 384}},
        "a multiple of 256 for tensor parallel 1 and context parallel 2",
    ),
    "positions": ({"training": {"seq_len": 16_384}}, "at most 8192"),
    "passes": (
        {
            "model": {"flavor": "8B"},
            "parallelism": {"pipeline_parallel_degree": 2},
            "training": {"local_batch_packs": 3},
        }
        | {"parallelism": {"pipeline_parallel_degree": 2, "pipeline_parallel_microbatch_size": 2}},
        "a divisor of training.local_batch_packs = 3",
    ),
    "passes for every stage": (
        {
            "model": {"flavor": "8B"},
            "parallelism": {"pipeline_parallel_degree": 4},
            "training": {"local_batch_packs": 2},
        },
        "at least one pass per stage of a 1F1B pipeline, 4 packs",
    ),
    "rounds": (
        {
            "model": {"flavor": "8B"},
            "parallelism": {"pipeline_parallel_degree": 2, "pipeline_parallel_schedule": "Interleaved1F1B"},
            "training": {"local_batch_packs": 5},
        },
        "such as 4 packs",
    ),
    "stages": (
        {
            "model": {"flavor": "debug_untied"},
            "parallelism": {"pipeline_parallel_degree": 4, "pipeline_parallel_schedule": "Interleaved1F1B"},
        },
        "0 per stage is not enough",
    ),
    "float8 widths": (
        {"float8": {"recipe": "rowwise"}, "model": {"flavor": "8B"}, "parallelism": {"tensor_parallel_degree": 3}},
        "a multiple of 16 per rank",
    ),
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_that_degrees_do_not_divide_are_reported(name: str) -> None:
    tables, part = SIZES[name]
    found = [str(finding) for finding in check_divisibility(config_with(**tables))]
    assert any(part in line for line in found), found


def pipelines() -> Iterator[tuple[int, int, int, int]]:
    """Layers, stages, and the weights of both ends."""
    for num_layers in (1, 4, 16, 28, 32):
        for degree in (2, 3, 4, 8):
            yield from ((num_layers, degree, first, last) for first in (0, 1, 2) for last in (0, 1, 4))


def test_a_pipeline_that_is_let_through_gives_its_first_stage_a_layer_and_every_layer_a_stage() -> None:
    shape = published_shape("llama3", "8B")
    let_through = 0
    for num_layers, degree, first, last in pipelines():
        table = {
            "pipeline_parallel_degree": degree,
            "pipeline_parallel_first_stage_less_layers": first,
            "pipeline_parallel_last_stage_less_layers": last,
        }
        config = config_with(parallelism=table, model={"flavor": "initial"})
        try:
            refuse_unsupported_run(config, replace(shape, num_layers=num_layers))
        except ConfigError:
            continue
        stages = _generate_llm_fqn_per_model_part(degree, num_layers, first, last)
        assert "layers.0" in stages[0]
        layers = [sum(name.startswith("layers.") for name in stage) for stage in stages]
        assert sum(layers) == num_layers
        assert layers == stage_layers(config.parallelism, num_layers)
        let_through += 1
    assert let_through > 50


def test_every_schedule_offered_exists() -> None:
    for schedule in ("1F1B", "GPipe", "Interleaved1F1B"):
        assert get_schedule_class(schedule)


def test_the_sizes_of_a_folder_are_checked_when_they_are_known() -> None:
    config = config_with(parallelism={"pipeline_parallel_degree": 2}, model={"flavor": "initial"})
    assert Composition.of(config).shape is None
    assert not list(check_compatibility(config))
    with pytest.raises(ConfigError, match="tied embeddings"):
        refuse_unsupported_run(config, published_shape("qwen3", "1.7B"))
    refuse_unsupported_run(config, published_shape("llama3", "8B"))


def test_missing_device_features_are_reported_at_once_and_only_those() -> None:
    tables = {
        "model": {"attention": "flex"},
        "float8": {"recipe": "rowwise"},
        "compile": {"enable": True, "enable_async_tensor_parallel": True},
    }
    config = config_with(**tables)
    assert [line.split()[0] for line in missing_device_features(config, None)] == [
        "model.attention",
        "compile.enable_async_tensor_parallel",
        "float8.recipe",
    ]
    assert [line.split()[0] for line in missing_device_features(config, (8, 0))] == ["float8.recipe"]
    assert missing_device_features(config, (9, 0)) == []
    assert missing_device_features(config_with(float8={"recipe": "tensorwise", "emulate": True}), None) == []


NEEDED_PACKAGES = [
    ("varlen", (9, 0), "flash_attn_interface"),
    ("varlen", (10, 0), "flash_attn.cute"),
    ("flex_flash", (9, 0), "flash_attn.cute"),
    ("varlen", (8, 0), ""),
    ("flex", (9, 0), ""),
]


@pytest.mark.parametrize(("attention", "capability", "package"), NEEDED_PACKAGES)
def test_attention_that_needs_a_missing_package_is_refused_with_the_remedy(
    attention: str, capability: tuple[int, int], package: str
) -> None:
    config = config_with(model={"attention": attention})
    found = missing_device_features(config, capability, lambda name: False)
    if not package:
        assert found == []
        return
    [message] = found
    assert f"`{package}`" in message
    assert message.endswith('use "flex", which needs no other package')
    assert missing_device_features(config, capability, lambda name: name == package) == []


def test_moments_in_bf16_are_refused_on_a_cpu_alone() -> None:
    config = config_with(optimizer={"implementation": "fused_opt_states_bf16"})
    [message] = missing_device_features(config, None)
    assert 'use "fused"' in message
    assert missing_device_features(config, (9, 0)) == []


def test_symmetric_memory_is_refused_below_hopper() -> None:
    config = config_with(parallelism={"enable_fsdp_symm_mem": True})
    for capability, here in ((None, "there is no CUDA here"), ((8, 9), "this one has 8.9")):
        [message] = missing_device_features(config, capability)
        assert message.startswith("parallelism.enable_fsdp_symm_mem needs")
        assert here in message
    assert missing_device_features(config, (9, 0)) == []


def test_a_package_is_looked_for_without_its_parent() -> None:
    assert not is_installed("no_such_parent.child")
    assert is_installed("torch.nn")


def test_a_composition_is_described_in_one_line() -> None:
    config = config_with(
        model={"flavor": "8B"},
        parallelism={"tensor_parallel_degree": 4},
        compile={"enable": True},
        loss={"num_chunks": 8},
    )
    assert describe_composition(Composition.of(config)) == (
        "FSDP, tensor parallel 4, compiled layers, compiled loss, selective activation checkpointing, chunked loss 8"
    )


def test_excluded_features_are_those_that_a_rule_would_refuse() -> None:
    refused = excluded_features(Composition.of(config_with(model={"attention": "varlen"})))
    assert sorted(refused) == [
        *("CUDA graphs", "async tensor parallel", "context parallel", "memory budget", "pipeline parallel")
    ]
    assert "does not have them" in refused["context parallel"]
    for name in BREAKING:  # a run that has it all is refused, and not told that it could not have it
        run = Composition.of(config_with(**BREAKING[name]))
        rule = next(rule for rule in COMPATIBILITY_RULES if str(rule) == name)
        assert rule.is_broken_by(run)
        assert rule.excluded_from(run) is None


def test_features_of_one_group_never_meet() -> None:
    for tables in BREAKING.values():
        groups = [feature.group for feature in enabled_features(Composition.of(config_with(**tables))) if feature.group]
        assert len(groups) == len(set(groups))


def test_every_feature_names_a_key_that_exists() -> None:
    config = SpeechConfig()
    for feature in FEATURES:
        table, key = feature.key.split(".")
        assert hasattr(getattr(config, table), key), feature.key


def test_untied_debug_flavors_differ_from_the_tied_ones_in_nothing_else() -> None:
    for flavors in FLAVORS.values():
        assert replace(flavors["debug_untied"], is_tied=True) == flavors["debug"]
