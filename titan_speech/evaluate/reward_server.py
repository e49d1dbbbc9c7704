"""The reward function over HTTP, for an alignment that runs in another process; on loopback only.

    POST /score
    {"prompts": [{"text": "...", "language": "hi", "voice_codes": [..]}], "completions": [[..]], "stopped": [true]}
    -> {"rewards": [{"reward": 0.71, "cer": 0.02, "similarity": 0.8, "mos": 3.1, "stop": true, ...}]}

In: JSON of at most 64 MB, codes as integers. Out: one reward per completion, in order; 400 with the reason for what is
no such request. Requests are answered one after the other, since the models are shared. There is no password: whoever
can open a port of this machine can use it, so it binds to no other address than loopback, and a request that a web page
sends (an Origin, or a Host that is not this machine) is refused. A client that goes away is no error.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from numpy.typing import NDArray

from titan_speech.errors import DataError
from titan_speech.evaluate.clip import Clip, Sound, resynthesized
from titan_speech.evaluate.reward import Reward, RewardFunction
from titan_speech.tokenization.vocabulary import NUM_CODES
from titan_speech.utils.json_text import parse_json
from titan_speech.utils.printable import one_line

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
MAX_BODY_BYTES, MAX_COMPLETIONS, MAX_CODES = 64 << 20, 4096, 16_384
MAX_REQUEST_CODES = 2_000_000
"""Of all completions and voices of a request: 11 hours, 2.6 GB of samples."""
READ_TIMEOUT_SEC = 60


class RewardServer(ThreadingHTTPServer):
    """Answers until `shutdown`."""

    daemon_threads = True

    def __init__(self, rewards: RewardFunction, port: int = 0) -> None:
        """Args:
        rewards: what scores.
        port: 0: any free one.
        """
        self.rewards, self.lock = rewards, threading.Lock()
        super().__init__((HOST, port), _Handler)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_address[1]}"

    def answer(self, content: Any) -> list[Reward]:
        """The rewards of a request.

        Raises:
            DataError: it is no such request.
        """
        prompts, voices, completions, stopped = self._parsed(content)
        with self.lock:  # decoded voices are the greatest part of a request's memory: those of one request at a time
            clips = [self._with_voice(*pair) for pair in zip(prompts, voices, strict=True)]
            return self.rewards.score_batch(clips, completions, stopped)

    def _parsed(
        self, content: Any
    ) -> tuple[list[Clip], list[NDArray[np.uint16]], list[NDArray[np.uint16]], list[bool]]:
        """Prompts, the codes of their voices, completions, and whether each stopped."""
        try:
            prompts, completions = content["prompts"], content["completions"]
            stopped = content.get("stopped", [True] * len(completions))
            if not len(prompts) == len(completions) == len(stopped) <= MAX_COMPLETIONS:
                found = f"{len(prompts)} prompts, {len(completions)} completions, {len(stopped)} of stopped"
                raise DataError(f"found {found}; expected as many of each, at most {MAX_COMPLETIONS:,}")
            codes = [_codes(one) for one in completions]
            voices = [_codes(prompt.get("voice_codes") or []) for prompt in prompts]
            total = sum(map(len, (*codes, *voices)))
            if total > MAX_REQUEST_CODES:
                raise DataError(f"found {total:,} codes, expected at most {MAX_REQUEST_CODES:,} in a request")
            clips = [_prompt(number, prompt) for number, prompt in enumerate(prompts)]
            return clips, voices, codes, [one is True for one in stopped]
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{error!r}; expected prompts (text, language, voice_codes) and completions") from error

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that disconnected is not logged; other errors are one line of the log, and the server continues."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            logger.warning("a request was not answered: %s", one_line(repr(error)))

    def _with_voice(self, prompt: Clip, voice_F: NDArray[np.uint16]) -> Clip:
        voice = resynthesized(Sound(codes_F=voice_F), self.rewards.codec) if len(voice_F) else None
        return replace(prompt, voice=voice)


def _prompt(number: int, prompt: Any) -> Clip:
    text, language = prompt["text"], prompt["language"]
    if not isinstance(text, str) or not isinstance(language, str):
        raise DataError(f"prompt {number}: text and language are texts")
    return Clip(prompt_id=str(number), language=language, text=text, sound=Sound())


def _codes(values: Any) -> NDArray[np.uint16]:
    if not isinstance(values, list) or len(values) > MAX_CODES:
        raise DataError(f"codes are a list of at most {MAX_CODES:,} integers")
    if not all(type(value) is int and 0 <= value < NUM_CODES for value in values):
        raise DataError(f"a code is an integer from 0 to {NUM_CODES - 1}")
    return np.array(values, np.uint16)


class _Handler(BaseHTTPRequestHandler):
    timeout = READ_TIMEOUT_SEC
    server: RewardServer

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        try:
            host = self.headers.get("Host", HOST).rsplit(":", 1)[0]
            if host not in (HOST, "localhost") or "Origin" in self.headers:
                raise DataError("this server is for programs of its own machine, not for web pages")
            if self.path != "/score":
                raise DataError(f"found {self.path[:80]}, expected /score")
            if not length.isdecimal() or len(length) > 20 or int(length) > MAX_BODY_BYTES:
                raise DataError(f"expected a Content-Length of at most {MAX_BODY_BYTES:,} bytes")
            rewards = self.server.answer(parse_json(self.rfile.read(int(length))))
        except ValueError as error:  # DataError is one
            self._reply(400, {"error": str(error)})
        else:
            self._reply(200, {"rewards": [asdict(one) for one in rewards]})

    def _reply(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not logged: texts of prompts are no concern of a terminal."""
