"""Estimates of runs: counts against independent ones, traces against all layers, pages that say what they know."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, Qwen3Config

from benchmarks.machine import ROOT
from benchmarks.plan_memory import RESULT, table
from titan_speech.config.schema import SpeechConfig, StageConfig
from titan_speech.config.schema_data import SourceConfig
from titan_speech.config.schema_operations import CadenceRule
from titan_speech.config.schema_parallelism import ActivationCheckpointConfig, CompileConfig
from titan_speech.config.schema_training import LossConfig, ModelConfig, TokenizerConfig, TrainingConfig
from titan_speech.distributed.pipeline import bubble
from titan_speech.estimate.compare import comparison
from titan_speech.estimate.data_usage import data_usage
from titan_speech.estimate.devices import DEFAULT_ASSUMPTIONS, DEVICES, PUBLISHED_RUNS
from titan_speech.estimate.estimate_run import count_run, estimate_runs, predict_run
from titan_speech.estimate.offline import PUBLISHED_ROWS, offline_config, run_vocabulary
from titan_speech.estimate.record import RECORD_FORMAT, estimate_record
from titan_speech.estimate.report import report_page
from titan_speech.estimate.result import EstimateRequest, RunEstimate, count_storage
from titan_speech.estimate.speed import link_rate, neighbour_rate, predict
from titan_speech.estimate.step_trace import (
    Collective,
    Peak,
    SizeChange,
    StepTrace,
    TraceJob,
    Traffic,
    extrapolate_peaks,
    extrapolate_trace,
    peaks,
    with_layers,
)
from titan_speech.estimate.trace_process import trace_jobs
from titan_speech.model.backbones import BackboneShape, published_shape
from titan_speech.model.flops import count_flops, count_parameters, traced_flops
from titan_speech.preflight.config_checks import load_config
from titan_speech.tokenization.vocabulary import Vocabulary

WORLD_SIZE = 8
DEPTHS = (3, 4, 6)
BACKBONES = [("llama3", "1B"), ("llama3", "8B"), ("qwen3", "0.6B"), ("qwen3", "1.7B")]
SMALL = SpeechConfig(
    model=ModelConfig(family="qwen3"),
    tokenizer=TokenizerConfig(path="tokenizer/tiny"),
    training=TrainingConfig(seq_len=256, global_batch_tokens=64 * 256, target_tokens=10**6, local_batch_packs=4),
    loss=LossConfig(num_chunks=2),
    activation_checkpoint=ActivationCheckpointConfig(kind="selective"),
)


def transformers_config(shape: BackboneShape, num_rows: int) -> PretrainedConfig:
    kind = Qwen3Config if shape.family == "qwen3" else LlamaConfig
    return kind(
        vocab_size=num_rows,
        hidden_size=shape.dim,
        intermediate_size=shape.hidden_dim,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        tie_word_embeddings=shape.is_tied,
    )


def vocabulary_of(family: str) -> Vocabulary:
    return Vocabulary(num_base=PUBLISHED_ROWS[family], bos_id=0, eos_id=1)


@pytest.mark.parametrize(("family", "flavor"), BACKBONES)
def test_parameters_are_those_that_transformers_counts(family: str, flavor: str) -> None:
    shape, vocabulary = published_shape(family, flavor), vocabulary_of(family)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(transformers_config(shape, vocabulary.num_rows))
    model.tie_weights()
    counted = count_parameters(shape, vocabulary)
    assert counted.total == sum(p.numel() for p in model.parameters())
    assert counted.embedding == model.get_input_embeddings().weight.numel()
    assert counted.backbone == counted.total - counted.embedding - counted.head
    assert counted.new_rows == (1 if shape.is_tied else 2) * shape.dim * (vocabulary.num_rows - vocabulary.num_base)


@pytest.mark.parametrize("family", ["llama3", "qwen3"])
def test_flops_are_those_of_torchs_counter_on_another_implementation(family: str) -> None:
    """Eager attention of transformers: full scores, no recomputation; forward and backward of one sequence."""
    shape, num_rows, seq_len = replace(published_shape(family, "debug"), num_layers=3), 512, 64
    with torch.device("meta"):
        config = transformers_config(shape, num_rows)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        ids_1L = torch.zeros(1, seq_len, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model(ids_1L).logits.sum().backward()
    rotary = counter.get_total_flops() - seq_len * count_flops(shape, num_rows).at(seq_len)
    assert 0 <= rotary < 1e-3 * counter.get_total_flops()  # angles: one product of width 1, forward only


@pytest.mark.parametrize(("family", "flavor", "gigaflops"), [("llama3", "1B", 9.03), ("llama3", "8B", 49.9)])
def test_flops_of_the_published_runs_are_those_their_mfu_was_derived_from(
    family: str, flavor: str, gigaflops: float
) -> None:
    rows = vocabulary_of(family).num_rows
    assert count_flops(published_shape(family, flavor), rows).at(2048) / 1e9 == pytest.approx(gigaflops, rel=2e-3)


def test_a_peak_is_the_fullest_moment_of_its_place_by_component() -> None:
    events = [
        SizeChange("a", 0, 10),
        SizeChange("a", 1, 5),
        SizeChange("a", 1, -5),
        SizeChange("b", 2, 3),
        SizeChange("b", 0, -10),
    ]
    found = peaks(events, {0: "weights", 1: "work", 2: "work"})
    assert found == [Peak("a", {"weights": 10, "work": 5}), Peak("b", {"weights": 10, "work": 3})]
    assert extrapolate_peaks([Peak("a", {"x": 10})], [Peak("a", {"x": 14, "y": 2})], 3) == [
        Peak("a", {"x": 22, "y": 6})
    ]


@pytest.fixture(scope="module")
def together() -> tuple[list[StepTrace], list[RunEstimate]]:
    """All that is traced here, in one process: three, four and six layers at eight ranks; and the bundled
    demonstration, whose stores are here, on eight GPUs, with its own packs a pass, with half, and as LoRA."""
    job = TraceJob(
        offline_config(SMALL)[0],
        published_shape("qwen3", "debug"),
        run_vocabulary(SMALL).vocabulary,
        WORLD_SIZE,
        accumulates=True,
    )
    counted = [count_run(demonstration(*of)) for of in (("demo", "4"), ("halved", "2"), ("adapter", "4", *LORA))]
    jobs = [with_layers(job, layers) for layers in DEPTHS]
    traces = trace_jobs([*jobs, *(job for run in counted for jobs in run.jobs for job in jobs)])
    rest = iter(traces[len(DEPTHS) :])
    return traces[: len(DEPTHS)], [predict_run(run, rest) for run in counted]


LORA = ("--lora.rank", "8", "--stage.from", "outputs/base", "--activation_checkpoint.kind", "none")


def demonstration(name: str, packs: str, *more: str) -> EstimateRequest:
    """With few chunks of the loss, whose number changes nothing that is looked at here."""
    words = ["--job.config_file", "train_configs/demo.toml", "--training.local_batch_packs", packs, *more]
    config = load_config([*words, "--loss.num_chunks", "2"], world_size=WORLD_SIZE).config
    return EstimateRequest(config, name, WORLD_SIZE, DEVICES["h100"], price_per_gpu_hour=2.0)


@pytest.fixture(scope="module")
def depths(together: tuple[list[StepTrace], list[RunEstimate]]) -> list[StepTrace]:
    return together[0]


def test_a_trace_extrapolated_in_depth_equals_that_of_all_layers(depths: list[StepTrace]) -> None:
    shallow, deeper, all_layers = depths
    assert extrapolate_trace(shallow, deeper, DEPTHS[-1]) == all_layers


def test_what_a_rank_holds_between_steps_is_its_part_of_weights_gradients_and_moments(depths: list[StepTrace]) -> None:
    shallow = depths[0]
    shape = replace(published_shape("qwen3", "debug"), num_layers=3)
    parameters = shape.num_parameters(run_vocabulary(SMALL).vocabulary.num_rows)
    part = 4 * parameters / WORLD_SIZE
    assert shallow.resident["parameters"] == pytest.approx(part, rel=0.01)  # FSDP pads what it cannot divide
    assert shallow.resident["gradients"] == shallow.resident["parameters"]
    assert shallow.resident["optimizer state"] == pytest.approx(2 * part, rel=0.01)


def test_what_a_pass_sends_is_the_closed_form_of_fsdp(depths: list[StepTrace]) -> None:
    """bf16 weights gathered for the forward and the backward pass, fp32 gradients scattered. A tied table is one unit
    of FSDP with the last norm: gathered once in each pass, scattered at the end of the loss and of the backward pass.
    """
    shape = replace(published_shape("qwen3", "debug"), num_layers=3)
    rows = run_vocabulary(SMALL).vocabulary.num_rows
    table = rows * shape.dim
    layers = shape.num_parameters(rows) - table
    found = {one.collective.kind: one for one in depths[0].traffic if one.collective.phase == "pass"}
    gathered, scattered = found["all_gather"], found["reduce_scatter"]
    assert (gathered.times, scattered.times) == (2 * (3 + 1), 3 + 2)
    assert gathered.num_bytes == pytest.approx(2 * 2 * (layers + table), rel=0.01)
    assert scattered.num_bytes == pytest.approx(4 * (layers + 2 * table), rel=0.01)


def test_links_are_those_of_the_slowest_step_of_a_ring() -> None:
    h100 = DEVICES["h100"]
    assert link_rate(tuple(range(8)), h100) == h100.local_bytes
    assert link_rate(tuple(range(32)), h100) == 8 * h100.nic_bytes
    assert link_rate((0, 8, 16, 24), h100) == h100.nic_bytes


def test_a_stage_sends_to_the_next_over_one_card_where_that_leaves_the_node() -> None:
    h100 = DEVICES["h100"]
    assert neighbour_rate((0, 4), h100) == h100.local_bytes
    assert neighbour_rate((0, 4, 8, 12), h100) == h100.nic_bytes


@pytest.mark.parametrize(("schedule", "packs", "waiting"), [("1F1B", 8, 3 / 8), ("Interleaved1F1B", 8, 3 / 16)])
def test_a_pipeline_waits_as_long_as_it_takes_to_fill(schedule: str, packs: int, waiting: float) -> None:
    layout = replace(
        SMALL.parallelism,
        pipeline_parallel_degree=4,
        pipeline_parallel_schedule=schedule,  # type: ignore[arg-type]
    )
    config = replace(SMALL, parallelism=layout, training=replace(SMALL.training, local_batch_packs=packs))
    assert bubble(config) == pytest.approx(1 + waiting)
    assert bubble(SMALL) == 1.0


def test_a_ring_sends_all_but_a_rank_s_own_part() -> None:
    def sent(kind: str) -> float:
        return Traffic(Collective("pass", kind, (0, 1, 2, 3)), 1, 100).bytes_sent

    assert (sent("all_gather"), sent("reduce_scatter"), sent("all_reduce")) == (75, 75, 150)


@pytest.mark.parametrize(
    "reference", [one for one in PUBLISHED_RUNS if one.stage == "pretraining"], ids=lambda r: r.name
)
def test_the_speed_model_gives_back_the_published_pretraining_runs(reference) -> None:
    """Traffic in closed form: fp32 gradients reduced to all (DDP), or bf16 gathered twice and fp32 scattered (FSDP)."""
    shape, rows = published_shape(reference.family, reference.flavor), vocabulary_of(reference.family).num_rows
    config = SpeechConfig(
        training=TrainingConfig(seq_len=2048, global_batch_tokens=524_288, local_batch_packs=8),
        compile=CompileConfig(enable=True),
    )
    parameters, ranks = shape.num_parameters(rows), tuple(range(32))
    kinds = {"all_reduce": 4} if "DDP" in reference.strategy else {"all_gather": 4, "reduce_scatter": 4}
    traffic = tuple(Traffic(Collective("pass", kind, ranks), 1, size * parameters) for kind, size in kinds.items())
    trace = StepTrace(shape.num_layers, (), {}, 0, traffic)
    flops = count_flops(shape, rows).at(2048)
    speed = predict(config, 32, trace, flops, 8 * 2048 * flops, DEVICES["h100"], DEFAULT_ASSUMPTIONS, None)
    assert speed is not None
    assert speed.tokens_per_sec_per_gpu == pytest.approx(reference.tokens_per_sec_per_gpu, rel=0.05)


def test_checkpoints_hold_weights_and_two_moments() -> None:
    """Every 100 of 2,000 steps: milestones at 1,000 and 2,000, of which the last is among the last two."""
    rules = replace(
        SMALL.checkpoint,
        cadence=(CadenceRule(every=100),),
        keep_last_full=2,
        keep_last_model_only=3,
        milestone_every_steps=1000,
    )
    storage = count_storage(replace(SMALL, checkpoint=rules), 1000, 2000)
    assert (storage.full_bytes, storage.model_only_bytes) == (12_000, 4_000)
    assert (storage.num_saved, storage.num_kept_full, storage.num_kept_model_only) == (20, 3, 3)
    tied = count_storage(replace(SMALL, checkpoint=rules), 1000, 2000, num_tied=100)
    assert (tied.full_bytes, tied.model_only_bytes) == (12_400, 4_400)


def test_a_branch_is_estimated_from_where_it_begins() -> None:
    """20 steps of which 12 are done: saved are steps 16 and 20, read is what 8 steps read."""
    tokens = SMALL.training.global_batch_tokens
    source = SourceConfig(name="speech", store="nowhere", task="speech", share=1.0)
    config = replace(
        SMALL,
        stage=StageConfig(from_="runs/stable/checkpoint/step-12", branch=True),
        training=replace(SMALL.training, target_tokens=20 * tokens),
        checkpoint=replace(SMALL.checkpoint, cadence=(CadenceRule(every=4),)),
        data=replace(SMALL.data, source=(source,)),
    )
    assert count_storage(config, 1000, 20).num_saved == 2
    assert data_usage(config).streams[0].num_tokens == 8 * tokens
    trace = StepTrace(4, (), {}, 0, ())
    whole, rest = (
        predict(one, 8, trace, 1.0, 1e12, DEVICES["h100"], DEFAULT_ASSUMPTIONS, None)
        for one in (replace(config, stage=StageConfig()), config)
    )
    assert whole is not None
    assert rest is not None
    assert rest.run_hours == pytest.approx(whole.run_hours * 8 / 20)


def test_without_stores_the_estimate_says_what_it_does_not_know() -> None:
    source = SourceConfig(name="speech", store="nowhere", task="speech", share=1.0)
    reading = data_usage(replace(SMALL, data=replace(SMALL.data, source=(source,))))
    assert not reading.stores_opened
    assert "nowhere" in reading.reason
    (stream,) = reading.streams
    assert (stream.epochs, stream.language) == (None, None)
    assert stream.audio_hours == pytest.approx(stream.num_tokens / 50 / 3600)


@pytest.fixture(scope="module")
def estimates(together: tuple[list[StepTrace], list[RunEstimate]]) -> list[RunEstimate]:
    return together[1]


@pytest.fixture(scope="module")
def estimate(estimates: list[RunEstimate]) -> RunEstimate:
    return estimates[0]


def test_two_estimates_side_by_side_mark_what_is_equal_and_divide_what_is_not(estimates: list[RunEstimate]) -> None:
    estimates = estimates[:2]
    head, names, *rows = comparison(*estimates).splitlines()
    assert "nothing was measured on a GPU" in head
    assert names.split()[:2] == ["demo", "halved"]
    last = {re.split(r"\s{2,}", row.strip())[0]: row.split()[-1] for row in rows}
    assert last["parameters"] == last["steps"] == "="
    assert [estimate.steps.filler_packs for estimate in estimates] == [
        24,
        8,
    ]  # 8 packs per step; passes of 32, 16
    assert last["padding packs per step"] == "0.333"
    held = [estimate.memory.tensor_bytes for estimate in estimates]
    assert float(last["tensors per GPU"]) == pytest.approx(held[1] / held[0], rel=1e-2)
    assert held[1] < held[0]


def test_only_adapters_have_gradients_and_moments_and_frozen_matrices_no_gradient_of_their_own(
    estimates: list[RunEstimate],
) -> None:
    full, _, lora = estimates
    sizes, resident = lora.parameters, lora.trace.resident
    shape, rank = lora.shape, 8
    queries, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    ends = (shape.dim + queries + 2 * keys) + (queries + shape.dim) + 3 * (shape.dim + shape.hidden_dim)
    assert sizes.trained == sizes.adapters == shape.num_layers * rank * ends
    assert sizes.total == full.parameters.total
    each = 4 / WORLD_SIZE
    assert resident["parameters"] == pytest.approx(each * (sizes.total + sizes.adapters), rel=0.01)
    assert resident["gradients"] == pytest.approx(each * sizes.adapters, rel=0.05)
    assert resident["optimizer state"] == pytest.approx(2 * each * sizes.adapters, rel=0.05)
    assert full.parameters.is_tied
    assert full.storage.full_bytes == 12 * full.parameters.trained + 4 * full.parameters.embedding
    assert lora.storage.full_bytes == 12 * sizes.adapters
    tokens = lora.steps.local_batch_packs * lora.request.config.training.seq_len
    seq_len = lora.request.config.training.seq_len
    closed = traced_flops(shape, sizes.num_rows, seq_len, lora.request.config.lora)
    assert lora.trace.flops / tokens == pytest.approx(closed, rel=0.02)  # nothing is recomputed
    text = report_page(lora)
    assert "once for all adapters of it" in text
    assert "4 per frozen one" in text
    assert lora.speed is not None
    assert 0 < lora.speed.gpu_hours < 0.5
    [shown] = re.findall(r"run +(\S+) hours +(\S+) GPU hours", text)
    assert float(shown[1]) == pytest.approx(lora.speed.gpu_hours, rel=0.01)
    assert float(shown[0]) == pytest.approx(lora.speed.run_hours, rel=0.01)


def test_equal_shares_have_equal_tokens_and_padding_is_named(estimate: RunEstimate) -> None:
    streams = [stream for stream in estimate.data.streams if stream.padding is not None]
    assert len(streams) == len(estimate.data.streams)
    tokens = {one: one.num_tokens * (1 - (one.padding or 0)) for one in streams}
    total = sum(tokens.values())
    for stream, number in tokens.items():
        assert number / total == pytest.approx(stream.share, rel=2e-2)
    assert any(stream.padding for stream in streams)
    text = report_page(estimate)
    assert "tokens without padding" in text


def test_epochs_and_hours_are_those_of_the_data_plan(estimate: RunEstimate) -> None:
    assert estimate.data.stores_opened
    tokens = sum(stream.num_tokens for stream in estimate.data.streams)
    assert tokens == pytest.approx(estimate.steps.total_tokens)
    assert estimate.data.audio_hours is not None
    assert 0.3 < estimate.data.audio_hours * 3600 * 50 / tokens < 0.9  # text, framing and padding are the rest
    packed, causal = estimate.attention_flops["packed"], estimate.attention_flops["causal"]
    assert packed is not None
    assert causal is not None
    assert packed < causal


def test_the_page_names_what_is_computed_predicted_and_not_measured(estimate: RunEstimate) -> None:
    text = report_page(estimate)
    assert "Nothing was measured on a GPU" in text
    assert "fits" in text
    for component in estimate.memory.by_component:
        assert component in text
    assert all(len(line) <= 160 for line in text.splitlines())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flavor", "schedule", "packs", "sends_a_pass"), [("8B", "1F1B", 2, 1), ("debug_untied", "Interleaved1F1B", 4, 3)]
)
def test_a_pipeline_is_estimated_rank_by_rank(flavor: str, schedule: str, packs: int, sends_a_pass: int) -> None:
    """On two ranks, which hold their layers and one table each, send what crosses borders, and together do the work of
    the model; and what few layers a stage give, extrapolate_peaks, is what all of them give."""
    layout = {"pipeline_parallel_degree": 2, "pipeline_parallel_schedule": schedule}
    layout |= {"pipeline_parallel_first_stage_less_layers": 0}
    config = replace(
        SMALL,
        model=ModelConfig(family="llama3", flavor=flavor),
        parallelism=replace(SMALL.parallelism, **layout),
        training=replace(SMALL.training, local_batch_packs=packs),
        activation_checkpoint=ActivationCheckpointConfig(kind="none"),
    )
    request = EstimateRequest(config, "pipeline", 4, DEVICES["h100"])
    [whole, extrapolated] = estimate_runs([replace(request, full_trace=True), request])
    shape, pass_tokens = whole.shape, packs * config.training.seq_len
    layer = (shape.num_parameters(0) - shape.dim) / shape.num_layers
    for rank in whole.ranks:
        assert rank.stages is not None
        held = sum(rank.stages.num_layers) * layer + whole.parameters.embedding
        assert rank.trace.resident["parameters"] == pytest.approx(4 * held / 2, rel=0.01)
        sent = sum(one.num_bytes for one in rank.trace.traffic if one.collective.kind == "point_to_point")
        assert sent == sends_a_pass * pass_tokens * 2 * shape.dim
    assert sum(rank.pass_flops for rank in whole.ranks) == pytest.approx(pass_tokens * whole.flops_per_token, rel=1e-6)
    for one, other in zip(whole.ranks, extrapolated.ranks, strict=True):
        assert other.memory.tensor_bytes == pytest.approx(one.memory.tensor_bytes, rel=1e-3)
        assert other.pass_flops == pytest.approx(one.pass_flops)
    assert "pipeline rank" in report_page(whole)
    assert len(estimate_record(whole)["computed"]["pipeline_ranks"]) == 2


def test_the_page_has_the_errors_that_were_measured_and_they_are_small() -> None:
    rows = json.loads(RESULT.read_text())["rows"]
    assert {row["model"] for row in rows} == {"debug", "100M"}
    assert max(abs(row["error_against_tensors"]) for row in rows) < 0.01
    assert table(rows) in (ROOT / "docs" / "parallelism.md").read_text("utf-8")


def test_the_record_is_json_with_a_format(estimate: RunEstimate) -> None:
    content = json.loads(json.dumps(estimate_record(estimate)))
    assert content["format"] == RECORD_FORMAT
    assert content["computed"]["memory"]["tensor_bytes"] == estimate.memory.tensor_bytes
    speed = content["predicted"]["speed"]
    assert speed["price"] == pytest.approx(2.0 * speed["run_hours"] * WORLD_SIZE)
