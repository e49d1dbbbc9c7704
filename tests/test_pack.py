"""Packs against documents one by one: every task, any window, both loss rules."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plan_samples import World, make_world
from titan_speech.data.documents import KIND_OF_TASK, Documents, documents_of
from titan_speech.data.labels import IGNORE_INDEX, encode_labels
from titan_speech.data.pack import cut_arrays, lay_out
from titan_speech.data.streams import Piece
from titan_speech.prompts import Document, Grammar, Task
from titan_speech.store.store import open_store
from titan_speech.text_tokenizer import TextTokenizer

STREAM = 5


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), num_samples=12)


@pytest.fixture(scope="module")
def documents(world: World) -> dict[tuple[Task, str], tuple[Documents, ...]]:
    """Parts of two languages read as each task, with each loss rule."""
    grammar = Grammar(TextTokenizer.load(world.tokenizer).vocabulary())
    parts = open_store(world.store).parts
    dataset = {Task.TEXT: "wiki", Task.INSTRUCTION: "chat"}
    found = {}
    for task in Task:
        chosen = [p for p in parts if p.kind is KIND_OF_TASK[task] and p.dataset_source == dataset.get(task, "prompts")]
        for train_on in ("all", "target"):
            source = world.source(task, 1.0, train_on=train_on)
            found[task, train_on] = tuple(documents_of(part, source, grammar, 512) for part in chosen[:2])
    return found


@st.composite
def pieces_of(draw: st.DrawFn, documents: tuple[Documents, ...]) -> tuple[list[Piece], int]:
    """Documents from any token on, all but the last to their end; with the last cut, the pack is full."""
    pieces = []
    for _ in range(draw(st.integers(0, 6))):
        part, i = draw(st.integers(0, 1)), draw(st.integers(0, 11))
        length = int(documents[part].lengths(i, i + 1)[0])
        pieces.append(Piece(part, i, draw(st.integers(0, length - 1)), length))
    seq_len = sum(piece.stop - piece.start for piece in pieces)
    if pieces and draw(st.booleans()):
        part, i, start, stop = pieces[-1]
        stop = draw(st.integers(start + 1, stop))
        seq_len -= pieces[-1].stop - stop
        pieces[-1] = Piece(part, i, start, stop)
        if stop < documents[part].lengths(i, i + 1)[0]:
            return pieces, seq_len
    return pieces, seq_len + draw(st.integers(0 if pieces else 1, 9))


def one_by_one(
    documents: list[Document], pieces: list[Piece], seq_len: int, pad_id: int
) -> tuple[list[int], list[int], list[int]]:
    """Ids, labels and positions in the plainest words."""
    ids, labels, positions = [], [], []
    for document, (_, _, start, stop) in zip(documents, pieces, strict=True):
        for token in range(start, stop):
            ids.append(int(document.ids_T[token]))
            positions.append(token - start)
            is_last = token + 1 == len(document.ids_T)
            trained = not is_last and document.trained_T[token + 1]
            labels.append(int(document.ids_T[token + 1]) | STREAM << 32 if trained else IGNORE_INDEX)
    num_pad = seq_len - len(ids)
    return ids + [pad_id] * num_pad, labels + [IGNORE_INDEX] * num_pad, positions + list(range(num_pad))


@settings(max_examples=25, deadline=None)
@pytest.mark.parametrize("train_on", ["all", "target"])
@pytest.mark.parametrize("task", Task)
@given(data=st.data())
def test_a_pack_is_its_documents_one_by_one(documents, task: Task, train_on: str, data: st.DataObject) -> None:
    parts = documents[task, train_on]
    pieces, seq_len = data.draw(pieces_of(parts))
    pad_id = parts[0].grammar.vocabulary.pad_id
    pack = lay_out(0, STREAM, parts, pieces, seq_len, pad_id)
    whole = [parts[piece.part].document(piece.document) for piece in pieces]
    ids, labels, positions = one_by_one(whole, pieces, seq_len, pad_id)
    assert pack.ids_S.tolist() == ids
    assert pack.labels_S.tolist() == labels
    assert pack.positions_S.tolist() == positions


@given(st.lists(st.integers(0, 5), max_size=6), st.data())
def test_a_window_of_arrays_is_the_window_of_their_tokens(lengths: list[int], data: st.DataObject) -> None:
    tokens = np.arange(sum(lengths))
    arrays = np.split(tokens, np.cumsum(lengths)[:-1]) if lengths else []
    start = data.draw(st.integers(0, len(tokens)))
    stop = data.draw(st.integers(start, len(tokens) + 2))
    kept = cut_arrays(arrays, start, stop)
    assert [int(token) for array in kept for token in array] == tokens[start:stop].tolist()
    assert all(array.base is not None for array in kept)


def test_a_filler_trains_on_nothing() -> None:
    pack = lay_out(-1, -1, (), (), 16, 9)
    assert (pack.ids_S == 9).all()
    assert (pack.labels_S == IGNORE_INDEX).all()
    assert encode_labels(np.array([3]), 2)[0] == 3 | 2 << 32
