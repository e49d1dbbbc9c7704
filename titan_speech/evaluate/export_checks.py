"""What is wrong with an exported folder, found without running its model.

In: the folder, and the checkpoint it is said to be. Out: problems as text, none if all is well. Whatever a comparison
of logits would only show as "different" is named here: config.json key by key, the rows of the embedding (exported bit
for bit, so that shifted rows are distinguished from rows of another model), the stop token, and the prompts that a
client makes which knows chat templates and nothing of this project.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import jinja2
import numpy as np
import torch
from jinja2.sandbox import ImmutableSandboxedEnvironment
from numpy.typing import NDArray
from tokenizers import Tokenizer

from titan_speech.errors import DataError, ModelError, VocabularyError
from titan_speech.hf.config_json import read_json
from titan_speech.hf.export import WeightsCheckpoint, exported_config
from titan_speech.hf.model_folder import EMBEDDING, HEAD, HFFolder, vocabulary_tensors
from titan_speech.model.exported_files import CONFIG_NAME, GENERATION_NAME
from titan_speech.tokenization.prompt_template import Grammar, Parts, Task
from titan_speech.tokenization.text_tokenizer import JSON_NAME, TOKENIZER_CONFIG_NAME, TextTokenizer
from titan_speech.utils.printable import one_line

NUM_ROWS = 256
"""Rows of each vocabulary matrix that are compared, spread evenly; and those at the borders between kinds of tokens."""
_TEXT, _REF_TEXT, _DESCRIPTION = "Please hold the line.", "Two words?", "A calm voice."
_REF_CODES = [0, 17, 65_535]
_WRITTEN_ELSEWHERE = ("dtype", "torch_dtype", "transformers_version")
"""Keys of config.json that say nothing of the model's numbers."""

Matrices = Mapping[str, torch.Tensor]
"""The trainer's vocabulary matrices by their names in a Hugging Face folder, rounded as exported."""


def folder_problems(folder: Path, checkpoint: WeightsCheckpoint) -> list[str]:
    """What is wrong with a folder, apart from the values of its weights.

    Args:
        folder: written by `titan-speech model export`.
        checkpoint: what was exported.
    """
    problems = [*_config_problems(folder, checkpoint), *_stop_problems(folder, checkpoint.grammar)]
    try:
        HFFolder.open(folder)
    except ModelError as error:
        problems.append(str(error))
    return problems + list(prompt_problems(folder, checkpoint.tokenizer, checkpoint.grammar))


def _config_problems(folder: Path, checkpoint: WeightsCheckpoint) -> Iterator[str]:
    found = read_json(folder / CONFIG_NAME, "an exported model")
    expected = exported_config(checkpoint)
    for key in sorted(expected.keys() | {key for key in found if "rope" in key}):
        if key not in _WRITTEN_ELSEWHERE and found.get(key) != expected.get(key):
            yield f"{CONFIG_NAME}: {key} is {_text(found.get(key))}, the model was trained with {expected.get(key)!r}"


def _stop_problems(folder: Path, grammar: Grammar) -> Iterator[str]:
    found = read_json(folder / GENERATION_NAME, "an exported model").get("eos_token_id")
    stop_id = grammar.stop_id(Task.TTS)
    if found != stop_id:
        name = grammar.vocabulary.token_name(stop_id)
        yield f"{GENERATION_NAME}: eos_token_id is {_text(found)}; speech ends with {stop_id}, {name}"


def row_problems(folder: HFFolder, matrices: Matrices, grammar: Grammar) -> Iterator[str]:
    """Rows of the embedding and the head that are not those of the checkpoint, bit for bit.

    Args:
        folder: the export.
        matrices: embedding and head of the checkpoint.
        grammar: of the model.
    """
    vocabulary = grammar.vocabulary
    borders = (vocabulary.first_code_id, vocabulary.first_special_id, vocabulary.num_used_rows)
    rows = {border + offset for border in borders for offset in (-1, 0)}
    rows |= set(range(0, vocabulary.num_rows, max(1, vocabulary.num_rows // NUM_ROWS)))
    for name, trained_VD in matrices.items():
        wrong = [row for row in sorted(rows) if row < len(trained_VD) and not _is_row(folder, name, row, trained_VD, 0)]
        if not wrong:
            continue
        for offset in (-1, 1):
            if sum(_is_row(folder, name, row, trained_VD, offset) for row in wrong) > 0.9 * len(wrong):
                names = f"{vocabulary.token_name(wrong[0])} to {vocabulary.token_name(wrong[-1])}"
                yield f"{name}: rows {wrong[0]} to {wrong[-1]} ({names}) are shifted by {offset:+d}"
                break
        else:
            first = vocabulary.token_name(wrong[0])
            yield f"{name}: {len(wrong)} of {len(rows)} rows looked at are not those of the checkpoint, first {first}"


def _is_row(folder: HFFolder, name: str, row: int, trained_VD: torch.Tensor, offset: int) -> bool:
    """Whether a row of the folder is the checkpoint's row at `row - offset`."""
    if not 0 <= row - offset < len(trained_VD):
        return True
    found_D = folder.rows(name, row, row + 1)[0]
    return torch.equal(found_D.float(), trained_VD[row - offset].float())


def prompt_problems(folder: Path, tokenizer: TextTokenizer, grammar: Grammar) -> Iterator[str]:
    """What a bare client would send in the place of the project's prompts.

    Args:
        folder: has tokenizer.json and tokenizer_config.json.
        tokenizer: of the run.
        grammar: of the run.
    """

    def encoded(text: str) -> NDArray[np.uint32]:
        return np.array(tokenizer.encode(text), np.uint32)

    user = {"role": "user", "content": _TEXT}
    reference = {"ref_text": _REF_TEXT, "ref_codes": _REF_CODES}
    cloned = Parts(
        ref_text_ids=encoded(_REF_TEXT),
        ref_codes=np.array(_REF_CODES, np.uint16),
        text_ids=encoded(_TEXT),
    )
    described = Parts(description_ids=encoded(_DESCRIPTION), text_ids=encoded(_TEXT))
    prompts = (
        ("tts", [user], {}, Task.TTS, Parts(text_ids=encoded(_TEXT))),
        ("tts with a voice", [{"role": "system", "content": _DESCRIPTION}, user], {}, Task.TTS, described),
        ("clone", [user], reference, Task.CLONE, cloned),
    )
    try:
        client = Tokenizer.from_file(str(folder / JSON_NAME))
        config = read_json(folder / TOKENIZER_CONFIG_NAME, "an exported model")
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _refuse
        template = environment.from_string(config["chat_template"])
        for name, messages, fields, task, parts in prompts:
            expected = grammar.prefix(task, parts).tolist()
            found = client.encode(template.render(messages=messages, **fields), add_special_tokens=False).ids
            if found != expected:
                yield _prompt_problem(name, found, expected, grammar)
    except (ModelError, DataError, VocabularyError, KeyError, TypeError, ValueError, jinja2.TemplateError) as error:
        yield f"the chat template or the tokenizer cannot be used: {type(error).__name__}: {_text(str(error))}"
    except Exception as error:  # tokenizers raises bare Exception
        yield f"{JSON_NAME} cannot be read: {_text(str(error))}"


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _prompt_problem(name: str, found: list[int], expected: list[int], grammar: Grammar) -> str:
    if found == expected[1:]:
        return f"the chat template's {name} prompt has no BOS ({expected[0]})"
    at = next((i for i, pair in enumerate(zip(found, expected, strict=False)) if pair[0] != pair[1]), len(found))
    got, wanted = (_token(ids, at, grammar) for ids in (found, expected))
    return f"the chat template's {name} prompt differs from training at token {at}: {got} in the place of {wanted}"


def _token(ids: list[int], at: int, grammar: Grammar) -> str:
    if at >= len(ids):
        return "nothing"
    return grammar.vocabulary.token_name(ids[at]) if ids[at] < grammar.vocabulary.num_rows else f"id {ids[at]}"


def _text(value: object) -> str:
    return one_line(repr(value)[:200])


def trained_matrices(
    weights: Mapping[str, torch.Tensor], checkpoint: WeightsCheckpoint, dtype: torch.dtype
) -> Matrices:
    """Embedding and head of a trainer's model as they are exported.

    Args:
        weights: the model's state, by TorchTitan's names.
        checkpoint: whose weights they are.
        dtype: of the export.
    """
    names = {EMBEDDING: "tok_embeddings.weight", HEAD: "lm_head.weight"}
    return {name: weights[names[name]].to(dtype) for name in vocabulary_tensors(checkpoint.shape)}
