"""The reward is made of the scorers' parts, needs one decode per completion, and is the same over HTTP."""

from __future__ import annotations

import json
import socket
import struct
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from threading import Thread
from threading import enumerate as all_threads
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from titan_speech.codec.demo.embedded import EmbeddedCodec
from titan_speech.errors import DataError
from titan_speech.evaluate.clip import Clip, Score, Sound
from titan_speech.evaluate.reward import RewardFunction, RewardWeights
from titan_speech.evaluate.reward_server import MAX_BODY_BYTES, MAX_CODES, MAX_COMPLETIONS, RewardServer
from titan_speech.evaluate.scorers.base import Metric
from titan_speech.evaluate.scorers.measures import SoundScorer


class CountingCodec(EmbeddedCodec):
    """The embedded codec, counting what it decodes."""

    num_decoded = 0

    def decode(self, codes_F: NDArray[Any]) -> NDArray[np.float32]:
        CountingCodec.num_decoded += 1
        return super().decode(codes_F)


class Scripted:
    """Gives CER by the text, similarity 0.8, and a predicted opinion of 3."""

    name = "scripted"
    version = "1"
    metrics = tuple(Metric(name, "", "") for name in ("cer", "similarity", "dnsmos"))

    def score(self, clips: Sequence[Clip]) -> list[dict[str, Score]]:
        return [
            {"cer": self._cer(clip), "similarity": Score(0.8), "dnsmos": Score(3.0)}
            if clip.sound.wav_T is not None
            else {name: Score.failure("no audio") for name in ("cer", "similarity", "dnsmos")}
            for clip in clips
        ]

    def _cer(self, clip: Clip) -> Score:
        if clip.language == "or":
            return Score.missing("not measured")
        return Score.failure("hangs") if clip.text == "hang" else Score(float(clip.text))

    def close(self) -> None:
        pass


CODES_F = np.arange(60, dtype=np.uint16) * 900


def prompt(text: str, language: str = "en") -> Clip:
    return Clip(prompt_id="p", language=language, text=text, sound=Sound())


@pytest.fixture(scope="module")
def rewards() -> RewardFunction:
    return RewardFunction(CountingCodec(), [Scripted(), SoundScorer()])


def test_a_reward_is_the_weighted_sum_of_its_parts(rewards: RewardFunction) -> None:
    found = rewards.score(prompt("0.25"), CODES_F)
    assert found.reward == pytest.approx(0.4 * 0.75 + 0.3 * 0.8 + 0.3 * 0.5)
    assert (found.cer, found.similarity, found.mos, found.stop) == (0.25, 0.8, 3.0, True)
    assert found.weights == (0.4, 0.3, 0.3)
    assert rewards.score(prompt("7"), CODES_F).reward == pytest.approx(0.3 * 0.8 + 0.3 * 0.5), "a CER above 1 counts 1"


def test_content_counts_nothing_where_no_recognizer_is_trusted(rewards: RewardFunction) -> None:
    found = rewards.score(prompt("x", "or"), CODES_F, stopped=False)
    assert found.reward == pytest.approx(0.3 * 0.8 + 0.3 * 0.5)
    assert found.weights == (0.0, 0.3, 0.3)
    assert found.reasons == ("not measured",)
    assert not found.stop


def test_no_codes_are_worth_nothing_and_a_failed_scorer_gives_no_reward(rewards: RewardFunction) -> None:
    empty, failed = rewards.score_batch([prompt("0"), prompt("hang")], [np.array([], np.uint16), CODES_F], [True, True])
    assert empty.reward == 0.0
    assert failed.reward is None
    assert failed.reasons == ("hangs",)


def test_silence_is_punished_though_no_model_takes_it() -> None:
    class Silent(CountingCodec):
        def decode(self, codes_F: NDArray[Any]) -> NDArray[np.float32]:
            return 0 * super().decode(codes_F)

    class Deaf(Scripted):
        def score(self, clips: Sequence[Clip]) -> list[dict[str, Score]]:
            return [{"cer": Score(1.0)} | dict.fromkeys(("similarity", "dnsmos"), Score.failure("silent"))]

    assert RewardFunction(Silent(), [Deaf()]).score(prompt("0"), CODES_F).reward == 0.0
    assert RewardFunction(CountingCodec(), [Deaf()]).score(prompt("0"), CODES_F).reward is None


def test_each_completion_is_decoded_once(rewards: RewardFunction) -> None:
    before = CountingCodec.num_decoded
    rewards.score_batch([prompt("0")] * 3, [CODES_F] * 3, [True] * 3)
    assert CountingCodec.num_decoded == before + 3


def test_weights_are_settings() -> None:
    only_voice = RewardFunction(CountingCodec(), [Scripted()], RewardWeights(0.0, 1.0, 0.0))
    assert only_voice.score(prompt("0.25"), CODES_F).reward == pytest.approx(0.8)


@pytest.fixture(scope="module")
def url(rewards: RewardFunction) -> Iterator[str]:
    with RewardServer(rewards) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.url
        server.shutdown()


def post(url: str, content: Any, path: str = "/score") -> tuple[int, Any]:
    request = urllib.request.Request(url + path, json.dumps(content).encode())
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_the_server_gives_the_rewards_of_the_function(rewards: RewardFunction, url: str) -> None:
    prompts = [{"text": "0.25", "language": "en", "voice_codes": CODES_F.tolist()}, {"text": "1", "language": "or"}]
    status, found = post(url, {"prompts": prompts, "completions": [CODES_F.tolist()] * 2, "stopped": [True, False]})
    expected = rewards.score_batch([prompt("0.25"), prompt("1", "or")], [CODES_F] * 2, [True, False])
    assert status == 200
    assert found == json.loads(json.dumps({"rewards": [asdict(one) for one in expected]}))


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"prompts": []},
        {"prompts": [{"text": "0"}], "completions": [[1]]},
        {"prompts": [{"text": "0", "language": "en"}], "completions": [[70_000]]},
        {"prompts": [{"text": "0", "language": "en"}], "completions": [["a"]]},
        {"prompts": [{"text": "0", "language": "en"}], "completions": []},
        {"prompts": [{"text": 0, "language": "en"}], "completions": [[1]]},
    ],
)
def test_what_is_no_request_is_answered_with_the_reason(url: str, content: Any) -> None:
    status, found = post(url, content)
    assert status == 400
    assert found["error"]


def test_the_server_is_on_loopback_and_knows_one_address(url: str) -> None:
    assert url.startswith("http://127.0.0.1:")
    assert post(url, {}, "/other")[0] == 400


@pytest.mark.parametrize("header", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}])
def test_a_web_page_has_no_use_of_the_server(url: str, header: dict[str, str]) -> None:
    request = urllib.request.Request(f"{url}/score", b"{}", header)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=60)
    assert refused.value.code == 400
    assert "not for web pages" in json.load(refused.value)["error"]


@pytest.mark.parametrize("length", [str(MAX_BODY_BYTES + 1), "-1", "x", "9" * 5000])
def test_a_body_over_the_limit_is_refused_before_it_is_read(url: str, length: str) -> None:
    port = int(url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(f"POST /score HTTP/1.0\r\nContent-Length: {length}\r\n\r\n".encode())
        client.shutdown(socket.SHUT_WR)
        answer = client.makefile("rb").read()
    assert b" 400 " in answer.splitlines()[0]
    assert b"expected a Content-Length of at most 67,108,864 bytes" in answer


@pytest.mark.parametrize(
    ("count", "codes", "message"),
    [(MAX_COMPLETIONS + 1, [1], "at most 4,096"), (1, [1] * (MAX_CODES + 1), "a list of at most 16,384 integers")],
)
def test_completions_and_their_lengths_are_bounded(
    rewards: RewardFunction, count: int, codes: list[int], message: str
) -> None:
    content = {"prompts": [{"text": "1", "language": "en"}] * count, "completions": [codes] * count}
    with RewardServer(rewards) as server, pytest.raises(DataError, match=message):
        server.answer(content)


def test_codes_of_a_request_are_bounded_together(rewards: RewardFunction) -> None:
    prompts = [{"text": "1", "language": "en", "voice_codes": [1] * MAX_CODES}] * 70
    with RewardServer(rewards) as server, pytest.raises(DataError, match="expected at most 2,000,000 in a request"):
        server.answer({"prompts": prompts, "completions": [[1] * MAX_CODES] * 70})


def test_voices_of_one_request_are_decoded_at_a_time(rewards: RewardFunction, monkeypatch: pytest.MonkeyPatch) -> None:
    with RewardServer(rewards) as server:
        is_locked, real = [], CountingCodec.decode

        def decode(codec: CountingCodec, codes_F: NDArray[Any]) -> NDArray[np.float32]:
            is_locked.append(server.lock.locked())
            return real(codec, codes_F)

        monkeypatch.setattr(CountingCodec, "decode", decode)
        asked = {"text": "0", "language": "en", "voice_codes": CODES_F.tolist()}
        server.answer({"prompts": [asked] * 2, "completions": [CODES_F.tolist()] * 2})
        assert is_locked == [True] * 4


def test_a_client_that_goes_away_is_no_traceback(rewards: RewardFunction, capfd: pytest.CaptureFixture[str]) -> None:
    with RewardServer(rewards) as server:
        others = set(all_threads())
        with socket.create_connection(("127.0.0.1", server.server_port)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset, not closed
            client.sendall(b"POST /score HTTP/1.0\r\nContent-Length: 50\r\n\r\n{")
        server.handle_request()
        for thread in set(all_threads()) - others:
            thread.join(60)
    assert capfd.readouterr().err == ""
