"""Reward training: what is TRL's is pinned, what is ours is prompts, rewards, bounds and the way back."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.plan_samples import make_world
from titan_speech.align import grpo, trl_training
from titan_speech.align.grpo import prepare
from titan_speech.align.prompts import PromptFilter, StorePrompts, read_prompts
from titan_speech.align.rewards import Term
from titan_speech.align.rollouts import MAX_CONSTANT_STEPS, Limits, Rollouts
from titan_speech.align.scorers import MeasuresScorer
from titan_speech.align.trl_training import GRPOSettings
from titan_speech.config.schema import SpeechConfig
from titan_speech.config.schema_data import DataConfig, SourceConfig
from titan_speech.config.schema_training import TokenizerConfig, TrainingConfig
from titan_speech.data.plan import DataPlan
from titan_speech.errors import DataError, HealthError, ModelError
from titan_speech.hf.expand import Expansion
from titan_speech.hf.model_card import ModelRecord
from titan_speech.tokenization.prompt_template import Grammar, Task
from titan_speech.tokenization.text_tokenizer import TextTokenizer


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_world(tmp_path_factory.mktemp("world"), num_samples=8)


@pytest.fixture(scope="module")
def found(world: Any) -> StorePrompts:
    return read_prompts(str(world.store), PromptFilter(limit=4), TextTokenizer.load(world.tokenizer))


def rollouts(world: Any, found: StorePrompts, *terms: Term, **bounds: Any) -> Rollouts:
    grammar = Grammar(TextTokenizer.load(world.tokenizer).vocabulary())
    limits = Limits(bounds.get("stop", {}), bounds.get("stop_below", {}))
    return Rollouts(found.prompts, grammar, bounds.get("scorer") or MeasuresScorer(grammar), terms, limits)


def test_prompts_have_the_ids_that_the_packer_gives_them(world: Any, found: StorePrompts) -> None:
    source = SourceConfig(name="tts", store=str(world.store), task="tts", share=1.0, datasets=("prompts",))
    config = SpeechConfig(
        tokenizer=TokenizerConfig(path=str(world.tokenizer)),
        data=DataConfig(source=(source,)),
        training=TrainingConfig(seq_len=128, global_batch_tokens=512, target_tokens=4096),
    )
    packed = {}
    for stream in DataPlan.load(config).streams:
        for documents in stream.documents:
            for i in range(documents.num_documents):
                document = documents.document(i)
                prefix_T = document.ids_T[: document.num_prefix_tokens]
                packed[documents.part.row(i).sample_id] = prefix_T.tolist()
    some = rollouts(world, found, Term("num_codes", 1.0))
    for prompt in found.prompts:
        assert some.prompt_ids(prompt.sample_id) == packed[prompt.sample_id]


def test_prompts_to_clone_have_the_ids_and_the_reference_that_training_gives_them(world: Any) -> None:
    tokenizer = TextTokenizer.load(world.tokenizer)
    cloned = read_prompts(str(world.store), PromptFilter(limit=4, max_clone_tokens=128), tokenizer)
    source = SourceConfig(name="clone", store=str(world.store), task="clone", share=1.0, datasets=("prompts",))
    config = SpeechConfig(
        tokenizer=TokenizerConfig(path=str(world.tokenizer)),
        data=DataConfig(source=(source,)),
        training=TrainingConfig(seq_len=128, global_batch_tokens=512, target_tokens=4096),
    )
    packed, references = {}, {}
    for stream in DataPlan.load(config).streams:
        for documents in stream.documents:
            for i in range(documents.num_documents):
                if not documents.lengths(i, i + 1)[0]:
                    continue
                reference, target = documents.samples(i)
                name, document = documents.part.row(target).sample_id, documents.document(i)
                packed[name] = document.ids_T[: document.num_prefix_tokens].tolist()
                references[name] = documents.part.row(reference).sample_id
    some = rollouts(world, cloned, Term("num_codes", 1.0))
    for prompt in cloned.prompts:
        assert prompt.voice is not None
        assert prompt.voice.sample_id == references[prompt.sample_id] != prompt.sample_id
        assert some.prompt_ids(prompt.sample_id) == packed[prompt.sample_id]


def test_completions_are_scored_as_ids(world: Any, found: StorePrompts) -> None:
    some = rollouts(world, found, Term("num_codes", 1.0), Term("invalid_tokens", -10.0), Term("stop_failure", -100.0))
    vocabulary, stop_id = some.grammar.vocabulary, some.grammar.stop_id(Task.TTS)
    codes = vocabulary.codes_to_ids(np.array([5, 6, 7], np.uint16)).tolist()
    ids = [found.prompts[0].sample_id] * 3
    assert some.rewards(ids, [[*codes, stop_id], [codes[0], 3, stop_id], codes]) == pytest.approx([3, 1 - 5, 3 - 100])
    assert some.means["num_codes"] == pytest.approx(7 / 3)
    assert some.means["stop_failure"] == pytest.approx(1 / 3)


def test_a_mean_beyond_its_bound_is_a_breach_until_it_is_within(world: Any, found: StorePrompts) -> None:
    some = rollouts(world, found, Term("num_codes", 1.0), stop={"repeats": 0.5}, stop_below={"num_codes": 2})
    vocabulary, stop_id = some.grammar.vocabulary, some.grammar.stop_id(Task.TTS)
    silence = vocabulary.codes_to_ids(np.zeros(8, np.uint16)).tolist()
    speech = vocabulary.codes_to_ids(np.arange(8, dtype=np.uint16)).tolist()
    name = found.prompts[0].sample_id
    some.rewards([name] * 2, [[*silence, stop_id], [*silence[:4], stop_id]])
    assert some.breach({}) == "repeats 0.812 is above 0.5"
    some.rewards([name] * 2, [[*speech, stop_id], [*speech[:4], stop_id]])
    assert some.breach({}) == ""
    some.rewards([name] * 2, [[*speech[:1], stop_id], [*speech[:2], stop_id]])
    assert some.breach({}) == "num_codes 1.5 is below 2"


def test_a_bound_of_no_score_is_named(world: Any, found: StorePrompts) -> None:
    some = rollouts(world, found, Term("num_codes", 1.0), stop={"wer": 0.5})
    some.rewards([found.prompts[0].sample_id], [[some.grammar.stop_id(Task.TTS)]])
    with pytest.raises(DataError, match="no score is called wer, which has a bound"):
        some.breach({})


class VoiceOfSome(MeasuresScorer):
    """A similarity for answers that say something, as a speaker encoder gives."""

    names = MeasuresScorer.names | {"similarity"}

    def score(self, prompt: Any, answers: Any) -> list[dict[str, float]]:
        scores = super().score(prompt, answers)
        return [
            {**one, "similarity": 0.8} if len(answer.codes_F) else one
            for one, answer in zip(scores, answers, strict=True)
        ]


def test_a_bounded_score_counts_where_it_is_and_is_a_breach_where_no_answer_has_it(
    world: Any, found: StorePrompts
) -> None:
    grammar = Grammar(TextTokenizer.load(world.tokenizer).vocabulary())
    bounds = {"stop_below": {"similarity": 0.7}, "scorer": VoiceOfSome(grammar)}
    some = rollouts(world, found, Term("num_codes", 1.0), **bounds)
    code, stop_id = int(grammar.vocabulary.first_code_id), grammar.stop_id(Task.TTS)
    ids = [found.prompts[0].sample_id] * 2
    some.rewards(ids, [[code, stop_id], [stop_id]])
    assert some.breach({}) == ""
    assert some.means["similarity"] == 0.8
    some.rewards(ids, [[stop_id], [stop_id]])
    assert some.breach({}) == "no answer has a score similarity"


def test_an_answer_without_a_score_of_the_reward_has_the_smallest_of_the_step(world: Any, found: StorePrompts) -> None:
    grammar = Grammar(TextTokenizer.load(world.tokenizer).vocabulary())
    terms = (Term("similarity", 1.0), Term("num_codes", -1.0))
    some = rollouts(world, found, *terms, scorer=VoiceOfSome(grammar))
    code, stop_id = int(grammar.vocabulary.first_code_id), grammar.stop_id(Task.TTS)
    ids = [found.prompts[0].sample_id] * 3
    rewards = some.rewards(ids, [[stop_id], [code, stop_id], [code, code, stop_id]])
    assert rewards == pytest.approx([0.8 - 2, 0.8 - 1, 0.8 - 2])
    assert [one["reward"] for one in some.kept[0]["answers"]] == rewards
    with pytest.raises(DataError, match=r"no answer of a step has every score of the reward \(similarity=1, num_codes"):
        some.rewards(ids, [[stop_id]] * 3)


class OfAProgram(VoiceOfSome):
    """Its names are not known before."""

    names = None  # pyright: ignore[reportAssignmentType]


def test_a_bounded_score_that_a_program_has_given_is_a_breach_where_it_is_missing(
    world: Any, found: StorePrompts
) -> None:
    grammar = Grammar(TextTokenizer.load(world.tokenizer).vocabulary())
    bounds = {"stop_below": {"similarity": 0.7}, "scorer": OfAProgram(grammar)}
    some = rollouts(world, found, Term("num_codes", 1.0), **bounds)
    ids, stop_id = [found.prompts[0].sample_id], grammar.stop_id(Task.TTS)
    some.rewards(ids, [[stop_id]])
    with pytest.raises(DataError, match="no score is called similarity"):
        some.breach({})
    some.rewards(ids, [[int(grammar.vocabulary.first_code_id), stop_id]])
    assert some.breach({}) == ""
    some.rewards(ids, [[stop_id]])
    assert some.breach({}) == "no answer has a score similarity"


def test_the_divergence_has_a_bound_too(world: Any, found: StorePrompts) -> None:
    some = rollouts(world, found, Term("num_codes", 1.0), stop={"kl": 0.5})
    some.rewards([found.prompts[0].sample_id], [[some.grammar.stop_id(Task.TTS)]])
    assert some.breach({"kl": 0.4}) == ""
    assert some.breach({"kl": 0.6}) == "kl 0.6 is above 0.5"


def test_a_reward_that_stays_constant_ends_the_job(world: Any, found: StorePrompts) -> None:
    some = rollouts(world, found, Term("loop", -1.0))
    ids, completions = [found.prompts[0].sample_id] * 2, [[some.grammar.stop_id(Task.TTS)]] * 2
    for _ in range(MAX_CONSTANT_STEPS - 1):
        some.rewards(ids, completions)
    with pytest.raises(DataError, match="10 steps in a row are all 0: nothing can be learned"):
        some.rewards(ids, completions)


def write_model(folder: Path) -> Path:
    """What is read of an exported folder before training."""
    model = folder / "model"
    model.mkdir()
    (model / "config.json").write_text('{"max_position_embeddings": 512}')
    (model / "README.md").write_text("# A model")
    ModelRecord(1, "v", "g", (), "w").write(model)
    Expansion("base", "0" * 64, 400, 66_000, "mean", 1.0, 0, "v").write(model)
    return model


@pytest.mark.parametrize(("changes", "stage"), [({"max_codes": 600}, "prompts"), ({}, "policy")])
def test_a_job_that_is_refused_before_its_first_step_leaves_no_folder(
    world: Any,
    found: StorePrompts,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    stage: str,
) -> None:
    """Its prompts are too long, or its model, which has no weights here, is no model."""
    settings = replace(job(tmp_path, model=write_model(tmp_path)), output=tmp_path / "fresh", **changes)
    monkeypatch.setattr(grpo, "require_trl", lambda: None)
    tokenizer = TextTokenizer.load(world.tokenizer)

    def no_model(*_: Any) -> None:
        assert (settings.work / "settings.json").exists()
        raise ModelError("policy: no weights")

    monkeypatch.setattr(grpo, "train_by_trl", no_model)
    with pytest.raises((DataError, ModelError), match=stage):
        grpo.train_grpo(found, tokenizer, MeasuresScorer(Grammar(tokenizer.vocabulary())), settings)
    assert not settings.work.exists()
    settings.work.mkdir()  # of an earlier job
    with pytest.raises((DataError, ModelError), match=stage):
        grpo.train_grpo(found, tokenizer, MeasuresScorer(Grammar(tokenizer.vocabulary())), settings)
    assert settings.work.exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "{}", "found None as max_position_embeddings"),
        ("config.json", '{"max_position_embeddings": "x"}', "found 'x' as max_position_embeddings"),
        ("config.json", '{"max_position_embeddings": 4}', "all 4 prompts are longer"),
        ("README.md", "\udcff", "README.md cannot be read"),
        ("titan_speech.json", '{"step": []}', "titan_speech.json is damaged"),
    ],
)
def test_what_the_export_needs_is_read_before_hours_of_training(
    world: Any, found: StorePrompts, tmp_path: Path, name: str, content: str, message: str
) -> None:
    model = write_model(tmp_path)
    settings = job(tmp_path, model=model)
    tokenizer = TextTokenizer.load(world.tokenizer)
    scorer = MeasuresScorer(Grammar(tokenizer.vocabulary()))
    assert prepare(found, tokenizer, scorer, settings)[0]["weights"] == "w"
    for wrong in (
        replace(settings, terms=(Term("wer", 1.0),)),
        replace(settings, stop={"wer": 1.0}),
        replace(settings, stop={"kl": 1.0}, beta=0.0),
    ):
        with pytest.raises(DataError, match=r"no score is called (wer|kl); there are code_entropy_bits"):
            prepare(found, tokenizer, scorer, wrong)
    (model / name).write_text(content, errors="surrogateescape")
    with pytest.raises((DataError, ModelError), match=message):
        prepare(found, tokenizer, scorer, settings)


@pytest.mark.parametrize("content", ["{}", "[1]", "[" * 100_000, "\udcff", json.dumps([{}] * 2000)])
def test_breaches_that_are_no_list_are_damaged(tmp_path: Path, content: str) -> None:
    (tmp_path / "breaches.json").write_text(content, errors="surrogateescape")
    with pytest.raises(DataError, match=r"breaches\.json is damaged"):
        trl_training.read_breaches(tmp_path)


def test_another_trl_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trl_training, "version", lambda name: "1.17.0")
    with pytest.raises(ModelError, match=r"needs trl 1\.16, found 1\.17\.0: pip install"):
        trl_training.require_trl()


def test_trl_takes_prompts_where_this_version_overrides_it() -> None:
    from trl import GRPOTrainer  # pyright: ignore[reportMissingImports]

    assert list(inspect.signature(GRPOTrainer._tokenize_prompts).parameters) == ["self", "prompts"]
    assert "prompt_ids, images, multimodal_fields = self._tokenize_prompts(prompts)" in inspect.getsource(GRPOTrainer)


def job(tmp_path: Path, **changes: Any) -> GRPOSettings:
    values: dict[str, Any] = {
        "model": tmp_path / "model",
        "output": tmp_path / "grpo",
        "num_steps": 9,
        "num_answers": 2,
        "prompts_per_step": 1,
        "lr": 8e-6,
        "beta": 0.0,
        "temperature": 1.0,
        "top_k": 50,
        "max_codes": 8,
        "save_every": 1,
        "seed": 0,
        "terms": (),
        "stop": {},
        "stop_below": {},
        "transcript": "native",
    }
    settings = GRPOSettings(**values | changes)
    for step in (2, 3, 4):
        (settings.work / f"checkpoint-{step}").mkdir(parents=True)
        (settings.work / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    return settings


def left(settings: GRPOSettings) -> list[str]:
    return sorted(path.name for path in settings.work.glob("checkpoint-*"))


def test_a_breach_goes_back_before_the_weights_that_gave_it_and_halves_the_rate(tmp_path: Path) -> None:
    settings = job(tmp_path, max_breaches=2)
    trl_training.go_back(settings, 5, "kl 2 is above 1", [])
    assert left(settings) == ["checkpoint-2", "checkpoint-3"]
    trl_training.go_back(settings, 4, "kl 3 is above 1", trl_training.read_breaches(settings.work))
    assert left(settings) == ["checkpoint-2"]
    found = trl_training.read_breaches(settings.work)
    assert [(one["step"], one["back_to"], one["lr"]) for one in found] == [(5, 3, 4e-6), (4, 2, 2e-6)]
    with pytest.raises(HealthError, match=r"left its bounds after the rate was lowered 2 times: kl 4 .*is above 1"):
        trl_training.go_back(settings, 4, "kl 4 is above 1", found)
    assert left(settings) == ["checkpoint-2"]


def test_a_checkpoint_that_leads_to_a_breach_once_more_is_left_for_the_one_before_it(tmp_path: Path) -> None:
    settings = job(tmp_path, max_breaches=3)
    for step, back_to in ((5, 3), (5, 2), (4, 0)):
        trl_training.go_back(settings, step, "kl 2 is above 1", trl_training.read_breaches(settings.work))
        assert trl_training.read_breaches(settings.work)[-1]["back_to"] == back_to
    assert left(settings) == []


@pytest.mark.parametrize("state", [None, '{"global_step": 1'])
def test_a_checkpoint_that_a_kill_cut_off_is_not_resumed_from(tmp_path: Path, state: str | None) -> None:
    settings = job(tmp_path)
    cut = settings.work / "checkpoint-6"
    cut.mkdir()
    (cut / "model.safetensors").write_bytes(b"half")
    if state is not None:
        (cut / "trainer_state.json").write_text(state)
    assert trl_training.saved_steps(settings.work) == [2, 3, 4]
    assert left(settings) == ["checkpoint-2", "checkpoint-3", "checkpoint-4"]


def test_without_breaches_to_spare_the_last_good_checkpoint_is_named(tmp_path: Path) -> None:
    settings = job(tmp_path)
    with pytest.raises(HealthError, match=r"step 5 left its bounds: kl 2 is above 1\. The last .*checkpoint-3\."):
        trl_training.go_back(settings, 5, "kl 2 is above 1", [])
    assert left(settings) == ["checkpoint-2", "checkpoint-3", "checkpoint-4"]
    assert trl_training.read_breaches(settings.work) == []


def test_a_model_that_is_beyond_its_bounds_before_training_is_not_trained(tmp_path: Path) -> None:
    with pytest.raises(HealthError, match="is beyond its bounds before it is trained: kl 2 is above 1"):
        trl_training.go_back(job(tmp_path, max_breaches=3), 1, "kl 2 is above 1", [])
