"""What engines are asked for a comparison, and what they answer.

In: the prompt grammar; the name of an engine, or the address of a server, and an exported folder. Out:
`ParityDocument`s, the same on every machine, and `EngineAnswers`: log-probabilities of their tokens, and greedy
continuations. Engines run in a process (engine_process.py), by the interpreter of the environment that they are
installed in; a server speaks the completions of OpenAI with prompts as ids, as vLLM's does. What comes back is checked:
as many numbers as were asked for, all finite.

Documents are of every task. Their content is drawn evenly from all text ids and all codes, since a wrong row shows only
where it is read; real text would read a few thousand rows of 193,920. Documents of one task have one length, so that
engines batch them without padding, whose handling differs between engines. 64 documents have 4,257 tokens after the
first and read 2,582 different codes.

Shapes: T tokens of a document.
"""

from __future__ import annotations

import http.client
import json
import math
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from titan_speech.errors import ModelError
from titan_speech.evaluate import engine_process
from titan_speech.tokenization.prompt_template import CODE_FIELDS, TEMPLATES, Grammar, Parts, Task
from titan_speech.tokenization.vocabulary import NUM_CODES
from titan_speech.utils.json_text import parse_json, read_json_file
from titan_speech.utils.printable import one_line, redact

ENGINES = ("transformers", "ctranslate2", "vllm")
TIMEOUT_SEC = 3600
REQUEST_TIMEOUT_SEC = 600
"""For one document by a server, which may compile when it is first asked."""
NUM_DOCUMENTS = 64
NUM_GREEDY = 16
"""Ids that engines generate after each prefix."""
_NUM_TEXT, _NUM_CODES = 20, 40


@dataclass(frozen=True, eq=False)
class ParityDocument:
    """A whole document, whose prefix is also what engines generate from."""

    task: Task
    ids_T: NDArray[np.int64]
    num_prefix_tokens: int

    @property
    def prefix(self) -> list[int]:
        return self.ids_T[: self.num_prefix_tokens].tolist()


def parity_documents(grammar: Grammar, count: int = NUM_DOCUMENTS, seed: int = 0) -> list[ParityDocument]:
    """Documents of all tasks in turn; every second tts document has a voice description.

    Args:
        grammar: of the model.
        count: number of documents.
        seed: of their content.
    """
    random = np.random.default_rng(seed)
    tasks = list(Task)
    documents = []
    for number in range(count):
        task, turn = tasks[number % len(tasks)], number // len(tasks)
        template = TEMPLATES[task]
        fields = [block.field for block in template.prefix if not block.optional or turn % 2]
        parts = Parts(**{field: _content(field, grammar, random) for field in (*fields, template.target)})
        document = grammar.document(task, parts)
        documents.append(ParityDocument(task, document.ids_T.astype(np.int64), document.num_prefix_tokens))
    return documents


def _content(field: str, grammar: Grammar, random: np.random.Generator) -> NDArray:
    if field in CODE_FIELDS:
        return random.integers(0, NUM_CODES, _NUM_CODES).astype(np.uint16)
    return random.integers(0, grammar.vocabulary.num_base, _NUM_TEXT).astype(np.uint32)


@dataclass(frozen=True)
class EngineAnswers:
    """The answers of one engine; entries are in the order of the documents."""

    engine: str
    """Name and version."""
    logprobs: tuple[tuple[float, ...], ...]
    """Of each token after the first, given those before it."""
    greedy: tuple[tuple[int, ...], ...]
    """Ids after each prefix."""


def ask_process(
    engine: str, folder: Path, documents: Sequence[ParityDocument], dtype: str, python: Path | None = None
) -> EngineAnswers:
    """The answers of an engine that runs in a process of its own.

    Args:
        engine: one of `ENGINES`.
        folder: a model exported as a Hugging Face folder.
        documents: what it is asked.
        dtype: that it computes in: float32 or bfloat16.
        python: interpreter of the environment that has the engine; None: this one.

    Raises:
        ModelError: the engine cannot be started, fails, takes over an hour or answers something else.
    """
    request = {
        "engine": engine,
        "model": str(folder.absolute()),
        "dtype": dtype,
        "num_greedy": NUM_GREEDY,
        "documents": [{"ids": one.ids_T.tolist(), "num_prefix": one.num_prefix_tokens} for one in documents],
    }
    with tempfile.TemporaryDirectory(prefix="titan-speech-") as temporary:
        asked, answered = Path(temporary, "request.json"), Path(temporary, "answer.json")
        asked.write_text(json.dumps(request), encoding="utf-8")
        # A copy: Python puts the folder of a script first, and the names of this package hide those of its library.
        script = shutil.copy(engine_process.__file__, temporary)
        command = [str(python or sys.executable), script, str(asked), str(answered)]
        try:
            done = subprocess.run(  # noqa: S603  (an interpreter that the user named, and a file of ours)
                command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_SEC, cwd=temporary
            )
        except OSError as error:
            raise ModelError(f"{command[0]} cannot be started: {error}; --python names the interpreter") from error
        except subprocess.TimeoutExpired as error:
            raise ModelError(f"{engine} did not answer within {TIMEOUT_SEC} s; was stopped") from error
        if done.returncode != 0 or not answered.is_file():
            last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "it printed nothing")
            raise ModelError(
                f"{engine} failed on {folder} (exit code {done.returncode}): {one_line(last)}. "
                f"Is it installed for {command[0]}? --python names the interpreter of another environment"
            )
        try:
            return _parsed(read_json_file(answered), documents)
        except ValueError as error:
            raise ModelError(f"{engine} answered something else than was asked: {error}") from error


def ask_server(url: str, documents: Sequence[ParityDocument]) -> EngineAnswers:
    """The answers of a server that serves the exported folder.

    Args:
        url: http://host:port/v1 of vLLM, or of another server with `prompt_logprobs` and `return_token_ids`.
        documents: what it is asked.

    Raises:
        ModelError: the server cannot be reached, refuses, takes over ten minutes for a document, or answers something
            else.
    """
    base = url.rstrip("/")
    try:
        model = _request(f"{base}/models")["data"][0]["id"]
        logprobs, greedy = [], []
        for document in documents:
            ids = document.ids_T.tolist()
            ask = {"model": model, "temperature": 0, "return_token_ids": True}
            scored = _request(f"{base}/completions", ask | {"prompt": ids, "max_tokens": 1, "prompt_logprobs": 0})
            places = scored["choices"][0]["prompt_logprobs"][1:]
            logprobs.append([place[str(id_)]["logprob"] for id_, place in zip(ids[1:], places, strict=True)])
            decoded = _request(
                f"{base}/completions",
                ask | {"prompt": document.prefix, "max_tokens": NUM_GREEDY, "ignore_eos": True},
            )
            greedy.append(decoded["choices"][0]["token_ids"])
        return _parsed({"name": f"{model} at {redact(base)}", "logprobs": logprobs, "greedy": greedy}, documents)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ModelError(
            f"{redact(url)} answered something else than was asked: {type(error).__name__}: {one_line(str(error))}; "
            "expected completions with prompt_logprobs and token_ids, as vLLM's server gives them"
        ) from error


def _request(url: str, content: dict[str, Any] | None = None) -> dict[str, Any]:
    if not url.startswith(("http://", "https://")):
        raise ModelError(f"{redact(url)} is no address of a server; expected http:// or https://")
    data = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310  (checked above)
    try:
        with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT_SEC) as reply:  # noqa: S310
            return parse_json(reply.read(1 << 26))
    except urllib.error.HTTPError as error:
        detail = one_line(error.read(500).decode(errors="replace"))
        raise ModelError(f"{redact(url)} refused with {error.code}: {detail}") from error
    except TimeoutError as error:
        raise ModelError(
            f"{redact(url)} did not answer within {REQUEST_TIMEOUT_SEC} s; is the server busy with other requests?"
        ) from error
    except (OSError, http.client.HTTPException) as error:  # urllib passes the second on as it is
        raise ModelError(f"{redact(url)} cannot be reached: {error!r}; is the server running?") from error


def _parsed(content: Any, documents: Sequence[ParityDocument]) -> EngineAnswers:
    """Raises ValueError where an answer is not what was asked for."""
    try:
        name, logprobs, greedy = content["name"], content["logprobs"], content["greedy"]
        counts = [len(row) for row in logprobs], [len(row) for row in greedy]
        if not isinstance(name, str) or counts[0] != [len(one.ids_T) - 1 for one in documents]:
            raise ValueError(f"log-probabilities of {sum(counts[0])} tokens")
        if any(count != NUM_GREEDY for count in counts[1]) or len(counts[1]) != len(documents):
            raise ValueError(f"expected {NUM_GREEDY} ids after each of {len(documents)} prefixes")
        answers = EngineAnswers(
            one_line(name),
            tuple(tuple(map(float, row)) for row in logprobs),
            tuple(tuple(map(int, row)) for row in greedy),
        )
    except (KeyError, TypeError, OverflowError) as error:  # the last for a whole number that no float holds
        raise ValueError(repr(error)) from error
    if not all(math.isfinite(value) for row in answers.logprobs for value in row):
        raise ValueError("log-probabilities that are not finite")
    return answers
