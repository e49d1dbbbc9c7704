"""Watchers beside a training: killed at random they lose and double nothing, and the training does not know of them."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.support.runs import ROOT, figures, kill, losses, start_run, train_well
from tests.support.s3_server import BUCKET, S3Server, credentials
from titan_speech.checkpoint.commit import committed_steps
from titan_speech.codec.load import load_codec
from titan_speech.evaluate.clip import Sound
from titan_speech.evaluate.prompt_packs.prompt_pack import Prompt, PromptPack, write_pack, write_sound
from titan_speech.evaluate.result import AUDIO_DIR, RESULTS_DIR, Result, read_result, result_from_json
from titan_speech.exit_codes import EXIT_DONE, EXIT_FOUND_WRONG

pytestmark = pytest.mark.slow
NUM_KILLS = 30
STEPS = ("--checkpoint.cadence", "[{every = 2}]", "--training.target_tokens", "24576")
LIMIT_SEC = 1800


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pack")
    voice = write_sound(folder, "voices/one", Sound(codes_F=np.arange(40, dtype=np.uint16)))
    lines = ("Please hold the line.", "Goodbye.", "Thank you.", "One moment.")
    prompts = [Prompt(f"line {n}", "en", text, sets=("canary", "full")) for n, text in enumerate(lines)]
    prompts.append(Prompt("clone", "en", "Press one.", voice=voice, voice_text="One, two.", sets=("canary",)))
    write_pack(folder, PromptPack("lines", tuple(prompts), codec_hash=load_codec("embedded").codec_hash))
    return folder


def watcher(run: str, pack: Path, log: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "titan_speech", "evaluate", "run", run, "--pack", str(pack), *more]
    command += ["--max-sec", "0.3", "--set", "canary", "--poll-sec", "0.3", "--lease-sec", "3", "--max-attempts", "99"]
    with log.open("ab") as file:
        return subprocess.Popen(
            command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )


def results_of(folder: Path) -> list[Result]:
    return [read_result(path) for path in sorted((folder / RESULTS_DIR).glob("*.json"))]


def test_a_training_beside_watchers_that_are_killed(pack: Path, tmp_path: Path) -> None:
    alone = train_well(tmp_path / "alone", *STEPS)
    run, log, draw = tmp_path / "run", tmp_path / "watchers.txt", random.Random(0)
    training = start_run(run, *STEPS, entry="tests/support/audited_train.py")
    while not (run / "config.toml").exists():
        assert training.poll() is None
        time.sleep(0.1)
    workers = [watcher(str(run), pack, log, "--watch") for _ in range(2)]
    num_kills, deadline = 0, time.monotonic() + LIMIT_SEC
    try:
        while True:
            assert time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(draw.uniform(5, 40) if num_kills < NUM_KILLS else 1)
            assert all(worker.poll() is None for worker in workers), log.read_text()[-4000:]
            steps = committed_steps(run / "checkpoint")
            done = len(list((run / "evaluation" / RESULTS_DIR).glob("*.json")))
            if training.poll() is not None and done == len(steps) and num_kills >= NUM_KILLS:
                break
            if num_kills < NUM_KILLS:
                place = draw.randrange(2)
                workers[place].kill()
                workers[place].wait()
                num_kills += 1
                workers[place] = watcher(str(run), pack, log, "--watch")
    finally:
        for worker in workers:
            worker.terminate()
            worker.wait()
        kill(training)
    assert training.returncode == 0, (run / "log.txt").read_text()[-4000:]
    results = results_of(run / "evaluation")
    assert sorted(result.step or 0 for result in results) == steps == list(range(2, 25, 2))
    assert all(len(result.clips) == 5 for result in results)
    assert len(list((run / "evaluation" / AUDIO_DIR).rglob("*.wav"))) == 5 * len(steps)
    assert losses(figures(run)) == losses(alone), "to the last bit"
    assert "evaluation" not in (run / "opened.txt").read_text().replace("titan_speech/evaluate", "")


def test_a_run_in_object_storage_is_evaluated_where_it_uploads(
    pack: Path, tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in credentials().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint_url)
    address = f"s3://{BUCKET}/evaluated"
    train_well(tmp_path / "run", "--upload.to", address, "--training.target_tokens", "10240")
    log = tmp_path / "watcher.txt"
    code = watcher(address, pack, log).wait(LIMIT_SEC)
    listed = s3_server.client().list_objects_v2(Bucket=BUCKET, Prefix="evaluated/evaluation/results/")
    names = [one["Key"] for one in listed.get("Contents", ())]
    bodies = [s3_server.client().get_object(Bucket=BUCKET, Key=name)["Body"].read() for name in names]
    results = [result_from_json(json.loads(body), name) for body, name in zip(bodies, names, strict=True)]
    assert [len(result.clips) for result in results] == [5, 5], log.read_text()[-4000:]
    # a model of so few steps may say nothing to a prompt, which is a clip that failed
    expected = EXIT_FOUND_WRONG if any(result.failures() for result in results) else EXIT_DONE
    assert code == expected, log.read_text()[-4000:]
    local = watcher(str(tmp_path / "run"), pack, log, "--output", f"{address}/evaluation")
    assert local.wait(LIMIT_SEC) == expected, log.read_text()[-4000:]
    assert log.read_text().count("0 new results") == 1, "the same checkpoints, whoever holds them"
