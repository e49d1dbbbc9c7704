"""The data plan: every task's packs as the grammar spells them, shares kept, and bad data refused before training."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.plan_samples import LANGUAGES, NUM_SPEAKERS, SEQ_LEN, World, make_world, with_training
from tests.support.store_samples import write_tokenizer
from titan_speech.config.schema import SpeechConfig
from titan_speech.config.schema_data import LanguageRuleConfig
from titan_speech.config.schema_training import TokenizerConfig
from titan_speech.data.order import CYCLE_SLOTS
from titan_speech.data.pack_layout import IGNORE_INDEX, PADDING_PACK_PLAN, PADDING_SLOT, Pack, build_pack, split_labels
from titan_speech.data.plan import DataPlan
from titan_speech.errors import ConfigError, DataError
from titan_speech.store.manifest import CodecInfo
from titan_speech.tokenization.prompt_template import Parts, Task


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def plan(world: World) -> DataPlan:
    return DataPlan.load(world.three_tasks())


def same(a: Pack, b: Pack) -> bool:
    arrays = zip((a.ids_S, a.labels_S, a.positions_S), (b.ids_S, b.labels_S, b.positions_S), strict=True)
    return (a.slot, a.stream, a.pieces) == (b.slot, b.stream, b.pieces) and all(np.array_equal(x, y) for x, y in arrays)


def epoch_packs(plan: DataPlan, stream: int) -> list[Pack]:
    """Every pack of one epoch of a stream of whole samples."""
    packs, slots = [], np.flatnonzero(plan.order.stream_M == stream)
    num_packs = round(plan.streams[stream].stream.counts.num_packs)
    assert num_packs <= len(slots)
    for slot in slots[:num_packs]:
        packs.append(plan.pack(int(slot)))
    return packs


def test_a_pack_depends_on_its_slot_alone(plan: DataPlan, world: World) -> None:
    again = pickle.loads(pickle.dumps(DataPlan.load(world.three_tasks())))
    slots = [0, 1, 2, 50_000, 65_535, 65_536, 10**9, 3]
    found = {slot: plan.pack(slot) for slot in slots}
    for slot in reversed(slots):
        assert same(found[slot], again.pack(slot))
        assert found[slot].slot == slot


def test_packs_of_a_cycle_hold_shares_within_two_packs_of_each_source_and_language(world: World) -> None:
    rule = LanguageRuleConfig(sources=("speech",), alpha=0.5, cap={"en": 0.3}, pin={"hi": 0.5})
    plan = DataPlan.load(world.three_tasks(rules=(rule,)))
    token_share = np.array([stream.share for stream in plan.streams])
    pack_share = token_share / [stream.mean_fill for stream in plan.streams]
    pack_share /= pack_share.sum()
    for key in ("source", "language", "name"):
        names = np.array([getattr(stream, key) for stream in plan.streams])
        for name in set(names):
            read = np.isin(plan.order.stream_M, np.flatnonzero(names == name)).cumsum()
            assert np.abs(read - pack_share[names == name].sum() * np.arange(1, CYCLE_SLOTS + 1)).max() < 2
    speech = [stream.share for stream in plan.streams if stream.source == "speech"]
    assert sum(speech) == pytest.approx(0.6)
    assert speech[LANGUAGES.index("hi")] == pytest.approx(0.3, abs=1e-6)


def test_tokens_read_have_the_shares_asked_for_though_fills_differ(world: World) -> None:
    plan = DataPlan.load(world.three_tasks())
    num_tokens: Counter[str] = Counter()
    for slot in range(6_000):
        pack = plan.pack(slot)
        num_tokens[plan.streams[pack.stream].source] += SEQ_LEN - pack.num_pad_tokens
    total = sum(num_tokens.values())
    for source, share in (("speech", 0.6), ("tts", 0.3), ("text", 0.1)):
        assert num_tokens[source] / total == pytest.approx(share, abs=0.002)


@pytest.mark.parametrize("task", list(Task))
def test_every_task_gives_the_documents_the_grammar_spells(world: World, task: Task) -> None:
    plan = DataPlan.load(world.config(world.source(task, 1.0, datasets=(_dataset(task),))))
    for slot in range(40):
        pack, begin = plan.pack(slot), 0
        for (part, i, start, stop), ref in zip(pack.pieces, plan.sample_refs(pack), strict=True):
            end = begin + stop - start
            documents = plan.streams[pack.stream].documents[part]
            expected = plan.grammar.document(
                task, _parts(task, documents.part, documents.samples(i), pack, plan, begin)
            )
            assert pack.ids_S[begin:end].tolist() == expected.ids_T[start:stop].tolist()
            assert ref.sample_ids[-1].startswith(_dataset(task))
            begin = end


def _dataset(task: Task) -> str:
    texts = {Task.TEXT: "wiki", Task.INSTRUCTION: "chat", Task.SPEECH: "wild"}
    return texts.get(task, "prompts")


def _parts(task: Task, part, samples: tuple[int, ...], pack: Pack, plan: DataPlan, begin: int) -> Parts:
    """What the store holds for the document, put together without the code under test."""
    i = samples[-1]
    if task is Task.SPEECH:
        return Parts(codes=part.codes(i))
    if task is Task.CONTINUATION:
        ids = pack.ids_S[begin:].tolist()
        cut = ids.index(plan.vocabulary.special("<|speech_sep|>")) - 2
        assert 0 < cut < len(part.codes(i))
        return Parts(prompt_codes=part.codes(i)[:cut], codes=part.codes(i)[cut:])
    if task is Task.TTS:
        return Parts(text_ids=part.text(i, "native"), codes=part.codes(i))
    if task is Task.CLONE:
        return Parts(
            ref_text_ids=part.text(samples[0], "native"),
            ref_codes=part.codes(samples[0]),
            text_ids=part.text(i, "native"),
            codes=part.codes(i),
        )
    if task is Task.TEXT:
        return Parts(text_ids=part.tokens(i))
    return Parts(user_ids=part.text(i, "user"), assistant_ids=part.tokens(i))


def test_continuation_prompts_are_a_fifth_to_four_fifths_of_the_sample(world: World) -> None:
    plan = DataPlan.load(world.config(world.source("continuation", 1.0)))
    documents, fractions = plan.streams[0].documents[0], []
    for i in range(documents.num_documents):
        ids = documents.document(i).ids_T.tolist()
        num_prompt = ids.index(plan.vocabulary.special("<|speech_sep|>")) - 2
        if len(ids) > 40:
            fractions.append(num_prompt / (len(ids) - 4))
    assert min(fractions) == pytest.approx(0.2, abs=0.05)
    assert max(fractions) == pytest.approx(0.8, abs=0.05)


def test_clone_pairs_two_segments_of_one_speaker_each_once_as_target_and_once_as_reference(world: World) -> None:
    plan = DataPlan.load(
        with_training(world.config(world.source("clone", 1.0)), seq_len=512, global_batch_tokens=4_096)
    )
    for stream, language in enumerate(LANGUAGES):
        pairs = [ref.sample_ids for pack in epoch_packs(plan, stream) for ref in plan.sample_refs(pack)]
        assert len(pairs) == 60
        for side in (0, 1):
            assert {pair[side] for pair in pairs} == {f"prompts-{language}-{i}" for i in range(60)}
        for reference, target in pairs:
            speakers = {int(sample_id.split("-")[-1]) % NUM_SPEAKERS for sample_id in (reference, target)}
            assert reference != target
            assert len(speakers) == 1


def test_train_on_target_masks_all_before_the_speech(world: World) -> None:
    source = world.source("tts", 1.0, train_on="target")
    plan = DataPlan.load(world.config(source))
    start, end = (plan.vocabulary.special(name) for name in ("<|speech_start|>", "<|speech_end|>"))
    for slot in range(20):
        pack = plan.pack(slot)
        targets = {int(id_) for id_ in split_labels(pack.labels_S)[0] if id_ != IGNORE_INDEX}
        assert end in targets
        assert start not in targets
        assert all(id_ == end or plan.vocabulary.is_code(id_) for id_ in targets)


def test_each_transcript_variant_is_read_where_asked_for(world: World) -> None:
    found = []
    for variant in ("native", "romanized"):
        plan = DataPlan.load(world.config(world.source("tts", 1.0, transcript=variant)))
        found.append(sum(stream.stream.counts.num_tokens for stream in plan.streams))
    assert found[0] > found[1]


def test_the_fingerprint_changes_with_the_order_and_with_nothing_else(world: World, tmp_path: Path) -> None:
    config = world.three_tasks()
    plan = DataPlan.load(config)
    moved = tmp_path / "moved"
    moved.symlink_to(world.store)
    elsewhere = replace(world, store=moved).three_tasks()
    unchanged: list[SpeechConfig] = [
        world.three_tasks(num_workers=2, num_prefetch_batches=9),
        with_training(config, global_batch_tokens=24 * SEQ_LEN, local_batch_packs=4),
        elsewhere,
    ]
    assert {DataPlan.load(other).fingerprint for other in unchanged} == {plan.fingerprint}
    changed = [
        world.three_tasks(seed=1),
        world.three_tasks(too_long="split"),
        world.three_tasks(rules=(LanguageRuleConfig(pin={"en": 0.5}),)),
        with_training(config, seq_len=64, global_batch_tokens=640),
        world.config(*(replace(source, train_on="target") for source in config.data.source)),
    ]
    assert len({DataPlan.load(other).fingerprint for other in [config, *changed]}) == len(changed) + 1
    assert not same(plan.pack(5), DataPlan.load(changed[0]).pack(5))


def test_two_parts_of_a_language_are_one_stream(world: World) -> None:
    plan = DataPlan.load(world.config(world.source("speech", 1.0)))
    assert [stream.name for stream in plan.streams] == [f"speech.{language}" for language in LANGUAGES]
    parts = {ref.part for slot in range(30) for ref in plan.sample_refs(plan.pack(slot))}
    assert parts == {f"{source}.{language}.speech" for source in ("prompts", "wild") for language in LANGUAGES}


def test_a_filler_is_padding_nobody_trains_on(plan: DataPlan) -> None:
    padding = build_pack(PADDING_SLOT, *PADDING_PACK_PLAN, plan.seq_len, plan.vocabulary.pad_id)
    assert set(padding.ids_S.tolist()) == {plan.vocabulary.pad_id}
    assert set(padding.labels_S.tolist()) == {IGNORE_INDEX}
    assert padding.positions_S.tolist() == list(range(SEQ_LEN))


def test_the_table_names_every_stream_its_epochs_and_what_is_dropped(world: World) -> None:
    config = with_training(world.config(world.source("tts", 1.0)), seq_len=48, global_batch_tokens=480)
    plan = DataPlan.load(config)
    table = plan.describe()
    assert all(f"tts     {language}" in table for language in LANGUAGES)
    for stream in plan.streams:
        assert stream.stream.counts.num_too_long > 0
        assert f"{stream.name}: dropped {stream.stream.counts.num_dropped} samples longer than 48 tokens" in table


def refused(config: SpeechConfig) -> str:
    with pytest.raises((DataError, ConfigError)) as raised:
        DataPlan.load(config)
    return str(raised.value)


def test_too_long_samples_stop_the_run_where_asked_with_counts_by_language(world: World) -> None:
    config = world.config(world.source("tts", 1.0), too_long="error")
    message = refused(with_training(config, seq_len=48, global_batch_tokens=480))
    assert all(f"source tts, language {language}: " in message for language in LANGUAGES)
    assert "samples longer than seq_len 48, the longest with" in message
    assert "set data.too_long" in message


def test_fewer_documents_than_one_pack_are_refused(world: World) -> None:
    message = refused(with_training(world.three_tasks(), seq_len=8_192, global_batch_tokens=8_192))
    assert "fewer than one pack of 8,192" in message
    assert "source text, language en: 60 documents with" in message


def test_absent_datasets_languages_kinds_and_transcripts_are_named_together(world: World) -> None:
    message = refused(
        world.config(
            world.source("speech", 0.4, datasets=("wilt",)),
            world.source("text", 0.2, languages=("fr",)),
            world.source("tts", 0.4, transcript="code_mixed"),
        )
    )
    assert "source speech: datasets wilt not in store" in message
    assert "it has prompts, wild" in message
    assert "source text: languages fr not in store" in message
    assert "source tts: task tts needs code_mixed text" in message


def test_a_paired_task_reads_the_parts_that_have_transcripts_unless_one_without_is_named(world: World) -> None:
    plan = DataPlan.load(world.config(world.source("tts", 1.0)))
    assert {documents.part.dataset_source for stream in plan.streams for documents in stream.documents} == {"prompts"}
    message = refused(world.config(world.source("tts", 1.0, datasets=("prompts", "wild"))))
    assert "wild.en.speech (none)" in message


def test_a_tokenizer_other_than_the_stores_is_refused(world: World, tmp_path: Path) -> None:
    other = write_tokenizer(tmp_path / "other", ["quite another text"], vocab_size=300)
    message = refused(replace(world.three_tasks(), tokenizer=TokenizerConfig(path=str(other))))
    assert "was built with tokenizer" in message


def test_stores_of_two_codecs_are_refused(world: World, tmp_path: Path) -> None:
    (tmp_path / "tokenizer").symlink_to(world.tokenizer)
    other = make_world(tmp_path, num_samples=8, codec=CodecInfo("other", "0123"), name="other")
    message = refused(world.config(world.source("speech", 0.5), other.source("tts", 0.5)))
    assert "different codecs" in message


def test_infeasible_limits_are_refused_with_the_limits(world: World) -> None:
    message = refused(world.three_tasks(rules=(LanguageRuleConfig(cap={"*": 0.3}),)))
    assert "cannot all hold; they are 0.1 of the run's tokens apart" in message


def test_a_flipped_bit_is_named_when_its_shard_is_read(tmp_path: Path) -> None:
    world = make_world(tmp_path, num_samples=20)
    shard = next(iter(sorted(world.store.glob("wild.en.speech/*.tokens"))))
    data = bytearray(shard.read_bytes())
    data[3] ^= 4
    shard.write_bytes(data)
    plan = DataPlan.load(world.config(world.source("speech", 1.0, datasets=("wild",), languages=("en",))))
    with pytest.raises(DataError, match=r"wild\.en\.speech/00000\.tokens is damaged"):
        _ = [plan.pack(slot) for slot in range(30)]
