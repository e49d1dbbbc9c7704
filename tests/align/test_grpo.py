"""Reward training: what is TRL's is pinned, what is ours is prompts, rewards, bounds and the way back."""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.plan_samples import make_world
from titan_speech.align import grpo
from titan_speech.align.grpo import MAX_CONSTANT_STEPS, GRPOSettings, Rollouts
from titan_speech.align.prompts import PromptFilter, Prompts, read_prompts
from titan_speech.align.rewards import Term
from titan_speech.align.scorers import MeasuresScorer
from titan_speech.config.schema import SpeechConfig
from titan_speech.config.schema_data import DataConfig, SourceConfig
from titan_speech.config.schema_training import TokenizerConfig, TrainingConfig
from titan_speech.data.plan import DataPlan
from titan_speech.errors import DataError, ModelError
from titan_speech.tokenization.prompt_template import Grammar, Task
from titan_speech.tokenization.text_tokenizer import TextTokenizer

needs_trl = pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="trl is not installed")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_world(tmp_path_factory.mktemp("world"), num_samples=8)


@pytest.fixture(scope="module")
def found(world: Any) -> Prompts:
    return read_prompts(str(world.store), PromptFilter(limit=4), TextTokenizer.load(world.tokenizer))


def rollouts(world: Any, found: Prompts, *terms: Term, **bounds: Any) -> Rollouts:
    grammar = Grammar(TextTokenizer.load(world.tokenizer).vocabulary())
    settings = GRPOSettings(
        model=Path("model"),
        output=Path("output"),
        num_steps=1,
        num_answers=2,
        prompts_per_step=1,
        lr=1e-6,
        beta=0.0,
        temperature=1.0,
        top_k=50,
        max_codes=8,
        save_every=1,
        seed=0,
        terms=terms,
        stop=bounds.get("stop", {}),
        stop_below=bounds.get("stop_below", {}),
        transcript="native",
    )
    return Rollouts(found.prompts, grammar, MeasuresScorer(grammar), settings)


def test_prompts_have_the_ids_that_the_packer_gives_them(world: Any, found: Prompts) -> None:
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


def test_completions_are_scored_as_ids(world: Any, found: Prompts) -> None:
    some = rollouts(world, found, Term("num_codes", 1.0), Term("invalid_tokens", -10.0), Term("stop_failure", -100.0))
    vocabulary, stop_id = some.grammar.vocabulary, some.grammar.stop_id(Task.TTS)
    codes = vocabulary.codes_to_ids(np.array([5, 6, 7], np.uint16)).tolist()
    ids = [found.prompts[0].sample_id] * 3
    assert some.rewards(ids, [[*codes, stop_id], [codes[0], 3, stop_id], codes]) == pytest.approx([3, 1 - 5, 3 - 100])
    assert some.steps[0]["num_codes"] == pytest.approx(7 / 3)
    assert some.steps[0]["stop_failure"] == pytest.approx(1 / 3)


def test_a_mean_beyond_its_bound_is_a_breach_until_it_is_within(world: Any, found: Prompts) -> None:
    some = rollouts(world, found, Term("num_codes", 1.0), stop={"repeats": 0.5}, stop_below={"num_codes": 2})
    vocabulary, stop_id = some.grammar.vocabulary, some.grammar.stop_id(Task.TTS)
    silence = vocabulary.codes_to_ids(np.zeros(8, np.uint16)).tolist()
    speech = vocabulary.codes_to_ids(np.arange(8, dtype=np.uint16)).tolist()
    name = found.prompts[0].sample_id
    some.rewards([name] * 2, [[*silence, stop_id], [*silence[:4], stop_id]])
    assert some.breach == "repeats 0.812 is above 0.5"
    some.rewards([name] * 2, [[*speech, stop_id], [*speech[:4], stop_id]])
    assert some.breach == ""
    some.rewards([name] * 2, [[*speech[:1], stop_id], [*speech[:2], stop_id]])
    assert some.breach == "num_codes 1.5 is below 2"


def test_a_bound_of_no_score_is_named(world: Any, found: Prompts) -> None:
    some = rollouts(world, found, Term("num_codes", 1.0), stop={"wer": 0.5})
    with pytest.raises(DataError, match="no score is called wer, which has a bound"):
        some.rewards([found.prompts[0].sample_id], [[some.grammar.stop_id(Task.TTS)]])


def test_a_reward_that_stays_constant_ends_the_job(world: Any, found: Prompts) -> None:
    some = rollouts(world, found, Term("loop", -1.0))
    ids, completions = [found.prompts[0].sample_id] * 2, [[some.grammar.stop_id(Task.TTS)]] * 2
    for _ in range(MAX_CONSTANT_STEPS - 1):
        some.rewards(ids, completions)
    with pytest.raises(DataError, match="10 steps in a row are all 0: nothing can be learned"):
        some.rewards(ids, completions)


def test_another_trl_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpo, "version", lambda name: "1.17.0")
    with pytest.raises(ModelError, match=r"needs trl 1\.16, found 1\.17\.0: pip install"):
        grpo.require_trl()


@needs_trl
def test_trl_takes_prompts_where_this_version_overrides_it() -> None:
    from trl import GRPOTrainer  # pyright: ignore[reportMissingImports]

    assert list(inspect.signature(GRPOTrainer._tokenize_prompts).parameters) == ["self", "prompts"]
    assert "prompt_ids, images, multimodal_fields = self._tokenize_prompts(prompts)" in inspect.getsource(GRPOTrainer)
