"""`align pairs`: a job that is cut ends with the same store, and whatever is wrong is named."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.align.random_policy import RandomPolicy
from tests.support.plan_samples import make_world
from tests.support.preference_samples import write_pairs
from titan_speech.align.answers import seed_of
from titan_speech.align.pairs import RECORD_NAME, PairSettings, make_pairs
from titan_speech.align.prompts import PromptFilter, StorePrompt, StorePrompts, read_prompts
from titan_speech.align.rewards import Term
from titan_speech.align.scorers import CommandScorer, EvaluatorScorer, MeasuresScorer
from titan_speech.config.schema import SpeechConfig
from titan_speech.config.schema_data import DataConfig, SourceConfig
from titan_speech.config.schema_training import PreferenceConfig, TokenizerConfig, TrainingConfig
from titan_speech.data.documents import Documents
from titan_speech.data.paired_documents import PreferenceDocuments
from titan_speech.data.plan import DataPlan
from titan_speech.data.sources import documents_of
from titan_speech.data.unread_samples import count_unread
from titan_speech.errors import DataError
from titan_speech.evaluate.scorer_choice import ScorerChoice, open_scorers
from titan_speech.generate.sampling import Decoding, Generated
from titan_speech.store.held_out_choice import HeldOutOptions, make_held_out_set
from titan_speech.store.reader import open_store
from titan_speech.store.verify import verify_store
from titan_speech.tokenization.prompt_template import Grammar, Task
from titan_speech.tokenization.text_tokenizer import TextTokenizer

DECODING = Decoding(temperature=1.0, max_codes=30)


@dataclass
class Setting:
    policy: RandomPolicy
    prompts: StorePrompts
    settings: PairSettings

    def run(self, scorer: Any = None) -> Any:
        return make_pairs(self.policy, self.prompts, scorer or MeasuresScorer(self.policy.grammar), self.settings)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_world(tmp_path_factory.mktemp("world"), num_samples=8)


@pytest.fixture
def setting(world: Any, tmp_path: Path) -> Setting:
    tokenizer = TextTokenizer.load(world.tokenizer)
    prompts = read_prompts(str(world.store), PromptFilter(limit=9), tokenizer)
    terms = (Term("num_codes", 1.0),)
    settings = PairSettings(tmp_path / "pairs", 4, DECODING, terms, 0.5, "native")
    return Setting(RandomPolicy(tokenizer), prompts, settings)


def test_the_store_is_sound_and_is_read_as_pairs(setting: Setting, world: Any) -> None:
    result = setting.run()
    output = setting.settings.output
    assert not verify_store(output).problems
    assert len(result.pairs) == 9
    for pair in result.pairs:
        assert len(pair.chosen.codes_F) > len(pair.rejected.codes_F)
    config = SpeechConfig(
        tokenizer=TokenizerConfig(path=str(world.tokenizer)),
        data=DataConfig(
            source=(SourceConfig(name="pairs", store=str(output), task="preference", share=1.0, train_on="target"),)
        ),
        training=TrainingConfig(seq_len=128, global_batch_tokens=512, target_tokens=4096),
        preference=PreferenceConfig(loss="dpo"),
    )
    plan = DataPlan.load(config)
    assert sum(stream.counts.num_documents for stream in plan.streams) == 9
    assert {stream.language for stream in plan.streams} == {"en", "hi", "ta"}


def documents_in(store: Path, grammar: Grammar) -> list[Documents]:
    source = SourceConfig(name="pairs", store=str(store), task="preference", share=1.0, train_on="target")
    return [documents_of(part, source, grammar, 256) for part in open_store(store).parts]


def test_pairs_in_a_voice_are_read_as_what_was_answered(setting: Setting, world: Any) -> None:
    tokenizer = TextTokenizer.load(world.tokenizer)
    prompts = read_prompts(str(world.store), PromptFilter(max_clone_tokens=128), tokenizer)
    settings = replace(setting.settings, task="clone")
    policy = RandomPolicy(tokenizer)
    result = replace(setting, policy=policy, prompts=prompts, settings=settings).run()
    assert not verify_store(settings.output).problems
    by_name = {prompt.sample_id: prompt for prompt in prompts.prompts}
    answers = {pair.sample_id: pair for pair in result.pairs}
    num_read, read = 0, documents_in(settings.output, policy.grammar)
    assert not count_unread(read)
    for documents in read:
        assert isinstance(documents, PreferenceDocuments)
        for i in np.flatnonzero(documents.lengths(0, documents.num_documents)).tolist():
            name = documents.part.row(i).sample_id.removesuffix("/chosen")
            assert documents.part.row(documents.samples(i)[0]).sample_id == f"{name}/voice"
            prefix_T = policy.grammar.prefix(Task.CLONE, by_name[name].parts)
            pair = answers[name]
            for (number, num_tokens), answer in zip(documents.answers(i), (pair.chosen, pair.rejected), strict=True):
                document = documents.document(number)
                assert len(document.ids_T) == num_tokens
                assert np.array_equal(document.ids_T[: document.num_prefix_tokens], prefix_T)
                codes_F = policy.grammar.vocabulary.ids_to_codes(document.ids_T[len(prefix_T) : -1])
                assert np.array_equal(codes_F, answer.codes_F)
            num_read += 1
    assert num_read == len(result.pairs) > 0


def test_a_held_out_set_of_pairs_in_a_voice_has_their_voices(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs", num_pairs=24, voices=True)
    make_held_out_set([tmp_path / "pairs"], tmp_path / "gold", HeldOutOptions(num_ce=4, num_decode=0))
    held = [part.row(i).sample_id for part in open_store(tmp_path / "gold").parts for i in range(part.num_samples)]
    names = {one.rpartition("/")[0] for one in held}
    assert sorted(held) == sorted(f"{name}/{end}" for name in names for end in ("chosen", "rejected", "voice"))
    read = documents_in(tmp_path / "gold", Grammar(TextTokenizer.load("tokenizer/tiny").vocabulary()))
    assert sum(int((one.lengths(0, one.num_documents) > 0).sum()) for one in read) == len(names) > 0


def test_the_record_has_what_the_pairs_depend_on(setting: Setting) -> None:
    setting.run()
    record = json.loads((setting.settings.output / RECORD_NAME).read_text())
    assert record["weights"] == "0"
    assert record["scorer"] == "measures 1"
    assert record["decoding"]["seed"] == 0
    assert record["reward"] == ["num_codes=1"]
    assert record["prompts"] == setting.prompts.manifest.fingerprint
    assert len(record["pairs"]) == 9
    assert all(pair["chosen"]["reward"] > pair["rejected"]["reward"] for pair in record["pairs"])


def codes_of(store: Path) -> dict[str, bytes]:
    parts = open_store(store).parts
    return {part.row(i).sample_id: part.codes(i).tobytes() for part in parts for i in range(part.num_samples)}


def test_a_job_that_was_cut_continues_to_the_same_store(setting: Setting, tmp_path: Path) -> None:
    straight = replace(setting.settings, output=tmp_path / "straight")
    make_pairs(setting.policy, setting.prompts, MeasuresScorer(setting.policy.grammar), straight)
    cut = RandomPolicy(setting.policy.tokenizer, cut_after=4)
    with pytest.raises(KeyboardInterrupt):
        replace(setting, policy=cut).run()
    journal = setting.settings.journal / "answers.jsonl"
    journal.write_bytes(journal.read_bytes() + b'{"prompt": "half a li')
    assert not setting.settings.output.exists()
    second = RandomPolicy(setting.policy.tokenizer)
    replace(setting, policy=second).run()
    assert len(second.asked) == 5
    assert codes_of(setting.settings.output) == codes_of(straight.output)


def test_another_reward_picks_again_without_sampling(setting: Setting, tmp_path: Path) -> None:
    setting.run()
    setting.settings.output.rename(tmp_path / "first")
    second = RandomPolicy(setting.policy.tokenizer)
    shorter = replace(setting.settings, terms=(Term("num_codes", -1.0),))
    result = replace(setting, policy=second, settings=shorter).run()
    assert second.asked == []
    assert all(len(pair.chosen.codes_F) < len(pair.rejected.codes_F) for pair in result.pairs)


def test_answers_of_other_settings_are_not_mixed(setting: Setting, tmp_path: Path) -> None:
    setting.run()
    setting.settings.output.rename(tmp_path / "first")
    other = replace(setting.settings, decoding=replace(DECODING, temperature=0.5))
    with pytest.raises(DataError, match=r"answers of another job: decoding was .*'temperature': 1.0"):
        replace(setting, settings=other).run()


def test_an_output_that_exists_stays_as_it_is(setting: Setting) -> None:
    setting.run()
    before = codes_of(setting.settings.output)
    with pytest.raises(DataError, match="a store is never changed"):
        setting.run()
    assert codes_of(setting.settings.output) == before


def test_a_constant_reward_is_named_and_leaves_no_store(setting: Setting) -> None:
    constant = replace(setting.settings, terms=(Term("loop", -1.0),))
    with pytest.raises(DataError, match=r"9 with equal rewards\. The reward is constant"):
        replace(setting, settings=constant).run()
    assert not setting.settings.output.exists()


def test_a_reward_of_no_score_is_named_before_anything_is_sampled(setting: Setting) -> None:
    unknown = replace(setting.settings, terms=(Term("wer", -1.0),))
    with pytest.raises(DataError, match="no score is called wer; there are code_entropy_bits"):
        replace(setting, settings=unknown).run()
    assert setting.policy.asked == []


class DemoCodec:
    """Sound of 320 samples per code; how often it is asked is counted."""

    name, codec_hash, sample_rate, frame_rate_hz = "demo", "0" * 16, 16_000, 50.0

    def __init__(self) -> None:
        self.num_decoded = 0

    def decode(self, codes_F: np.ndarray) -> np.ndarray:
        self.num_decoded += 1
        return np.repeat((codes_F / 65_536 - 0.5).astype(np.float32), 320)


def test_the_scorers_of_evaluations_hear_each_answer_decoded_once(setting: Setting) -> None:
    codec: Any = DemoCodec()
    with open_scorers(ScorerChoice()) as (scorers, _):
        scorer = EvaluatorScorer(scorers, codec, MeasuresScorer(setting.policy.grammar))
        by_duration = replace(setting.settings, terms=(Term("duration_ratio", 1.0, 1.0),))
        result = replace(setting, settings=by_duration).run(scorer)
    assert codec.num_decoded == 9 * (4 + 1)  # answers and recordings
    for pair in result.pairs:
        assert pair.chosen_reward == abs(pair.chosen.scores["duration_ratio"] - 1)
    record = json.loads((setting.settings.output / RECORD_NAME).read_text())
    assert record["scorer"].startswith("evaluator {")
    assert codec.codec_hash in record["scorer"]


def test_prompts_too_long_for_an_answer_are_counted(setting: Setting) -> None:
    with pytest.raises(DataError, match=r"9 with prompts too long for an answer\. Give shorter prompts"):
        replace(setting, policy=RandomPolicy(setting.policy.tokenizer, max_positions=5)).run()


def test_seeds_differ_by_prompt_and_seed() -> None:
    assert len({seed_of("a", 0), seed_of("b", 0), seed_of("a", 1)}) == 3


PROGRAM = """
import json, sys
print(json.dumps({{"name": "mine", "version": 3}}), flush=True)
for number, line in enumerate(sys.stdin):
    asked = json.loads(line)
    {act}
    print(json.dumps({{"scores": [{{"sum": sum(codes) % 97}} for codes in asked["answers"]]}}), flush=True)
"""


def program(folder: Path, act: str = "pass") -> str:
    path = folder / "scorer.py"
    path.write_text(PROGRAM.format(act=act))
    return f"{sys.executable} {path}"


def scores(scorer: CommandScorer, prompts: Sequence[StorePrompt]) -> list[dict[str, float]]:
    return scorer.score(prompts[0], [Generated(np.array([1, 2], np.uint16), True)] * 2)


def test_a_program_scores(setting: Setting, tmp_path: Path) -> None:
    scorer = CommandScorer(program(tmp_path), 20)
    try:
        assert (scorer.name, scorer.version) == ("mine", "3")
        assert scores(scorer, setting.prompts.prompts) == [{"sum": 3.0}, {"sum": 3.0}]
        by_sum = replace(setting.settings, terms=(Term("sum", 1.0),))
        result = replace(setting, settings=by_sum).run(scorer)
        assert all(pair.chosen_reward == sum(map(int, pair.chosen.codes_F)) % 97 for pair in result.pairs)
    finally:
        scorer.close()


@pytest.mark.parametrize(
    ("act", "message"),
    [
        ("sys.exit('out of memory')", "ended with code 1; its last words: out of memory"),
        ("print('hello', flush=True)", "'hello', which is not JSON"),
        ("print('{\"scores\": []}', flush=True)", "asked for the scores of 2 answers"),
        ('print(\'{"scores": [{"a": "b"}, {}]}\', flush=True)', "not names with numbers"),
        ("import time; time.sleep(60)", "gave no answer in 1 s"),
    ],
)
def test_a_program_that_fails_is_named(act: str, message: str, setting: Setting, tmp_path: Path) -> None:
    scorer = CommandScorer(program(tmp_path, act), 20)
    scorer.timeout_sec = 1 if "sleep" in act else 20
    try:
        with pytest.raises(DataError, match=r"the scorer .*scorer\.py") as caught:
            scores(scorer, setting.prompts.prompts)
        assert message in str(caught.value)
    finally:
        scorer.close()


def test_a_program_that_reads_nothing_is_too_slow(setting: Setting, tmp_path: Path) -> None:
    (tmp_path / "deaf.py").write_text(
        'import time\nprint(\'{"name": "deaf", "version": 1}\', flush=True)\ntime.sleep(60)'
    )
    scorer = CommandScorer(f"{sys.executable} {tmp_path / 'deaf.py'}", 20)
    scorer.timeout_sec = 1
    try:
        with pytest.raises(DataError, match="did not read what it was asked in 1 s"):
            scorer.score(setting.prompts.prompts[0], [Generated(np.zeros(100_000, np.uint16), True)])
    finally:
        scorer.close()


def test_a_program_that_dies_leaves_what_is_done(setting: Setting, tmp_path: Path) -> None:
    dies = CommandScorer(program(tmp_path, "number == 3 and sys.exit('broken')"), 20)
    by_sum = replace(setting, settings=replace(setting.settings, terms=(Term("sum", 1.0),)))
    try:
        with pytest.raises(DataError, match=r"broken\. Prompts that are done are kept"):
            by_sum.run(dies)
    finally:
        dies.close()
    assert len((setting.settings.journal / "answers.jsonl").read_text().splitlines()) == 3
    scorer = CommandScorer(program(tmp_path), 20)
    second = RandomPolicy(setting.policy.tokenizer)
    try:
        replace(by_sum, policy=second).run(scorer)
    finally:
        scorer.close()
    assert len(second.asked) == 6


def test_a_program_that_cannot_start_is_named() -> None:
    with pytest.raises(DataError, match="'/no/such/scorer' cannot be started"):
        CommandScorer("/no/such/scorer")
