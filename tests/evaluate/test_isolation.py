"""A model that crashes, hangs, runs out of memory or does not load costs the clips it was asked about, no others."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.evaluation_models import LoadedModel
from titan_speech.evaluate.clip import SAMPLE_RATE, Clip, Sound
from titan_speech.evaluate.models.base import Failure, Listen
from titan_speech.evaluate.models.isolation import MAX_FAILURES, IsolatedModel
from titan_speech.evaluate.scorers.base import score_clips
from titan_speech.evaluate.scorers.opinion import OpinionScorer


@dataclass(frozen=True)
class Scripted:
    """Does what the language says."""

    loads: bool = True
    name: str = "scripted"
    version: str = "1"

    def load(self) -> Listen:
        if not self.loads:
            raise RuntimeError("no weights here")

        def listen(wav_T: NDArray[np.float32], language: str) -> dict[str, float]:
            if language == "crash":
                os._exit(7)
            if language == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if language == "hang":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                time.sleep(600)
            if language == "memory":
                np.empty(1 << 50, np.uint8)
            if language == "raise":
                raise ValueError("a bad\nclip")
            if language == "long":
                raise RuntimeError("traceback, " * 100 + "out of memory")
            return {"": float(wav_T[0])}

        return listen


WAV_T = np.full(SAMPLE_RATE, 0.25, np.float32)


def clips(*languages: str) -> list[Clip]:
    return [Clip(prompt_id=f"p{i}", language=one, text="t", sound=Sound(WAV_T)) for i, one in enumerate(languages)]


def test_each_way_to_fail_marks_one_clip_with_its_reason_and_the_rest_goes_on() -> None:
    ways = ("ok", "crash", "ok", "hang", "kill", "ok", "memory", "raise", "ok")
    with IsolatedModel(Scripted(), limit_sec=4.0) as model:
        found = score_clips(clips(*ways), [OpinionScorer(model)])
    values = [scores["scripted"].value for scores in found]
    assert values == [0.25, None, 0.25, None, None, 0.25, None, None, 0.25]
    reasons = [scores["scripted"].reason for scores in found]
    assert "exit code 7" in reasons[1]
    assert "no answer within 4 s" in reasons[3]
    assert "SIGKILL (possibly out of memory)" in reasons[4]
    assert "emory" in reasons[6]
    assert reasons[7] == "ValueError: a bad\\u000aclip"
    assert not multiprocessing.active_children()


def test_of_a_long_error_the_end_is_kept_too() -> None:
    with IsolatedModel(Scripted()) as model:
        (found,) = model([(WAV_T, "long")])
    assert isinstance(found, Failure)
    assert found.reason.startswith("RuntimeError: traceback")
    assert found.reason.endswith("out of memory")
    assert len(found.reason) < 250


def test_a_model_that_does_not_load_says_so_for_every_clip() -> None:
    with IsolatedModel(Scripted(loads=False)) as model:
        found = model([(WAV_T, "ok")] * 3)
    assert [one.reason for one in found] == ["scripted cannot be loaded: RuntimeError: no weights here"] * 3


def test_a_model_that_always_dies_is_given_up_and_tried_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("titan_speech.evaluate.models.isolation.MAX_FAILURES", 2)
    with IsolatedModel(Scripted()) as model:
        found = model([(WAV_T, "crash")] * 4 + [(WAV_T, "ok")])
    assert MAX_FAILURES > 2
    assert all(isinstance(one, Failure) for one in found)
    assert "given up after 2 failures" in found[-1].reason
    with IsolatedModel(Scripted()) as model:
        assert all(isinstance(one, Failure) for one in model([(WAV_T, "crash")] * 2 + [(WAV_T, "ok")]))
        monkeypatch.setattr("titan_speech.evaluate.models.isolation.RETRY_SEC", 0.0)
        assert model([(WAV_T, "ok")]) == [{"": 0.25}]


def test_silent_missing_and_long_sounds_never_reach_a_model() -> None:
    sounds = [Sound(), Sound(np.zeros(SAMPLE_RATE, np.float32)), Sound(np.full(200 * SAMPLE_RATE, 0.1, np.float32))]
    sounds += [Sound(np.full(SAMPLE_RATE, np.nan, np.float32)), Sound(WAV_T[:10])]
    some = [Clip(prompt_id=str(i), language="crash", text="t", sound=sound) for i, sound in enumerate(sounds)]
    found = score_clips(some, [OpinionScorer(LoadedModel(Scripted()))])
    expected = ["no audio", "silent", "200.00 s long", "not finite", "0.00 s long"]
    for scores, reason in zip(found, expected, strict=True):
        assert reason in scores["scripted"].reason
