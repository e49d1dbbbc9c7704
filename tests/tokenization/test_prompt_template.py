"""The grammar: prefixes, masks, lengths and fingerprints, against documents spelled out by hand."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from titan_speech.config.schema_data import TaskName
from titan_speech.errors import DataError, VocabularyError
from titan_speech.tokenization import prompt_template
from titan_speech.tokenization.prompt_template import (
    PREFERENCE,
    TEMPLATES,
    Grammar,
    Parts,
    Task,
    required_parts,
    template_task,
)
from titan_speech.tokenization.vocabulary import NUM_CODES, SPECIALS, Vocabulary

VOCABULARY = Vocabulary(1000, 0, 1, "tiny")
GRAMMAR = Grammar(VOCABULARY)
TEXT = {
    "text_ids": [7, 8],
    "ref_text_ids": [9],
    "description_ids": [10, 11],
    "user_ids": [12],
    "assistant_ids": [13, 14],
}
CODES = {"codes": [100, 65_535], "ref_codes": [0], "prompt_codes": [5, 6, 7]}

# Every document spelled out; the bar is where decoding starts.
SPELLED = {
    Task.SPEECH: "base:0 <|speech_start|> | <|s_100|> <|s_65535|> <|speech_end|>",
    Task.CONTINUATION: "base:0 <|speech_start|> <|s_5|> <|s_6|> <|s_7|> <|speech_sep|> "
    "| <|s_100|> <|s_65535|> <|speech_end|>",
    Task.TTS: "base:0 <|text_start|> base:7 base:8 <|text_end|> <|speech_start|> "
    "| <|s_100|> <|s_65535|> <|speech_end|>",
    Task.CLONE: "base:0 <|ref_text_start|> base:9 <|ref_text_end|> "
    "<|ref_speech_start|> <|s_0|> <|ref_speech_end|> "
    "<|target_text_start|> base:7 base:8 <|target_text_end|> <|speech_start|> "
    "| <|s_100|> <|s_65535|> <|speech_end|>",
    Task.TEXT: "base:0 | base:7 base:8 base:1",
    Task.INSTRUCTION: "base:0 <|user_start|> base:12 <|user_end|> <|assistant_start|> "
    "| base:13 base:14 <|assistant_end|> base:1",
}
DESCRIBED_TTS = SPELLED[Task.TTS].replace(
    "base:0 ", "base:0 <|voice_description_start|> base:10 base:11 <|voice_description_end|> ", 1
)


def parts_of(task: Task, **more: list[int]) -> Parts:
    fields = {field: (TEXT | CODES)[field] for field in required_parts(task)} | more
    return Parts(**{f: np.array(v, np.uint16 if f in CODES else np.uint32) for f, v in fields.items()})


def names(ids: np.ndarray) -> list[str]:
    return [VOCABULARY.token_name(int(id_)) for id_ in ids]


def split(spelled: str) -> tuple[list[str], list[str]]:
    prefix, target = spelled.split(" | ")
    return prefix.split(), target.split()


def test_there_is_one_template_for_every_task_of_the_configuration() -> None:
    assert set(TEMPLATES) == set(Task)
    assert {template_task(name) for name in get_args(TaskName)} == set(Task)
    assert set(get_args(TaskName)) - {*Task} == {PREFERENCE}


@pytest.mark.parametrize("task", Task)
def test_each_document_is_the_one_spelled_out(task: Task) -> None:
    prefix, target = split(SPELLED[task])
    document = GRAMMAR.document(task, parts_of(task))
    assert names(document.ids_T) == prefix + target
    assert document.ids_T.dtype == np.int32
    assert document.num_prefix_tokens == len(prefix)


def test_a_voice_description_comes_first_and_is_optional() -> None:
    prefix, target = split(DESCRIBED_TTS)
    parts = parts_of(Task.TTS, description_ids=TEXT["description_ids"])
    assert names(GRAMMAR.document(Task.TTS, parts).ids_T) == prefix + target
    empty = parts_of(Task.TTS, description_ids=[])
    prefix, target = split(SPELLED[Task.TTS])
    assert names(GRAMMAR.document(Task.TTS, empty).ids_T) == prefix + target


@pytest.mark.parametrize("task", Task)
def test_decoding_starts_with_what_training_saw_and_needs_no_target(task: Task) -> None:
    parts = parts_of(task)
    without_target = Parts(**{**vars(parts), TEMPLATES[task].target: None})
    prefix = GRAMMAR.prefix(task, without_target)
    assert names(prefix) == split(SPELLED[task])[0]
    assert np.array_equal(GRAMMAR.document(task, parts).ids_T[: len(prefix)], prefix)


@pytest.mark.parametrize("task", Task)
def test_all_trains_on_everything_but_bos(task: Task) -> None:
    trained = GRAMMAR.document(task, parts_of(task), "all").trained_T
    assert trained.tolist() == [False] + [True] * (len(trained) - 1)


@pytest.mark.parametrize("task", Task)
def test_target_trains_on_what_follows_the_prefix_closing_tokens_included(task: Task) -> None:
    prefix, target = split(SPELLED[task])
    trained = GRAMMAR.document(task, parts_of(task), "target").trained_T
    assert trained.tolist() == [False] * len(prefix) + [True] * len(target)


@pytest.mark.parametrize("task", Task)
def test_decoding_stops_at_the_first_token_after_the_target(task: Task) -> None:
    document = GRAMMAR.document(task, parts_of(task))
    target = getattr(parts_of(task), TEMPLATES[task].target)
    assert document.ids_T[document.num_prefix_tokens + len(target)] == GRAMMAR.stop_id(task)


@given(st.data(), st.sampled_from(list(Task)), st.sampled_from(["all", "target"]))
def test_length_is_framing_plus_parts_and_contents_are_kept(data: st.DataObject, task: Task, train_on: str) -> None:
    fields = list(required_parts(task))
    described = task is Task.TTS and data.draw(st.booleans())
    values = {
        field: data.draw(st.lists(st.integers(0, NUM_CODES - 1 if field in CODES else 999), min_size=1))
        for field in fields + ["description_ids"] * described
    }
    document = GRAMMAR.document(task, Parts(**{f: np.array(v) for f, v in values.items()}), train_on)
    assert len(document.ids_T) == GRAMMAR.num_fixed_tokens(task, described) + sum(map(len, values.values()))
    assert len(document.trained_T) == len(document.ids_T)
    assert not document.trained_T[0]
    in_order = [field for field in ("description_ids",) if described] + fields
    codes = [code for field in in_order if field in CODES for code in values[field]]
    is_code = VOCABULARY.is_code(document.ids_T)
    assert VOCABULARY.ids_to_codes(document.ids_T[is_code]).tolist() == codes
    assert len(document.ids_T) - is_code.sum() == GRAMMAR.num_fixed_tokens(task, described) + sum(
        len(v) for f, v in values.items() if f not in CODES
    )


@pytest.mark.parametrize("task", Task)
def test_a_missing_part_is_named(task: Task) -> None:
    for field in required_parts(task):
        parts = Parts(**{**vars(parts_of(task)), field: None})
        with pytest.raises(DataError, match=f"a {task} document lacks {field}"):
            GRAMMAR.document(task, parts)


@pytest.mark.parametrize("task", Task)
def test_a_part_that_the_task_would_lose_is_refused(task: Task) -> None:
    for field in (TEXT | CODES).keys() - {*required_parts(task)}:
        parts = parts_of(task, **{field: (TEXT | CODES)[field]})
        if (task, field) == (Task.TTS, "description_ids"):
            continue
        for make in (GRAMMAR.document, GRAMMAR.prefix):
            with pytest.raises(DataError, match=f"no place for {field}"):
                make(task, parts)


def test_ids_and_codes_out_of_range_are_refused() -> None:
    with pytest.raises(VocabularyError, match="text id 1000 at index 1"):
        GRAMMAR.document(Task.TEXT, Parts(text_ids=np.array([5, 1000])))
    with pytest.raises(VocabularyError, match="code 65536 at index 0"):
        GRAMMAR.document(Task.SPEECH, Parts(codes=np.array([65_536])))


def test_an_unknown_loss_rule_is_refused() -> None:
    with pytest.raises(DataError, match="'targets'; expected 'all' or 'target'"):
        GRAMMAR.document(Task.TEXT, parts_of(Task.TEXT), "targets")


def test_the_grammar_fingerprint_sees_tokenizer_vocabulary_and_templates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = Grammar(VOCABULARY).fingerprint
    other_tokenizer = Grammar(Vocabulary(1000, 0, 1, "other")).fingerprint
    other_size = Grammar(Vocabulary(1001, 0, 1, "tiny")).fingerprint
    changed = dict(TEMPLATES) | {Task.TEXT: prompt_template.PromptTemplate((), (), "text_ids", ("<|pad|>",))}
    monkeypatch.setattr(prompt_template, "TEMPLATES", changed)
    other_template = Grammar(VOCABULARY).fingerprint
    assert len({first, other_tokenizer, other_size, other_template}) == 4


def test_the_fingerprint_is_the_same_in_another_process() -> None:
    """A recorded value: whoever changes the grammar or the specials sees it here and says so."""
    assert SPECIALS[0] == "<|speech_start|>"
    assert Grammar(Vocabulary(1000, 0, 1, "tiny")).fingerprint == "8fbcddc338868c77"
