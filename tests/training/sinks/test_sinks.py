"""Sinks: what fails costs one warning, and nothing of a sink holds training."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import threading
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.support.webhook_receiver import receiver
from titan_speech.ledger.file import Ledger
from titan_speech.ledger.records import DATA_WAIT, STEP
from titan_speech.training.sinks.names import METRIC_NAMES, find
from titan_speech.training.sinks.prometheus import PrometheusSink
from titan_speech.training.sinks.sink import Message, Sample, Sink, Sinks
from titan_speech.training.sinks.tensorboard import TensorBoardSink
from titan_speech.training.sinks.webhook import WebhookSink


class Kept(Sink):
    def __init__(self) -> None:
        self.steps: list[int] = []

    def log(self, step: int, metrics: Mapping[str, float], *, is_repeat: bool = False) -> None:
        self.steps.append(step)


class FullDisk(Sink):
    def log(self, step: int, metrics: Mapping[str, float], *, is_repeat: bool = False) -> None:
        raise OSError(28, "No space left on device")


def test_a_sink_that_fails_is_off_after_one_warning_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    kept = Kept()
    sinks = Sinks(("full", FullDisk), ("kept", lambda: kept))
    for step in range(3):
        sinks.log(step, {})
    sinks.close()
    assert kept.steps == [0, 1, 2]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "full is off for the rest of this run: OSError: [Errno 28] No space left on device" in caplog.text


def test_a_port_in_use_costs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        sinks = Sinks((f"Prometheus at {address}", lambda: PrometheusSink(address, tmp_path, range(1))))
        sinks.log(1, {"loss": 1.0})
    assert f"Prometheus at {address} is off" in caplog.text
    assert len(caplog.records) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_without_access_costs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tmp_path.chmod(0o500)
    Sinks(("TensorBoard", lambda: TensorBoardSink(tmp_path / "tb", 0))).log(1, {"loss": 1.0})
    assert len(caplog.records) == 1


def test_a_file_where_a_folder_should_be_costs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "tb").write_text("")
    Sinks(("TensorBoard", lambda: TensorBoardSink(tmp_path / "tb", 0))).log(1, {"loss": 1.0})
    assert len(caplog.records) == 1


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_event_files_that_cannot_be_written_cost_one_warning_and_no_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The folder is gone, so the thread that writes fails."""
    sinks = Sinks(("TensorBoard", lambda: TensorBoardSink(tmp_path / "tb", 0)))
    shutil.rmtree(tmp_path / "tb")
    for step in range(3):
        sinks.log(step, {"loss": 1.0})
        sinks.samples(step, [])
        time.sleep(0.2)
    sinks.close()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "TensorBoard is off for the rest of this run" in caplog.text


def test_tensorboard_shows_each_step_once_after_a_restart_and_plays_audio(tmp_path: Path) -> None:
    first = TensorBoardSink(tmp_path, from_step=0)
    for step in range(1, 8):
        first.log(step, {"loss": 10.0 + step})
    first.close()
    second = TensorBoardSink(tmp_path, from_step=5)
    for step in range(6, 9):
        second.log(step, {"loss": 20.0 + step})
    audio_T = np.sin(np.arange(1600, dtype=np.float32) / 5)
    second.samples(8, [Sample("hello", {"language": "en", "stop_failure": 0.0}, audio_T, 16_000)])
    second.close()
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    values = {event.step: event.value for event in read.Scalars("loss")}
    assert values == {**{step: 10.0 + step for step in range(1, 6)}, **{step: 20.0 + step for step in range(6, 9)}}
    assert len(read.Scalars("loss")) == 8
    (sound,) = read.Audio("samples/hello")
    assert (sound.step, sound.sample_rate, sound.length_frames) == (8, 16_000, 1600)
    assert sound.encoded_audio_string.startswith(b"RIFF")


def test_tensorboard_shows_each_step_once_where_the_first_start_was_killed_before_a_save(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        sink = TensorBoardSink(tmp_path, from_step=0)
        if value == 1.0:
            sink.log(0, {"validation/gold/loss": 9.0})  # which a restart does not repeat
        for step in range(1, 4):
            sink.log(step, {"loss": value})
        sink.close()
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    assert [(event.step, event.value) for event in read.Scalars("loss")] == [(1, 2.0), (2, 2.0), (3, 2.0)]
    assert [event.step for event in read.Scalars("validation/gold/loss")] == [0]


def test_each_message_is_posted_once_as_slack_takes_it() -> None:
    with receiver() as received:
        sink = WebhookSink(received.url, "my_run")
        sink.message(Message("flagged", 500, "stop_failure 0.8 is above 0.5"))
        sink.message(Message("rolled_back", 900, "A loss spike."))
        sink.message(Message("ended", 900, "https://key:hunter22@minio.local cannot be reached.\x1b[2J"))
        sink.close()
    assert received.texts == [
        "my_run: flagged at step 500. stop_failure 0.8 is above 0.5",
        "my_run: rolled back at step 900. A loss spike.",
        "my_run: ended at step 900. https://<secret removed>@minio.local cannot be reached.\\u001b[2J",
    ]


def test_a_receiver_that_hangs_or_is_gone_holds_nobody_and_its_address_is_not_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("titan_speech.training.sinks.webhook.POST_SEC", 0.2)
    monkeypatch.setattr("titan_speech.training.sinks.webhook.CLOSE_SEC", 5.0)
    with receiver(hangs=threading.Event()) as received:
        sink = WebhookSink(received.url, "my_run")
        for step in (1, 2):
            sink.message(Message("flagged", step, "x"))
        sink.close()
        assert len(received.texts) == 2, "tried once each"
    assert len(caplog.records) == 1
    assert "the webhook at 127.0.0.1 did not take a message" in caplog.text
    assert "secret" not in caplog.text


def scrape(sink: PrometheusSink) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{sink.port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def test_the_endpoint_serves_metrics_with_labels_and_the_ledger_of_its_ranks(tmp_path: Path) -> None:
    ledgers = {rank: Ledger() for rank in range(2)}
    for rank, one in ledgers.items():
        one.open(tmp_path, rank=rank, start=0, world_size=2, from_step=3)
    sink = PrometheusSink("127.0.0.1:0", tmp_path, range(3))
    sink.log(4, {"loss": 2.5, 'loss/language/h"i\\': 2.0, "validation/gold/loss/kind/code": float("inf"), "other": 1})
    sink.message(Message("flagged", 4, "x"))
    with ledgers[1].part(DATA_WAIT):
        time.sleep(0.01)
        ledgers[1].step_ended(5)
    for one in ledgers.values():
        one.end_span()
    run = tmp_path.name
    found = scrape(sink)
    assert found[f'titan_speech_loss{{run="{run}"}}'] == 2.5
    assert found[f'titan_speech_group_loss{{run="{run}",by="language",group="h\\"i\\\\"}}'] == 2
    assert found[f'titan_speech_validation_group_loss{{run="{run}",set="gold",by="kind",group="code"}}'] == float("inf")
    assert found[f'titan_speech_flagged{{run="{run}"}}'] == 1
    assert found[f'titan_speech_step{{run="{run}",rank="1"}}'] == 5
    assert found[f'titan_speech_step{{run="{run}",rank="0"}}'] == 3
    assert not any('rank="2"' in name for name in found), "a rank without a ledger"
    waited = f'titan_speech_seconds_total{{run="{run}",rank="1",class="data_wait"}}'
    assert found[waited] > 0
    with ledgers[1].part(STEP):
        pass
    for one in ledgers.values():
        one.close("complete")
    assert scrape(sink)[waited] == found[waited], "a span that has ended is counted once"
    sink.close()


def test_every_metric_has_one_family_and_one_exported_name() -> None:
    assert len({metric.exported for metric in METRIC_NAMES}) == len(METRIC_NAMES)
    for name, exported, labels in (
        ("loss", "loss", {}),
        ("loss/source/a/b", "group_loss", {"by": "source", "group": "a/b"}),
        ("preference/loss/source/a/b", "group_preference", {"measure": "loss", "by": "source", "group": "a/b"}),
        ("preference/chosen_logp", "preference", {"measure": "chosen_logp"}),
        ("validation/gold/preference/pairs", "validation_preference", {"set": "gold", "measure": "pairs"}),
        ("tensors/update/layers/3", "update_norm", {"group": "layers/3"}),
        ("generation/loop", "generation", {"measure": "loop"}),
        ("generation/language/hi/loop", "generation_by_language", {"language": "hi", "measure": "loop"}),
        ("generation/sec", "generation_seconds", {}),
        ("validation/gold/perplexity", "validation_perplexity", {"set": "gold"}),
    ):
        found = find(name)
        assert found is not None
        assert (found[0].exported, dict(found[1])) == (exported, labels)
    assert find("no_such_metric") is None


def test_a_scraper_that_went_away_leaves_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    sink = PrometheusSink("127.0.0.1:0", tmp_path, range(1))
    try:
        for error in (ConnectionResetError(), ValueError("a\nb")):
            try:
                raise error
            except (OSError, ValueError):
                sink._server.handle_error(None, ("127.0.0.1", 1))
    finally:
        sink.close()
    assert "Traceback" not in capsys.readouterr().err
    assert [record.message for record in caplog.records] == ["a scrape was not answered: ValueError('a\\nb')"]
