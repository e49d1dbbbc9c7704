"""Phases: streams go on where they stood under new lengths, weights and stores; undeclared changes are told."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.listed_documents import blocks_of, counts_of, partitioned
from tests.support.plan_samples import SEQ_LEN, World, make_world, with_training
from titan_speech.checkpoint.commit import MARKER
from titan_speech.checkpoint.initial_load import later_phase
from titan_speech.config.schema import SpeechConfig
from titan_speech.data.inspect import show_lines
from titan_speech.data.loader import SpeechDataLoader
from titan_speech.data.packing import PackingRules
from titan_speech.data.phase_files import PHASES_DIR, continued_from, phase_end, write_phases, write_step
from titan_speech.data.phase_report import phases_json, phases_text, summarize_phases
from titan_speech.data.phases import PhaseEnd
from titan_speech.data.plan import DataPlan
from titan_speech.data.shuffle_partitions import PartitionedStream, partition_of_turn, resume_stream
from titan_speech.data.streams import PartitionStream, SplitStream, WholeStream
from titan_speech.errors import CheckpointError, ConfigError
from titan_speech.tokenization.prompt_template import Grammar
from titan_speech.tokenization.text_tokenizer import TextTokenizer

LENGTHS = np.random.default_rng(3).integers(3, 90, 150).tolist()
SEQ_LENS = (32, 48, 64, 100)
segments_of = st.lists(st.tuples(st.sampled_from(SEQ_LENS), st.booleans(), st.integers(0, 60)), min_size=1, max_size=6)
Read = dict[int, list[tuple[int, int]]]


def read_segments(
    kind: type[PartitionStream], segments: list[tuple[int, bool, int]], min_partition_blocks: int
) -> tuple[PartitionedStream, Read]:
    """(document, token) pairs of each partition in the order read, over phases with other rules."""
    blocks = blocks_of(LENGTHS, block_documents=6, min_partition_blocks=min_partition_blocks)
    done: list[tuple[PackingRules, int]] = []
    read: Read = {}
    turn = 0
    for seq_len, split, num_packs in segments:
        rules = PackingRules(seq_len, split and kind is WholeStream)
        fresh = partitioned(kind, "k", blocks, rules)
        stream = resume_stream(fresh, "k", done)
        for j in range(num_packs):
            pieces = stream.pieces(j)
            assert sum(piece.stop - piece.start for piece in pieces) <= seq_len
            partition = read.setdefault(partition_of_turn(turn + j, stream.num_partitions), [])
            partition += [(piece.document, token) for piece in pieces for token in range(piece.start, piece.stop)]
        turn += num_packs
        done.append((rules, num_packs))
    return resume_stream(partitioned(kind, "k", blocks, PackingRules(64)), "k", done), read


def documents_of(stream: PartitionedStream, number: int) -> range:
    partition = stream.partitions[number]
    return range(stream.blocks.slices(partition.start)[0][0], stream.blocks.slices(partition.stop - 1)[0][1])


@settings(max_examples=12)
@given(segments_of, st.sampled_from([4, 1_000]))
def test_a_split_stream_reads_its_token_sequence_without_gap_or_overlap_across_phases(
    segments, min_partition_blocks
) -> None:
    stream, read = read_segments(SplitStream, segments, min_partition_blocks)
    for number, tokens in read.items():
        one_pack_at_a_time = partitioned(SplitStream, "k", stream.blocks, PackingRules(1)).partition(number)
        expected = [(p.document, p.start) for j in range(len(tokens)) for p in one_pack_at_a_time.pieces(j)]
        assert tokens == expected


@settings(max_examples=12)
@given(segments_of, st.sampled_from([4, 1_000]))
def test_a_whole_stream_reads_what_fits_once_an_epoch_across_phases(segments, min_partition_blocks) -> None:
    """Every token of samples that fit all phases comes equally often, but for the epoch that is going on."""
    stream, read = read_segments(WholeStream, segments, min_partition_blocks)
    shortest = min(seq_len for seq_len, _, num_packs in segments if num_packs or len(segments) == 1)
    for number, tokens in read.items():
        times = Counter(tokens)
        documents = documents_of(stream, number)
        done = {stream.partition(number).start.epoch}
        assert set(times) <= {(i, t) for i in documents for t in range(LENGTHS[i])}
        for i in documents:
            of_document = {times[i, t] for t in range(LENGTHS[i])}
            if LENGTHS[i] <= shortest:
                assert len(of_document) == 1, f"document {i} was read in part"
                assert of_document <= {*done, max(done) + 1}
            else:
                assert max(of_document) <= max(done) + 1


@settings(max_examples=12)
@given(st.sampled_from([SplitStream, WholeStream]), segments_of, st.integers(0, 40), st.integers(0, 10**6))
def test_where_a_phase_begins_follows_from_what_was_read_alone(kind, segments, more: int, jump: int) -> None:
    """Segments in one go or in two of equal rules, and any pack without those before it."""
    blocks = blocks_of(LENGTHS, block_documents=6, min_partition_blocks=4)
    rules = PackingRules(64)
    done = [(PackingRules(seq_len, split and kind is WholeStream), n) for seq_len, split, n in segments]
    at_once = resume_stream(partitioned(kind, "k", blocks, rules), "k", [*done, (rules, more)])
    in_two = resume_stream(
        partitioned(kind, "k", blocks, rules), "k", [*done, (rules, more // 2), (rules, more - more // 2)]
    )
    straight = resume_stream(partitioned(kind, "k", blocks, rules), "k", done)
    for j in (jump, 0, 1, 7):
        assert at_once.pieces(j) == in_two.pieces(j) == straight.pieces(more + j)


def test_equal_rules_go_on_as_if_there_were_no_border() -> None:
    for kind in (SplitStream, WholeStream):
        blocks = blocks_of(LENGTHS, block_documents=6)
        stream = partitioned(kind, "k", blocks, PackingRules(64))
        later = resume_stream(stream, "k", [(PackingRules(64), 11)])
        assert [later.pieces(j) for j in range(90)] == [stream.pieces(11 + j) for j in range(90)]
        assert counts_of(kind, blocks, PackingRules(64)) == stream.block_counts


def test_a_phase_that_ends_inside_what_another_left_of_a_group_goes_on_there() -> None:
    blocks = blocks_of(LENGTHS, block_documents=50)
    fresh, before = partitioned(WholeStream, "k", blocks, PackingRules(64)), (PackingRules(48), 3)
    straight = resume_stream(fresh, "k", [before])
    for num_packs in (1, 5, 20):
        later = resume_stream(fresh, "k", [before, (PackingRules(64), num_packs)])
        assert [later.pieces(j) for j in range(30)] == [straight.pieces(num_packs + j) for j in range(30)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def planned(config: SpeechConfig, resumed: PhaseEnd | None = None) -> DataPlan:
    tokenizer = TextTokenizer.load(config.tokenizer.path)
    return DataPlan.from_config(config, Grammar(tokenizer.vocabulary()), tokenizer, resumed)


def more_tts(world: World, phase: str, **data) -> SpeechConfig:
    """Other weights, a source less and one more."""
    config = world.config(
        world.source("speech", 0.4, datasets=("wild",)),
        world.source("tts", 0.5, datasets=("prompts",)),
        world.source("instruction", 0.1, datasets=("chat",)),
        phase=phase,
        **data,
    )
    return with_training(config, seq_len=256)


def at_step(plan: DataPlan, step: int) -> PhaseEnd:
    return PhaseEnd(f"run/checkpoint/step-{step}", step, plan.phases)


def pieces_by_stream(plan: DataPlan, steps: range) -> dict[str, list]:
    found: dict[str, list] = {}
    for step in steps:
        for slot in plan.phase.slots(step):
            pack = plan.pack(slot)
            found.setdefault(plan.streams[pack.stream].name, []).extend(pack.pieces)
    return found


def test_two_phases_read_every_sample_of_a_carried_source_once_before_any_twice(world: World) -> None:
    first = planned(world.three_tasks())
    second = planned(more_tts(world, "more-tts"), at_step(first, 7))
    assert [phase.label for phase in second.phases] == ["start", "more-tts"]
    assert second.phase.slots(7) == range(7 * 12, 7 * 12 + 6)
    before, after = pieces_by_stream(first, range(7)), pieces_by_stream(second, range(7, 30))
    for name in ("tts.en", "tts.hi", "tts.ta"):
        documents = [piece.document for piece in before[name] + after[name]]
        assert len(documents) > 120
        assert sorted(documents[:60]) == sorted(documents[60:120]) == list(range(60))
    statuses = {stream.name: stream.status for stream in second.phase.streams}
    assert statuses["speech.en"] == "carried"
    assert statuses["instruction.hi"] == "new"
    assert {stream.name for stream in second.phase.retired} == {"text.en", "text.hi", "text.ta"}
    assert "speech.en: resumed, " in second.describe()
    assert "text.ta: retired" in second.describe()


def test_a_source_that_comes_back_goes_on_where_it_stood(world: World) -> None:
    first = planned(world.three_tasks())
    second = planned(more_tts(world, "b"), at_step(first, 7))
    third = planned(world.three_tasks(phase="c", seed=9), at_step(second, 9))
    before, after = pieces_by_stream(first, range(7)), pieces_by_stream(third, range(9, 11))
    whole = pieces_by_stream(first, range(40))
    for name in ("text.en", "text.hi", "text.ta"):
        joined = [tuple(piece) for piece in [*before[name], *after[name]]]
        assert joined == [tuple(piece) for piece in whole[name]][: len(joined)]
    assert {stream.seed for stream in third.phase.streams} == {0}


def test_going_on_in_a_phase_is_the_phase_uninterrupted_at_any_world_size(world: World) -> None:
    first = planned(world.three_tasks())
    config = more_tts(world, "more-tts")
    second = planned(config, at_step(first, 3))
    resumed = planned(config, at_step(second, 5))
    assert resumed.phases == second.phases
    for slot in (*second.phase.slots(3), *second.phase.slots(6), 10**9):
        assert resumed.pack(slot).pieces == second.pack(slot).pieces
    state = {"next_slot": 36, "phase": first.phase.fingerprint, "phase_label": "start"}
    for ranks in (1, 2, 3):
        for rank in range(ranks):
            loader_config = SpeechDataLoader.Config(plan=second, packs_per_step=6)
            loader = loader_config.build(dp_world_size=ranks, dp_rank=rank, local_batch_size=1)
            loader.load_state_dict(state)
            assert loader.state_dict()["next_slot"] == second.phase.first_slot == 36
            assert len(json.dumps(loader.state_dict())) < 200
            with pytest.raises(CheckpointError, match="position is slot 48 of phase 'start'"):
                loader.load_state_dict({**state, "next_slot": 48})


def test_an_undeclared_change_is_refused_in_words(world: World) -> None:
    first = planned(world.three_tasks())
    with pytest.raises(CheckpointError) as raised:
        planned(more_tts(world, "start", seed=4, too_long="split"), at_step(first, 5))
    message = str(raised.value)
    for line in (
        "step-5 was trained with (phase 'start')",
        "  seq_len 128 -> 256",
        "  seed 0 -> 4",
        "  too_long drop -> split",
        "  source text: left out",
        "  source instruction: added",
        "  source tts: share 30 % -> 50 %",
        "give data.phase a new label",
    ):
        assert line in message


def test_a_changed_store_restarts_its_streams_and_says_what_changed(world: World, tmp_path: Path) -> None:
    (tmp_path / "tokenizer").symlink_to(world.tokenizer)
    other = make_world(tmp_path, num_samples=50)
    first = planned(world.three_tasks())
    with pytest.raises(CheckpointError, match=r"source tts: store .* -> .*(.|\n)*language en: parts changed: prompts"):
        planned(other.three_tasks(), at_step(first, 5))
    sources = [
        replace(source, store=str(other.store)) if source.name == "tts" else source
        for source in world.three_tasks().data.source
    ]
    second = planned(world.config(*sources, phase="new-store"), at_step(first, 5))
    for stream in second.phase.streams:
        assert stream.status == ("restarted" if stream.source == "tts" else "carried")
        assert bool(stream.segments) == (stream.source != "tts")
    assert "tts.en: restarted: parts changed: prompts.en.speech " in second.describe()


def test_a_label_is_used_once(world: World) -> None:
    first = planned(world.three_tasks())
    second = planned(more_tts(world, "b"), at_step(first, 3))
    for config in (world.three_tasks(), more_tts(world, "start")):
        with pytest.raises(CheckpointError, match=r"data\.phase = 'start': that phase of the run has ended"):
            planned(config, at_step(second, 5))
    assert planned(world.three_tasks(), at_step(first, 2)).phases == first.phases  # an older checkpoint knows its own


def test_records_beside_a_checkpoint_suffice_to_go_on(world: World, tmp_path: Path) -> None:
    first = planned(world.three_tasks())
    second = planned(more_tts(world, "b"), at_step(first, 3))
    checkpoints = tmp_path / "run" / "checkpoint"
    for step, plan in ((2, first), (5, second)):
        checkpoint = checkpoints / f"step-{step}"
        checkpoint.mkdir(parents=True)
        write_step(checkpoint, step, plan.phases)
    assert sorted(path.suffix for path in checkpoints.rglob("*") if path.is_file()) == [".json"] * 4
    for step, plan in ((2, first), (5, second)):
        end = phase_end(checkpoints / f"step-{step}")
        assert end is not None
        assert end.phases == plan.phases
        assert end.next_slot == plan.phase.slots(step).start
    assert phase_end(checkpoints / "step-9") is None
    path = checkpoints / PHASES_DIR / f"{first.phase.fingerprint}.json"
    text = path.read_text()
    path.write_text(text.replace('"seed": 0', '"seed": 1'))
    with pytest.raises(CheckpointError, match="is damaged"):
        phase_end(checkpoints / "step-5")
    path.unlink()
    with pytest.raises(CheckpointError, match="is missing: it holds the read position of each data stream"):
        phase_end(checkpoints / "step-5")


def test_a_new_stage_reads_on_where_the_one_before_stopped(world: World, tmp_path: Path) -> None:
    first = planned(world.three_tasks())
    checkpoint = tmp_path / "s1" / "checkpoint" / "step-7"
    with pytest.raises(CheckpointError, match="which holds the read position of each stream"):
        continued_from(checkpoint)
    write_step(checkpoint, 7, first.phases)
    second = planned(more_tts(world, "start", continue_from=str(checkpoint)))
    assert (second.phase.first_slot, second.phase.first_step) == (0, 0)
    whole = pieces_by_stream(planned(with_training(world.three_tasks(), seq_len=SEQ_LEN)), range(7))
    expected = planned(more_tts(world, "x"), at_step(first, 7))
    assert second.pack(0).pieces == expected.pack(expected.phase.first_slot).pieces
    assert whole
    end = PhaseEnd("s2/step-4", 4, second.phases)
    resumed = planned(more_tts(world, "start"), end)  # needs the first stage no more
    assert resumed.pack(100).pieces == second.pack(100).pieces


def test_show_prints_the_packs_of_the_phase_a_run_is_in(world: World, tmp_path: Path) -> None:
    first = planned(world.three_tasks())
    config = more_tts(world, "more-tts")
    config = replace(config, job=replace(config.job, dump_folder=str(tmp_path)))
    second = planned(config, at_step(first, 3))
    checkpoint = tmp_path / "checkpoint" / "step-5"
    checkpoint.mkdir(parents=True)
    write_step(checkpoint, 5, second.phases)
    assert later_phase(config) is None, "a folder without a marker is not a checkpoint"
    (checkpoint / MARKER).touch()
    resumed = later_phase(config)
    slot = second.phase.first_slot + 7
    opening, *_ = show_lines(config, (slot,), color=False, resumed=resumed)
    pack = second.pack(slot)
    name = second.streams[pack.stream].name
    assert opening.startswith(f"slot {slot}  {name} ")
    assert (
        f"pack {second.locate(slot)[1]} of the stream: {len(pack.ids_S):,} tokens, {pack.num_trained_tokens:,}"
        in opening
    )
    with pytest.raises(ConfigError, match="belongs to an earlier phase of the run"):
        list(show_lines(config, (0,), color=False, resumed=resumed))


def test_the_history_of_a_run_is_told(world: World, tmp_path: Path) -> None:
    first = planned(world.three_tasks())
    second = planned(more_tts(world, "more-tts"), at_step(first, 3))
    with pytest.raises(CheckpointError, match="has no data_phases folder"):
        summarize_phases(tmp_path, None)
    write_phases(tmp_path, second.phases)
    checkpoint = tmp_path / "checkpoint" / "step-5"
    write_step(checkpoint, 5, second.phases)
    start, more = summarize_phases(tmp_path, checkpoint)
    assert (start.first_slot, start.end_slot, more.first_slot, more.end_slot) == (0, 36, 36, 48)
    assert sum(stream.num_tokens for stream in start.streams) == 36 * SEQ_LEN == more.first_token
    assert sum(stream.num_tokens for stream in more.streams) == 12 * 2 * SEQ_LEN
    assert json.loads(phases_json(tmp_path, checkpoint))[1]["label"] == "more-tts"
    text = phases_text(tmp_path, checkpoint)
    assert "phase 'more-tts'" in text
    assert "tts.en" in text
    assert "resumed" in text
    assert "text.hi: retired" in text
