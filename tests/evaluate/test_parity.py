"""The comparison that an export ends with: equal in another engine, and planted defects are named."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.hf_folders import ALL_KINDS, Backbone, write_backbone, write_run
from titan_speech.cli.main import main
from titan_speech.errors import ModelError
from titan_speech.evaluate.engines import (
    NUM_DOCUMENTS,
    NUM_GREEDY,
    EngineAnswers,
    ParityDocument,
    ask_process,
    ask_server,
    parity_documents,
)
from titan_speech.evaluate.parity import ParityReport, compare
from titan_speech.exit_codes import EXIT_BAD_INPUT, EXIT_DONE
from titan_speech.hf.expand import expand
from titan_speech.hf.export import WeightsCheckpoint, export
from titan_speech.hf.row_initialization import NewRows
from titan_speech.tokenization.prompt_template import Task


def silent(_: str) -> None:
    pass


def run_of(folder: Path, kind: Backbone) -> Path:
    write_backbone(folder / "base", kind)
    expand(folder / "base", folder / "extended", NewRows(), silent)
    return write_run(folder / "run", folder / "extended", kind.family)


def against_transformers(checkpoint: WeightsCheckpoint, folder: Path, dtype: torch.dtype) -> ParityReport:
    return compare(
        checkpoint, folder, lambda documents: ask_process("transformers", folder, documents, "float32"), dtype
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of(tmp_path_factory.mktemp("run"), Backbone())


@pytest.fixture(scope="module")
def checkpoint(run: Path) -> WeightsCheckpoint:
    return WeightsCheckpoint.open(run)


@pytest.fixture(scope="module")
def exported(checkpoint: WeightsCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "hf"
    export(checkpoint, folder, torch.float32)
    return folder


@pytest.fixture(scope="module")
def documents(checkpoint: WeightsCheckpoint) -> list[ParityDocument]:
    return parity_documents(checkpoint.grammar)


@pytest.fixture(scope="module")
def answers(exported: Path, documents: list[ParityDocument]) -> EngineAnswers:
    return ask_process("transformers", exported, documents, "float32")


def test_documents_are_of_every_task_and_the_same_each_time(
    checkpoint: WeightsCheckpoint, documents: list[ParityDocument]
) -> None:
    again = parity_documents(checkpoint.grammar)
    assert [one.ids_T.tolist() for one in again] == [one.ids_T.tolist() for one in documents]
    assert len(documents) == NUM_DOCUMENTS
    assert {one.task for one in documents} == set(Task)
    described = checkpoint.grammar.vocabulary.special("<|voice_description_start|>")
    assert 0 < sum(described in one.ids_T for one in documents) < NUM_DOCUMENTS / 4


def test_a_sound_export_is_equal_and_the_card_says_by_how_much(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--checkpoint", str(run), "--output", str(tmp_path / "hf")]
    assert main(["model", "export", *words]) == EXIT_DONE
    said = capsys.readouterr().out
    assert "equal within the bounds" in said
    card = (tmp_path / "hf" / "README.md").read_text()
    assert f"against the trainer: {NUM_DOCUMENTS} documents" in card
    assert f"greedy ids: {NUM_DOCUMENTS * NUM_GREEDY:,} compared" in card
    assert "Unproved" not in card


def test_an_export_without_a_check_says_that_it_is_unproved(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--checkpoint", str(run), "--output", str(tmp_path / "hf"), "--no-check"]
    assert main(["model", "export", *words]) == EXIT_DONE
    assert "unproved: it was exported with --no-check" in capsys.readouterr().out
    assert "Unproved" in (tmp_path / "hf" / "README.md").read_text()


@pytest.mark.slow
def test_an_export_that_differs_is_not_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = torch.Tensor.to
    monkeypatch.setattr(
        "titan_speech.hf.export._ConvertedTensors.pieces",
        lambda reader, name: iter([torch.roll(whole(_tensor(reader, name), torch.float32), 1, 0)]),
    )
    words = ["--checkpoint", str(run), "--output", str(tmp_path / "hf"), "--dtype", "float32"]
    assert main(["model", "export", *words]) == EXIT_BAD_INPUT
    assert "the export differs from the model that was trained" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def _tensor(reader: Any, name: str) -> torch.Tensor:
    key, meta = reader._native[name]
    return reader._adapter.to_hf({key: reader._read(key, meta.shape)})[name]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ALL_KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_kind_of_backbone_is_equal_in_transformers(tmp_path: Path, kind: Backbone, dtype: torch.dtype) -> None:
    checkpoint = WeightsCheckpoint.open(run_of(tmp_path, kind))
    export(checkpoint, tmp_path / "hf", dtype)
    report = against_transformers(checkpoint, tmp_path / "hf", dtype)
    assert not report.problems
    assert report.num_documents == NUM_DOCUMENTS
    assert report.differences["all"][-1] < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in ALL_KINDS if kind.family == "llama3"], ids=lambda kind: kind.name)
def test_ctranslate2_gives_what_was_trained(tmp_path: Path, kind: Backbone) -> None:
    pytest.importorskip("ctranslate2", reason="needs the eval extra")
    checkpoint = WeightsCheckpoint.open(run_of(tmp_path, kind))
    export(checkpoint, tmp_path / "hf", torch.float32)
    ask = lambda documents: ask_process("ctranslate2", tmp_path / "hf", documents, "float32")  # noqa: E731
    report = compare(checkpoint, tmp_path / "hf", ask, torch.float32)
    assert not report.problems
    assert report.engine.startswith("CTranslate2")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Backbone("llama3", True, 2, head_dim=64), Backbone("qwen3", False, 1, head_dim=32)])
def test_vllm_gives_what_was_trained(tmp_path: Path, kind: Backbone) -> None:
    """vLLM needs another torch: TITAN_SPEECH_VLLM_PYTHON names the interpreter of an environment that has it."""
    python = os.environ.get("TITAN_SPEECH_VLLM_PYTHON")
    if python is None:
        pytest.skip("TITAN_SPEECH_VLLM_PYTHON names no interpreter with vLLM")
    checkpoint = WeightsCheckpoint.open(run_of(tmp_path, kind))
    export(checkpoint, tmp_path / "hf", torch.float32)
    ask = lambda documents: ask_process("vllm", tmp_path / "hf", documents, "float32", Path(python))  # noqa: E731
    report = compare(checkpoint, tmp_path / "hf", ask, torch.float32)
    assert not report.problems
    assert report.engine.startswith("vLLM")


def edit_json(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def shift_codes(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    embedding = weights["model.embed_tokens.weight"]
    first = len(embedding) - 65_536 - 128
    codes = slice(first, first + 65_536)
    embedding[codes] = torch.roll(embedding[codes], 1, 0)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def cut_vocabulary(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"][:-128].clone()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    edit_json(folder / "config.json", lambda content: content.update(vocab_size=content["vocab_size"] - 128))


def change_rope(folder: Path) -> None:
    edit_json(folder / "config.json", lambda content: content["rope_parameters"].update(rope_theta=500_000.0))


def leave_out_bos(folder: Path) -> None:
    file = folder / "tokenizer_config.json"
    bos = json.loads(file.read_text())["bos_token"]
    edit_json(file, lambda c: c.update(chat_template=c["chat_template"].replace("{{- '" + bos + "' -}}", "")))


def stop_elsewhere(folder: Path) -> None:
    edit_json(folder / "generation_config.json", lambda content: content.update(eos_token_id=2))


def exchange_tokens(folder: Path) -> None:
    text = (folder / "tokenizer.json").read_text()
    for old, new in (("<|text_start|>", "\0"), ("<|text_end|>", "<|text_start|>"), ("\0", "<|text_end|>")):
        text = text.replace(old, new)
    (folder / "tokenizer.json").write_text(text)


DEFECTS = {
    "codes shifted by one": (shift_codes, r"model\.embed_tokens\.weight: rows .* are shifted by \+1"),
    "a vocabulary cut short": (cut_vocabulary, "vocab_size is 69632, the model was trained with 69760"),
    "another rope base": (change_rope, "rope_parameters is .*500000.* the model was trained with .*10000"),
    "no BOS": (leave_out_bos, "the chat template's tts prompt has no BOS"),
    "another stop token": (stop_elsewhere, r"eos_token_id is 2; speech ends with \d+, <\|speech_end\|>"),
    "exchanged tokens": (exchange_tokens, r"<\|text_end\|> in the place of <\|text_start\|>"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_planted_defect_is_named(
    checkpoint: WeightsCheckpoint,
    exported: Path,
    answers: EngineAnswers,
    tmp_path: Path,
    defect: str,
) -> None:
    plant, named = DEFECTS[defect]
    folder = shutil.copytree(exported, tmp_path / "hf")
    plant(folder)
    report = compare(checkpoint, folder, lambda documents: answers, torch.float32)
    assert report.problems
    assert any(re.search(named, problem) for problem in report.problems), report.problems


def test_wrong_answers_are_told_by_their_kind(
    checkpoint: WeightsCheckpoint, exported: Path, documents: list[ParityDocument], answers: EngineAnswers
) -> None:
    vocabulary = checkpoint.grammar.vocabulary
    changed = [
        tuple(value + 0.1 * bool(vocabulary.is_code(id_)) for value, id_ in zip(row, one.ids_T[1:], strict=True))
        for row, one in zip(answers.logprobs, documents, strict=True)
    ]
    wrong = replace(answers, logprobs=tuple(changed))
    (problem,) = compare(checkpoint, exported, lambda _: wrong, torch.float32).problems
    assert problem.startswith("log-probabilities of code tokens are 0.1 (median)")
    greedy = replace(answers, greedy=((5,) * NUM_GREEDY, *answers.greedy[1:]))
    (problem,) = compare(checkpoint, exported, lambda _: greedy, torch.float32).problems
    assert "of 1024 greedily decoded ids are not the trainer's first choice" in problem
    outside = replace(answers, greedy=((vocabulary.num_rows,) * NUM_GREEDY, *answers.greedy[1:]))
    (problem,) = compare(checkpoint, exported, lambda _: outside, torch.float32).problems
    assert "was generated, the vocabulary has 69,760 rows" in problem


def test_an_engine_that_is_not_there_or_fails_is_one_message(
    run: Path, exported: Path, documents: list[ParityDocument], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["model", "compare", "--model", str(exported), "--checkpoint", str(run)]
    assert main([*words, "--with", "sglang"]) == EXIT_BAD_INPUT
    assert "--with sglang: no such engine; expected transformers, ctranslate2, vllm" in capsys.readouterr().err
    with pytest.raises(ModelError, match="cannot be started"):
        ask_process("vllm", exported, documents, "float32", tmp_path / "python")
    with pytest.raises(ModelError, match=r"transformers failed on .*nothing.* \(exit code 1\)"):
        ask_process("transformers", tmp_path / "nothing", documents, "float32", Path(sys.executable))
    with pytest.raises(ModelError, match="cannot be reached"):
        ask_server("http://127.0.0.1:9/v1", documents)
    with pytest.raises(ModelError, match="no address of a server"):
        ask_server("file:///etc", documents)


class CompletionsServer(ThreadingHTTPServer):
    """Answers as vLLM's server does, from answers that are known; `spoil` changes a reply."""

    def __init__(
        self, documents: Sequence[ParityDocument], answers: EngineAnswers, spoil: Callable[[dict[str, Any]], None]
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.by_ids = {tuple(one.ids_T.tolist()): i for i, one in enumerate(documents)}
        self.by_prefix = {tuple(one.prefix): i for i, one in enumerate(documents)}
        self.answers, self.spoil = answers, spoil
        Thread(target=self.serve_forever, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    server: CompletionsServer

    def do_GET(self) -> None:
        self._reply({"data": [{"id": "served"}]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        ids, answers = tuple(asked["prompt"]), self.server.answers
        if asked["max_tokens"] == 1:
            logprobs = answers.logprobs[self.server.by_ids[ids]]
            places = [{str(id_): {"logprob": value}} for id_, value in zip(ids[1:], logprobs, strict=True)]
            choice: dict[str, Any] = {"prompt_logprobs": [None, *places]}
        else:
            choice = {"token_ids": list(answers.greedy[self.server.by_prefix[ids]])}
        self.server.spoil(choice)
        self._reply({"choices": [choice]})

    def _reply(self, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_a_server_is_asked_by_ids_and_its_answers_are_checked(
    documents: list[ParityDocument], answers: EngineAnswers
) -> None:
    server = CompletionsServer(documents, answers, lambda choice: None)
    url = f"http://127.0.0.1:{server.server_port}/v1/"
    found = ask_server(url, documents)
    assert (found.logprobs, found.greedy) == (answers.logprobs, answers.greedy)
    server.spoil = lambda choice: choice.pop("prompt_logprobs", None)
    with pytest.raises(ModelError, match=r"answered something else than was asked: KeyError.*prompt_logprobs"):
        ask_server(url, documents)
    server.spoil = lambda choice: choice.update(token_ids=[1]) if "token_ids" in choice else None
    with pytest.raises(ModelError, match="expected 16 ids after each of 64 prefixes"):
        ask_server(url, documents)
    server.spoil = no_float_holds
    with pytest.raises(ModelError, match=r"answered something else than was asked: .*OverflowError"):
        ask_server(url, documents)
    server.shutdown()


def no_float_holds(choice: dict[str, Any]) -> None:
    for place in choice.get("prompt_logprobs", [])[1:]:
        for one in place.values():
            one["logprob"] = 10**400


def test_what_speaks_no_http_is_one_message(documents: list[ParityDocument]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        Thread(target=lambda: listener.accept()[0].sendall(b"220 mail\r\n"), daemon=True).start()
        with pytest.raises(ModelError, match="cannot be reached: BadStatusLine"):
            ask_server(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", documents)


def test_a_server_that_answers_late_is_one_message(
    documents: list[ParityDocument], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("titan_speech.evaluate.engines.REQUEST_TIMEOUT_SEC", 0.2)
    late = pytest.raises(ModelError, match=r"did not answer within 0\.2 s; is the server busy")
    with socket.create_server(("127.0.0.1", 0)) as listener, late:  # takes the request, and says nothing
        ask_server(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", documents)


def test_numbers_that_are_none_are_refused(documents: list[ParityDocument], answers: EngineAnswers) -> None:
    from titan_speech.evaluate.engines import _parsed

    rows = [list(row) for row in answers.logprobs]
    rows[3][2] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        _parsed({"name": "x", "logprobs": rows, "greedy": np.array(answers.greedy).tolist()}, documents)
