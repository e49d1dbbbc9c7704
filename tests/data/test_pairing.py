"""Views on metadata alone: clone pairs that fit, stitched segments in order, each property for any data."""

from __future__ import annotations

import itertools
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.plan_samples import World, make_world, with_training
from tests.support.store_samples import CODEC
from titan_speech.config.fields import check_bounds
from titan_speech.config.schema_data import DataConfig, SourceConfig
from titan_speech.data.documents import num_prompt_codes
from titan_speech.data.pairing import OrderContradictionError, Spans, next_of_speaker, references, stitch
from titan_speech.data.plan import DataPlan
from titan_speech.errors import DataError
from titan_speech.preflight.data_checks import check_sources
from titan_speech.store.reader import Part
from titan_speech.store.sample import SampleInfo
from titan_speech.store.writer import StoreWriter
from titan_speech.tokenization.text_tokenizer import TextTokenizer

ROOM = 40


def no_spans(count: int) -> Spans:
    return Spans(np.full(count, -1, np.int32), np.full(count, np.nan), np.full(count, np.nan))


samples = st.lists(st.tuples(st.integers(-1, 3), st.integers(0, ROOM + 5)), max_size=40)


@given(samples)
def test_clone_pairs_are_two_segments_of_one_speaker_that_fit_and_none_is_missed(found) -> None:
    speaker_N = np.array([speaker for speaker, _ in found], np.int32)
    length_N = np.array([length for _, length in found], np.int32)
    reference_N = references(speaker_N, length_N, no_spans(len(found)), ROOM)
    for i, reference in enumerate(reference_N.tolist()):
        others = [
            j
            for j in range(len(found))
            if j != i and speaker_N[j] == speaker_N[i] >= 0 and length_N[j] > 0 and length_N[i] > 0
        ]
        fitting = [j for j in others if length_N[i] + length_N[j] <= ROOM]
        assert (reference in fitting) if fitting else reference == -1


@given(st.lists(st.integers(0, 3), max_size=30))
def test_where_all_pairs_fit_each_segment_is_a_reference_once(speakers: list[int]) -> None:
    speaker_N = np.array(speakers, np.int32)
    reference_N = references(speaker_N, np.ones(len(speakers), np.int32), no_spans(len(speakers)), ROOM)
    assert reference_N.tolist() == next_of_speaker(speaker_N).tolist()
    used = reference_N[reference_N >= 0].tolist()
    assert len(used) == len(set(used))


def test_segments_that_share_time_are_not_paired() -> None:
    spans = Spans(np.zeros(3, np.int32), np.array([0.0, 1.0, 5.0]), np.array([2.0, 3.0, 6.0]))
    reference_N = references(np.zeros(3, np.int32), np.full(3, 5, np.int32), spans, ROOM)
    assert reference_N[0] == reference_N[1] == 2
    assert reference_N[2] in (0, 1)


def test_most_segments_of_2_to_40_seconds_become_targets_at_2048_tokens() -> None:
    rng = np.random.default_rng(0)
    length_N = rng.integers(100, 2_000, 20_000).astype(np.int32) + 40
    speaker_N = rng.integers(0, 1_000, 20_000).astype(np.int32)
    next_N = next_of_speaker(speaker_N)
    by_next = np.mean(length_N + length_N[next_N] <= 2_040)
    by_length = np.mean(references(speaker_N, length_N, no_spans(20_000), 2_040) >= 0)
    assert by_next < 0.55
    assert by_length > 0.85


@st.composite
def recordings(draw: st.DrawFn) -> tuple[Spans, np.ndarray, np.ndarray, np.ndarray]:
    """Segments of some recordings with two speakers, in shuffled order; numbers and recordings may be unknown."""
    rows = []
    for recording in range(draw(st.integers(0, 3))):
        clock = 0.0
        for number in range(draw(st.integers(0, 12))):
            clock += draw(st.sampled_from([0.0, 0.5, 1.0, 3.0]))
            codes = draw(st.integers(1, 20))
            known = draw(st.sampled_from([True] * 7 + [False]))
            speaker = draw(st.sampled_from([0, 0, 0, 1, -1]))
            rows.append((recording if known else -1, speaker, number, clock, clock + codes / 50, codes))
            clock += codes / 50
    rows = draw(st.permutations(rows))
    columns = [np.array(column) for column in zip(*rows, strict=True)] if rows else [np.empty(0)] * 6
    recording_N, speaker_N, number_N, start_N, end_N, codes_N = columns
    spans = Spans(recording_N.astype(np.int32), start_N.astype(float), end_N.astype(float))
    return spans, speaker_N.astype(np.int32), number_N.astype(np.int64), codes_N.astype(np.int32)


@given(recordings())
def test_stitched_documents_hold_neighbours_in_order_once_and_not_too_many(found) -> None:
    spans, speaker_N, number_N, codes_N = found
    chains = stitch(spans, speaker_N, number_N, codes_N, max_gap_sec=1.0, max_codes=ROOM)
    seen: list[int] = []
    for i in np.flatnonzero(chains.length_N).tolist():
        segments = chains.samples(i)
        seen += segments
        assert chains.length_N[i] == codes_N[list(segments)].sum() <= ROOM
        for a, b in itertools.pairwise(segments):
            assert (spans.recording_N[a], speaker_N[a]) == (spans.recording_N[b], speaker_N[b])
            assert number_N[b] == number_N[a] + 1
            assert -0.02 <= spans.start_sec_N[b] - spans.end_sec_N[a] <= 1.0 + 1e-9
    assert len(seen) == len(set(seen))
    assert set(seen) == _with_a_neighbour(spans, speaker_N, number_N)


def _with_a_neighbour(spans: Spans, speaker_N: np.ndarray, number_N: np.ndarray) -> set[int]:
    """Samples that a stitched document must hold, found one by one."""
    at: dict[tuple[int, int, int], int] = {}
    for i, recording in enumerate(spans.recording_N.tolist()):
        if recording >= 0 and speaker_N[i] >= 0:
            at[recording, int(speaker_N[i]), int(number_N[i])] = i
    kept = set()
    for (recording, speaker, number), a in at.items():
        b = at.get((recording, speaker, number + 1))
        if b is not None and spans.start_sec_N[b] - spans.end_sec_N[a] <= 1.0:
            kept |= {a, b}
    return kept


@given(recordings())
def test_a_stitched_document_ends_only_where_the_next_segment_is_no_neighbour_or_has_no_room(found) -> None:
    spans, speaker_N, number_N, codes_N = found
    all_of_a_run = stitch(spans, speaker_N, number_N, codes_N, max_gap_sec=1.0, max_codes=10**6)
    chains = stitch(spans, speaker_N, number_N, codes_N, max_gap_sec=1.0, max_codes=ROOM)
    for i in np.flatnonzero(chains.length_N).tolist():
        following = all_of_a_run.next_N[chains.samples(i)[-1]]
        assert following == -1 or chains.length_N[i] + codes_N[following] > ROOM


def test_numbers_against_times_are_found() -> None:
    spans = Spans(np.zeros(4, np.int32), np.array([0.0, 9.0, 4.0, 12.0]), np.array([1.0, 10.0, 5.0, 13.0]))
    with pytest.raises(OrderContradictionError) as caught:
        stitch(spans, np.zeros(4, np.int32), np.arange(4), np.ones(4, np.int32), 1.0, ROOM)
    assert (caught.value.earlier, caught.value.later, caught.value.count) == (1, 2, 1)


@given(st.integers(0, 10**6), st.integers(2, 3_000))
def test_a_continuation_is_cut_between_a_fifth_and_four_fifths_a_second_from_either_end(i: int, num: int) -> None:
    cut = num_prompt_codes(i, num)
    assert 0 < cut < num
    if num >= 100:
        assert 50 <= cut <= num - 50
    if num >= 250:
        assert 0.2 * num - 1 <= cut <= 0.8 * num


def write_recordings(world: World, path: Path, gaps: dict[int, float] | None = None) -> dict[str, int]:
    """Two recordings of 12 segments; codes of each are its own number. Gives the codes of each sample."""
    lengths = {}
    writer = StoreWriter(
        path,
        name="long",
        codec=CODEC,
        tokenizer=TextTokenizer.load(world.tokenizer),
        normalization_version="1",
        licence="CC0-1.0",
        shard_bytes=400,
    )
    with writer:
        for recording in range(2):
            clock = 0.0
            for number in range(12):
                clock += (gaps or {}).get(number, 0.2)
                num_codes = 15 + number
                sample_id = f"r{recording}-{number}"
                writer.add_speech(
                    SampleInfo(
                        sample_id=sample_id,
                        dataset_source="talks",
                        language="en",
                        speaker_id=f"s{recording}",
                        source_video_id=f"v{recording}",
                        segment_order=number,
                        start_time=clock,
                        end_time=clock + num_codes / 50,
                    ),
                    np.full(num_codes, 100 * recording + number, np.uint16),
                )
                lengths[sample_id] = num_codes
                clock += num_codes / 50
    return lengths


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), num_samples=6)


def stitched(world: World, path: Path, max_gap_sec: float = 0.5) -> DataPlan:
    source = SourceConfig(name="long", store=str(path), task="speech", share=1.0, stitch_gap_sec=max_gap_sec)
    return DataPlan.load(with_training(world.config(source), seq_len=128, global_batch_tokens=1_280))


def test_packs_of_stitched_speech_hold_whole_documents_with_their_segments_in_order(world: World, tmp_path) -> None:
    write_recordings(world, tmp_path / "talks", gaps={6: 2.0})
    plan = stitched(world, tmp_path / "talks")
    vocabulary, parts = plan.vocabulary, defaultdict(list)
    num_packs = int(plan.streams[0].stream.counts.num_packs)
    for slot in range(num_packs):
        pack, begin = plan.pack(slot), 0
        for ref in plan.sample_refs(pack):
            ids = pack.ids_S[begin : begin + ref.stop]
            begin += ref.stop
            assert ids[0] == vocabulary.bos_id
            assert vocabulary.ids_to_codes(ids[2:-1]).tolist() == [
                code
                for recording, number in (map(int, sample_id[1:].split("-")) for sample_id in ref.sample_ids)
                for code in [100 * recording + number] * (15 + number)
            ]
            numbers = [int(sample_id.split("-")[1]) for sample_id in ref.sample_ids]
            assert numbers == list(range(numbers[0], numbers[-1] + 1))
            assert not numbers[0] < 6 <= numbers[-1]  # the wide gap
            parts[ref.sample_ids[0][:2]] += numbers
    assert all(sorted(numbers) == list(range(12)) for numbers in parts.values())
    assert len(parts) == 2


def test_stitched_numbers_against_times_are_named(world: World, tmp_path, monkeypatch) -> None:
    write_recordings(world, tmp_path / "talks")
    read = Part.column

    def reversed_numbers(part: Part, name: str) -> pa.ChunkedArray:
        values = read(part, name)
        if name != "segment_order":
            return values
        return pa.chunked_array([pa.array([20 - number for number in values.to_pylist()], pa.int32())])

    monkeypatch.setattr(Part, "column", reversed_numbers)
    with pytest.raises(DataError, match=r"numbered against their times: r\d-\d+ is number .* more such pairs"):
        stitched(world, tmp_path / "talks")


def test_a_part_without_neighbours_says_what_stitching_needs(world: World) -> None:
    source = world.source("speech", 1.0, stitch_gap_sec=0.5, datasets=("wild",))
    with pytest.raises(DataError, match=r"0 stitched documents(.|\n)*segment_order(.|\n)*raise stitch_gap_sec"):
        DataPlan.load(world.config(source))


def test_wrong_stitching_settings_are_named_and_the_gap_is_in_the_fingerprint(world: World, tmp_path) -> None:
    write_recordings(world, tmp_path / "talks")
    first, second = (stitched(world, tmp_path / "talks", gap).fingerprint for gap in (0.5, 0.6))
    assert first != second
    source = SourceConfig(name="x", store="s", task="tts", share=1.0, stitch_gap_sec=-1.0)
    data = DataConfig(source=(source,))
    found = [str(finding) for finding in (*check_sources(data), *check_bounds(data))]
    assert len(found) == 2
    assert "stitching of task tts" in found[0]
