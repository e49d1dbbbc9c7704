"""Counts of batches and the figures file."""

from __future__ import annotations

import json
import resource
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torchtitan.distributed import ParallelDims

from titan_speech.config.schema_operations import MetricsConfig
from titan_speech.data.pack_layout import IGNORE_INDEX, encode_labels
from titan_speech.model.flops import FlopsPerToken
from titan_speech.tokenization.vocabulary import TokenKind, Vocabulary
from titan_speech.training import metrics
from titan_speech.training.console import group_lines
from titan_speech.training.jsonl_log import JsonlLogger, read_flags, read_steps
from titan_speech.training.loss import GroupLoss, StreamKey, group_losses
from titan_speech.training.metrics import BatchCounts, count_batch
from titan_speech.training.sinks.sink import Sink, Sinks

VOCABULARY = Vocabulary(num_base=100, bos_id=0, eos_id=1)


def batch_of(rows: list[tuple[list[int], list[int], list[bool]]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tensors as the loader yields them, from (ids, positions, trained) rows."""
    ids = torch.tensor([row[0] for row in rows])
    positions = torch.tensor([row[1] for row in rows])
    labels = np.stack([np.where(row[2], encode_labels(np.array(row[0]), 3), IGNORE_INDEX) for row in rows])
    return ids, positions, torch.from_numpy(labels)


def test_counts_are_those_of_real_packs_only() -> None:
    pad, code = VOCABULARY.pad_id, VOCABULARY.first_code_id
    real = ([0, code, code + 5, 7, pad, pad], [0, 1, 2, 0, 0, 1], [True, True, False, True, False, False])
    padding_pack = ([pad] * 6, list(range(6)), [False] * 6)
    counts = count_batch(*batch_of([real, padding_pack]), VOCABULARY)
    assert counts == BatchCounts(
        num_tokens=6, num_trained_tokens=3, num_pad_tokens=2, num_codes=2, sum_squared_lengths=9 + 1 + 4
    )
    assert counts.audio_sec == 2 / 50


def test_counts_add_up_and_survive_the_trip_through_a_tensor() -> None:
    counts = BatchCounts(1, 2, 3, 4, 5) + BatchCounts(10, 20, 30, 40, 50)
    assert BatchCounts.from_tensor(counts.to_tensor(torch.device("cpu"))) == counts == BatchCounts(11, 22, 33, 44, 55)


def test_a_group_is_the_mean_over_all_its_streams_and_absent_without_tokens() -> None:
    streams = [StreamKey("a", "en", "tts"), StreamKey("b", "en", "speech")]
    sums = torch.zeros(2, 2, len(TokenKind), dtype=torch.float64)
    sums[:, 0, TokenKind.TEXT] = torch.tensor([6.0, 3.0])
    sums[:, 1, TokenKind.CODE] = torch.tensor([10.0, 1.0])
    losses = group_losses(sums, streams)
    assert losses["loss"] == GroupLoss(16.0, 4)
    assert losses["loss"].mean == 4.0
    assert losses["loss/language/en"].mean == 4.0
    assert losses["loss/task/tts"].mean == 2.0
    assert losses["loss/source/b"].mean == 10.0
    assert "loss/kind/special" not in losses
    assert any("code  10.000   text   2.000" in line for line in group_lines(losses))


def test_metrics_lines_are_valid_json_even_for_figures_that_are_not_finite(tmp_path: Path) -> None:
    logger = JsonlLogger(tmp_path / "run" / "metrics.jsonl")
    logger.event("start", step=0)
    logger.log({"loss": float("nan"), "lr": 0.1}, 1)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"event": "start", "step": 0}, {"step": 1, "loss": None, "lr": 0.1}]
    logger.close()


def test_flags_are_read_back_without_a_line_that_is_being_written(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_flags(path) == []
    logger = JsonlLogger(path)
    logger.log({"loss": 2.0}, 3)
    logger.event("flagged", step=1_200, what="the mixture", message="language hi: 8 packs were read")
    logger.close()
    with path.open("a") as file:
        file.write('{"event": "flagged", "step": 1300')
    assert read_flags(path) == ["step 1,200, the mixture: language hi: 8 packs were read"]


def test_a_line_that_a_crash_damaged_does_not_keep_a_run_from_being_resumed(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    cut = b'{"event": "flagged", "step": 1, "what": "x", "message": "an id {1}\n'
    path.write_bytes(b'{"step": 1, "loss": 2.0}\n' + cut + b'\0\xff\0{"step": 2}\n{"step": 3, "loss": 1.0}\n')
    assert list(read_steps(path)) == [1, 3]
    assert read_flags(path) == []
    logger = JsonlLogger(path)
    assert logger.is_new("flagged", step=1)
    logger.close()


def test_a_disk_that_is_full_for_a_while_costs_no_line_and_cuts_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"st')  # a crash cut the last line
    logger = JsonlLogger(path)
    logger.log({"loss": 1.0}, 2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, hard))
        logger.log({"loss": 2.0}, 3)
        logger.log({"loss": 3.0}, 4)
        logger.log({"loss": 3.5}, 4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caplog.text.count("wait in memory") == 1
    assert path.read_text().endswith('{"step": 2, "loss": 1.0}\n'), "a part of a line was left"
    logger.log({"loss": 4.0}, 5)
    whole = [json.loads(line)["step"] for line in path.read_text().splitlines() if line.endswith("}")]
    assert whole == [1, 2, 3, 4, 4, 5]


def test_what_a_full_disk_has_cost_is_said_at_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "metrics.jsonl"
    logger = JsonlLogger(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
        logger.log({"loss": 2.0}, 1)
        logger.log({"loss": 3.0}, 2)
        logger.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    first, last = (record.getMessage() for record in caplog.records)
    assert first.endswith("Its lines wait in memory, training continues.")
    assert last.endswith("could not be written to the end; lost: 2 lines")


def test_a_start_without_a_checkpoint_knows_what_an_earlier_one_has_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was killed before its first save begins at step 0 again, in the same run of Weights & Biases."""
    repeats: list[tuple[int, bool]] = []

    class Recorder(Sink):
        def log(self, step: int, metrics: Mapping[str, float], *, is_repeat: bool = False) -> None:
            repeats.append((step, is_repeat))

    log = JsonlLogger(tmp_path / "metrics.jsonl")
    for step in (1, 2):
        log.log({"loss": 9.0}, step)
    log.event("generation", step=2)
    log.close()
    monkeypatch.setattr(metrics, "build_sinks", lambda *_: Sinks(("recorder", Recorder)))
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        dims = ParallelDims(dp_replicate=1, dp_shard=1, cp=1, tp=1, pp=1, ep=1, world_size=1)
        config = metrics.SpeechMetricsProcessor.Config(table=MetricsConfig(), from_step=0)
        found = metrics.SpeechMetricsProcessor(config, dump_folder=str(tmp_path), parallel_dims=dims)
        assert found.logged_step == 2
        for step in (0, 2, 3):
            found.log_between_steps("generation", step, {"generation/sec": 1.0}, [], 1.0)
        found.close()
    finally:
        dist.destroy_process_group()
    assert repeats == [(0, False), (2, True), (3, False)]


def test_flops_are_linear_in_the_attended_length() -> None:
    flops = FlopsPerToken(matrices=6.0, per_attended_token=0.5)
    assert flops.at(100) == 56.0
