"""Packs against documents one by one: every task, any window, both loss rules."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.plan_samples import World, make_world
from tests.support.store_samples import CODEC, info, speech_codes, transcripts_of
from titan_speech.data.documents import Documents
from titan_speech.data.pack_layout import IGNORE_INDEX, PackPlan, build_batch, build_pack, encode_labels
from titan_speech.data.packing import Piece
from titan_speech.data.sources import KIND_OF_TASK, documents_of
from titan_speech.store.reader import open_store
from titan_speech.store.writer import StoreWriter
from titan_speech.tokenization.prompt_template import Document, Grammar, Task
from titan_speech.tokenization.text_tokenizer import TextTokenizer
from titan_speech.tokenization.token_runs import TokenRuns, merge_runs

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
    pack = build_pack(0, STREAM, parts, pieces, seq_len, pad_id)
    whole = [parts[piece.part].document(piece.document) for piece in pieces]
    ids, labels, positions = one_by_one(whole, pieces, seq_len, pad_id)
    assert pack.ids_S.tolist() == ids
    assert pack.labels_S.tolist() == labels
    assert pack.positions_S.tolist() == positions


@pytest.mark.parametrize("train_on", ["all", "target"])
def test_documents_with_and_without_a_description_share_a_pack(world: World, tmp_path: Path, train_on: str) -> None:
    tokenizer = TextTokenizer.load(world.tokenizer)
    with StoreWriter(
        tmp_path / "s", name="s", codec=CODEC, tokenizer=tokenizer, normalization_version="1", licence="CC0-1.0"
    ) as writer:
        for i in range(6):
            writer.add_speech(info(f"s{i}"), speech_codes(i), transcripts_of(i))
    (part,) = open_store(tmp_path / "s").parts
    source = replace(world.source(Task.TTS, 1.0, train_on=train_on), store=str(tmp_path / "s"))
    documents = documents_of(part, source, Grammar(tokenizer.vocabulary()), 512)
    lengths = documents.lengths(0, 6).tolist()
    assert len({tuple(map(len, documents.columns([i])[0])) for i in range(6)}) == 2  # with and without
    pieces = [Piece(0, i, 0, lengths[i]) for i in range(6)]
    seq_len, pad_id = sum(lengths) + 3, documents.grammar.vocabulary.pad_id
    pack = build_pack(0, STREAM, (documents,), pieces, seq_len, pad_id)
    whole = [documents.document(i) for i in range(6)]
    ids, labels, positions = one_by_one(whole, pieces, seq_len, pad_id)
    assert (pack.ids_S.tolist(), pack.labels_S.tolist(), pack.positions_S.tolist()) == (ids, labels, positions)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_packs_of_all_tasks_at_once_are_those_laid_out_one_by_one(documents, data: st.DataObject) -> None:
    """Documents of a part are taken by several packs, cut ones and whole ones, and by several pieces in turn."""
    seq_len, pack_plans = 160, []
    for stream in range(data.draw(st.integers(1, 6))):
        parts = documents[data.draw(st.sampled_from(sorted(documents)))]
        pieces, _ = data.draw(pieces_of(parts))
        pack_plans.append(PackPlan(stream, parts, _filling(pieces, seq_len)))
    at_once = build_batch(pack_plans, seq_len, 7)
    for row, pack_plan in enumerate(pack_plans):
        pack = build_pack(0, pack_plan.stream, pack_plan.documents, pack_plan.pieces, seq_len, 7)
        assert at_once.ids_BS[row].tolist() == pack.ids_S.tolist()
        assert at_once.labels_BS[row].tolist() == pack.labels_S.tolist()
        assert at_once.positions_BS[row].tolist() == pack.positions_S.tolist()


def _filling(pieces: list[Piece], seq_len: int) -> list[Piece]:
    """As many of them as fill a pack; the last is cut where the pack ends."""
    kept, left = [], seq_len
    for part, i, start, stop in pieces:
        if left:
            kept.append(Piece(part, i, start, min(stop, start + left)))
            left -= kept[-1].stop - start
            if kept[-1].stop < stop:
                return kept
    return kept


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=6), st.integers(1, 3), st.data())
def test_a_cut_document_is_the_window_of_its_tokens(runs, num_documents: int, data: st.DataObject) -> None:
    """Of one of several documents of a template; what is cut is a copy."""
    lengths, is_code = [length for length, _ in runs] * num_documents, bytes(flag for _, flag in runs)
    tokens = np.arange(sum(lengths), dtype=np.uint32)
    views = np.split(tokens, np.cumsum(lengths)[:-1])
    kinds = [[view for view, kind in zip(views, is_code * num_documents, strict=True) if kind == k] for k in (0, 1)]
    words, codes = [run.data for run in kinds[0]], [run.astype(np.uint16).data for run in kinds[1]]
    size = sum(length for length, _ in runs)
    all_runs = TokenRuns(words, codes, lengths, is_code, [size] * num_documents, [1] * num_documents)
    document, start = data.draw(st.integers(0, num_documents - 1)), data.draw(st.integers(0, size))
    stop = data.draw(st.integers(start, size + 2))
    cut = all_runs.cut([(document, start, stop)])
    found = merge_runs(cut.text, cut.codes, cut.lengths, is_code * num_documents, 0).tolist()
    first, expected = document * size, tokens.tolist()
    window = expected[first + start : first + min(stop, size)]
    assert found == expected[:first] + window + expected[first + size :]
    assert cut.num_tokens == [len(window) if i == document else size for i in range(num_documents)]
    assert merge_runs(words, codes, lengths, is_code * num_documents, 0).tolist() == expected


def test_padding_is_not_trained_on() -> None:
    pack = build_pack(-1, -1, (), (), 16, 9)
    assert (pack.ids_S == 9).all()
    assert (pack.labels_S == IGNORE_INDEX).all()
    assert encode_labels(np.array([3]), 2)[0] == 3 | 2 << 32
