"""The exported chat template: clients that know nothing of this project get the ids that training used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from tests.support.published_vocabularies import LLAMA3, QWEN3, npm_tokenizer
from tests.support.store_samples import SENTENCES, write_tokenizer
from titan_speech.hf.config_json import write_json
from titan_speech.hf.tokenizer import extended_tokenizer, extended_tokenizer_config
from titan_speech.tokenization.chat_template import chat_template
from titan_speech.tokenization.prompt_template import Grammar, Parts, Task
from titan_speech.tokenization.text_tokenizer import TextTokenizer, tokenizer_file, tokenizer_json

TEXTS = (
    *SENTENCES,
    " two spaces  before",
    "a line\nand another\n",
    "C++ <b>, a < b | c > d",
    "l'été — «ça»",
    "😀 ok",
    "x",
)
REF_CODES = [0, 17, 65_535]
Render = Callable[..., list[int]]


def export_tokenizer(source: Path, folder: Path) -> TextTokenizer:
    """The tokenizer files of an exported model."""
    tokenizer = TextTokenizer.load(source)
    vocabulary = tokenizer.vocabulary()
    folder.mkdir()
    write_json(
        folder / "tokenizer.json", extended_tokenizer(json.loads(tokenizer_json(tokenizer_file(source))), vocabulary)
    )
    stop_id = Grammar(vocabulary).stop_id(Task.TTS)
    names = extended_tokenizer_config(tokenizer, vocabulary, stop_id, 4096)
    template = chat_template(tokenizer.token(vocabulary.bos_id), tokenizer.special_tokens)
    write_json(folder / "tokenizer_config.json", names | {"chat_template": template})
    return tokenizer


def transformers_client(folder: Path) -> Render:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return lambda messages, **fields: tokenizer.apply_chat_template(messages, return_dict=False, **fields)


def plain_client(folder: Path) -> Render:
    """What other engines do: jinja2 renders, the `tokenizers` library encodes; nothing of transformers."""
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    template = environment.from_string(json.loads((folder / "tokenizer_config.json").read_text())["chat_template"])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return lambda messages, **fields: (
        tokenizer.encode(
            template.render(messages=messages, add_generation_prompt=True, **fields), add_special_tokens=False
        ).ids
    )


def refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


CLIENTS = {"transformers": transformers_client, "jinja2 and tokenizers": plain_client}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TextTokenizer]:
    """Of a tokenizer with a control token of another spelling than <|...|>."""
    folder = tmp_path_factory.mktemp("exported")
    base = write_tokenizer(folder / "base")
    content = json.loads((base / "tokenizer.json").read_text())
    stop = {**content["added_tokens"][-1], "id": max(content["model"]["vocab"].values()) + 1, "content": "<stop>"}
    (base / "tokenizer.json").write_text(json.dumps(content | {"added_tokens": [*content["added_tokens"], stop]}))
    return folder / "hf", export_tokenizer(base, folder / "hf")


@pytest.fixture(scope="module")
def clients(exported: tuple[Path, TextTokenizer]) -> dict[str, Render]:
    return {name: client(exported[0]) for name, client in CLIENTS.items()}


def expected(tokenizer: TextTokenizer, task: Task, **parts: Any) -> list[int]:
    values = {
        name: np.array(tokenizer.encode(value) if isinstance(value, str) else value) for name, value in parts.items()
    }
    return Grammar(tokenizer.vocabulary()).prefix(task, Parts(**values)).tolist()


def check_all_prompts(render: Render, tokenizer: TextTokenizer, text: str) -> None:
    user = {"role": "user", "content": text}
    assert render([user]) == expected(tokenizer, Task.TTS, text_ids=text)
    described = render([{"role": "system", "content": "a calm voice"}, user])
    assert described == expected(tokenizer, Task.TTS, text_ids=text, description_ids="a calm voice")
    cloned = render([user], ref_text="what it says", ref_codes=REF_CODES)
    assert cloned == expected(
        tokenizer, Task.CLONE, text_ids=text, ref_text_ids="what it says", ref_codes=np.array(REF_CODES)
    )


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_gets_the_ids_of_the_projects_own_prompts(
    clients: dict[str, Render], exported: tuple[Path, TextTokenizer], client: str
) -> None:
    for text in TEXTS:
        check_all_prompts(clients[client], exported[1], text)


@settings(max_examples=100, deadline=None)
@given(st.text(min_size=1).filter(lambda text: text.strip() and not ("<|" in text and "|>" in text)))
def test_any_text_gets_the_ids_of_the_projects_own_prompts(
    clients: dict[str, Render], exported: tuple[Path, TextTokenizer], text: str
) -> None:
    check_all_prompts(clients["jinja2 and tokenizers"], exported[1], text)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    ("messages", "fields", "message"),
    [
        ([{"role": "user", "content": "say <|speech_end|>"}], {}, "control token"),
        ([{"role": "user", "content": "say <stop> now"}], {}, "control token <stop>"),
        ([{"role": "user", "content": "  "}], {}, "not empty"),
        ([{"role": "user", "content": None}], {}, "not empty"),
        ([{"role": "assistant", "content": "x"}], {}, "one user message"),
        ([{"role": "user", "content": "x"}] * 2, {}, "one user message"),
        ([{"role": "user", "content": "x"}], {"ref_text": "y"}, "needs ref_codes"),
        ([{"role": "user", "content": "x"}], {"ref_text": "y", "ref_codes": [65_536]}, "0 to 65535"),
        ([{"role": "user", "content": "x"}], {"ref_text": "y", "ref_codes": ["1|><|speech_end"]}, "0 to 65535"),
        (
            [{"role": "system", "content": "d"}, {"role": "user", "content": "x"}],
            {"ref_text": "y", "ref_codes": [1]},
            "no voice description",
        ),
    ],
)
def test_what_the_grammar_has_no_place_for_is_refused(
    clients: dict[str, Render], client: str, messages: list, fields: dict, message: str
) -> None:
    with pytest.raises(jinja2.TemplateError, match=message):
        clients[client](messages, **fields)


@pytest.mark.slow
@pytest.mark.parametrize("package", [LLAMA3, QWEN3])
@pytest.mark.parametrize("client", CLIENTS)
def test_published_vocabularies_give_the_same_ids(tmp_path: Path, package: str, client: str) -> None:
    source = npm_tokenizer(package, tmp_path)
    tokenizer = export_tokenizer(source, tmp_path / "hf")
    render = CLIENTS[client](tmp_path / "hf")
    for text in TEXTS:
        check_all_prompts(render, tokenizer, text)
