"""`align grpo`: reward training (GRPO) of an exported model by TRL, on prompts of a store, back as an exported model.

In: an exported folder, prompts, a reward and bounds. Out: another exported folder, from which a stage starts
(`[model] initial`), which `generate` reads and pairs are made with, with grpo.json: the base's weights, reward, scorer,
prompts, settings of TRL, reward and scores of every step.

    prompt ids      those of the project's grammar, handed to TRL by `_tokenize_prompts`; never made from text
    completion ids  scored as ids: codes, whether the model stopped, tokens that are no codes
    reward          the terms of rewards.py, of the scores of align/scorers.py
    bounds          of the mean of a score over the completions of a step; a breach ends the job with the last
                    checkpoint within them

Optimization, generation, checkpoints and resume are TRL's and transformers'; WORK keeps its checkpoints, and the same
command continues a job that was killed. TRL's trainer takes text, so its `_tokenize_prompts` is overridden and its
version is fixed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from titan_speech import __version__
from titan_speech.align.answers import check_settings
from titan_speech.align.prompts import Prompt, Prompts
from titan_speech.align.rewards import Term, reward
from titan_speech.align.scorers import Scorer
from titan_speech.errors import DataError, HealthError, ModelError
from titan_speech.generate.measures import measure
from titan_speech.generate.sampling import Generated
from titan_speech.hf.config_json import read_json
from titan_speech.hf.expand import read_expansion
from titan_speech.hf.model_card import read_record
from titan_speech.model.exported_files import (
    CARD_NAME,
    CONFIG_NAME,
    EXPANSION_NAME,
    GENERATION_NAME,
    MODEL_RECORD_NAME,
    find_exported_files,
)
from titan_speech.tokenization.prompt_template import Grammar, Task
from titan_speech.tokenization.text_tokenizer import TextTokenizer
from titan_speech.utils.checksum import sha256_of
from titan_speech.utils.files import write_atomically
from titan_speech.utils.locks import RunLock

logger = logging.getLogger(__name__)

TRL_VERSION = "1.16"
RECORD_NAME, SETTINGS_NAME, STEPS_NAME = "grpo.json", "settings.json", "steps.jsonl"
MAX_CONSTANT_STEPS = 10
"""Steps in a row whose rewards are all equal: nothing is learned, and the job ends."""


@dataclass(frozen=True)
class GRPOSettings:
    """How a model is trained."""

    model: Path
    output: Path
    num_steps: int
    num_answers: int
    prompts_per_step: int
    lr: float
    beta: float
    """Weight of the divergence from the base; 0: none, and no second model in memory."""
    temperature: float
    top_k: int
    max_codes: int
    save_every: int
    seed: int
    terms: tuple[Term, ...]
    stop: Mapping[str, float]
    """Upper bounds of mean scores."""
    stop_below: Mapping[str, float]
    """Lower bounds of mean scores."""
    transcript: str

    @property
    def work(self) -> Path:
        """Where TRL's checkpoints are."""
        return self.output.with_name(f"{self.output.name}.work")


def require_trl() -> None:
    """Refuse a missing or another TRL.

    Raises:
        ModelError: with what to install.
    """
    try:
        found = version("trl")
    except PackageNotFoundError:
        found = "none"
    if not found.startswith(f"{TRL_VERSION}."):
        raise ModelError(
            f"align grpo needs trl {TRL_VERSION}, found {found}: pip install 'trl=={TRL_VERSION}.*' accelerate "
            "datasets, in an environment of its own"
        )


class Rollouts:
    """Scores, rewards and bounds of what a model says, step by step."""

    def __init__(self, prompts: Sequence[Prompt], grammar: Grammar, scorer: Scorer, settings: GRPOSettings) -> None:
        self.prompts = {prompt.sample_id: prompt for prompt in prompts}
        self.grammar, self.scorer, self.settings = grammar, scorer, settings
        self.steps: list[dict[str, float]] = []
        """Mean reward and scores of the steps of this start."""
        self.breach = ""
        """Which bound was left; empty while all hold."""
        self._num_constant = 0

    def prompt_ids(self, sample_id: str) -> list[int]:
        """Token ids of a prompt, by the project's grammar."""
        return self.grammar.prefix(Task.TTS, self.prompts[sample_id].parts).tolist()

    def rewards(self, sample_ids: Sequence[str], completion_ids: Sequence[Sequence[int]]) -> list[float]:
        """The reward of each completion; the means of a step are kept and held against the bounds.

        Raises:
            DataError: a score is missing or no number, or the rewards have been constant for too long.
        """
        scores: list[dict[str, float]] = [{} for _ in sample_ids]
        for sample_id in dict.fromkeys(sample_ids):
            rows = [row for row, one in enumerate(sample_ids) if one == sample_id]
            prompt, ids = self.prompts[sample_id], [np.array(completion_ids[row], np.int64) for row in rows]
            found = self.scorer.score(prompt, [self._generated(ids_T) for ids_T in ids])
            for row, of_answer, ids_T in zip(rows, found, ids, strict=True):
                scores[row] = {**of_answer, **self._measures(prompt, ids_T)}
        found_rewards = [
            reward(one, self.settings.terms, sample_id) for one, sample_id in zip(scores, sample_ids, strict=True)
        ]
        names = sorted(set.intersection(*({*one} for one in scores)))
        means = {name: float(np.mean([one[name] for one in scores])) for name in names}
        self.steps.append(
            {"reward": float(np.mean(found_rewards)), "reward_std": float(np.std(found_rewards)), **means}
        )
        self._check(means, found_rewards)
        return found_rewards

    def _check(self, means: Mapping[str, float], found_rewards: Sequence[float]) -> None:
        upper, lower = self.settings.stop.items(), self.settings.stop_below.items()
        if missing := [name for name, _ in (*upper, *lower) if name not in means]:
            raise DataError(f"no score is called {missing[0]}, which has a bound; there are {', '.join(means)}")
        above = [f"{name} {means[name]:.3g} is above {bound:g}" for name, bound in upper if means[name] > bound]
        below = [f"{name} {means[name]:.3g} is below {bound:g}" for name, bound in lower if means[name] < bound]
        self.breach = "; ".join([*above, *below])
        self._num_constant = self._num_constant + 1 if max(found_rewards) == min(found_rewards) else 0
        if self._num_constant >= MAX_CONSTANT_STEPS:
            raise DataError(
                f"the rewards of {MAX_CONSTANT_STEPS} steps in a row are all {found_rewards[0]:g}: nothing can be "
                "learned from a constant reward. Give another --reward"
            )

    def _generated(self, ids_T: np.ndarray) -> Generated:
        vocabulary = self.grammar.vocabulary
        stopped = len(ids_T) > 0 and int(ids_T[-1]) == self.grammar.stop_id(Task.TTS)
        return Generated(vocabulary.ids_to_codes(ids_T[vocabulary.is_code(ids_T)]), stopped)

    def _measures(self, prompt: Prompt, ids_T: np.ndarray) -> dict[str, float]:
        """Of all sampled ids, those that are no codes among them."""
        found = measure(
            ids_T,
            stop_id=self.grammar.stop_id(Task.TTS),
            vocabulary=self.grammar.vocabulary,
            num_target_codes=len(prompt.recorded_codes_F),
        )
        return asdict(found)


def train_grpo(found: Prompts, tokenizer: TextTokenizer, scorer: Scorer, settings: GRPOSettings) -> dict[str, Any]:
    """Train, and write the exported folder.

    Args:
        found: the prompts, and the manifest of their store.
        tokenizer: of the model.
        scorer: of answers.
        settings: how, and where to.

    Returns:
        The record that is written as grpo.json.

    Raises:
        DataError: the output exists, prompts leave no room, or a reward is constant or no number.
        HealthError: a bound was left.
        CheckpointError: another process is at it.
    """
    require_trl()
    if settings.output.exists():
        raise DataError(f"{settings.output} exists already; choose another folder or delete it")
    settings.work.mkdir(parents=True, exist_ok=True)
    with RunLock.take(settings.work):
        sampling = _sampling(found, scorer, settings)
        check_settings(settings.work / SETTINGS_NAME, sampling)
        grammar = Grammar(tokenizer.vocabulary())
        rollouts = Rollouts(_that_fit(found.prompts, grammar, settings), grammar, scorer, settings)
        model = _run(rollouts, settings)
        steps = [json.loads(line) for line in (settings.work / STEPS_NAME).read_text().splitlines()]
        record = {"version": __version__, "trl": version("trl"), **sampling, "steps": steps}
        _export(model, settings, record)
    return record


def _that_fit(prompts: Sequence[Prompt], grammar: Grammar, settings: GRPOSettings) -> list[Prompt]:
    """Prompts that leave room for the longest answer."""
    positions = int(read_json(settings.model / CONFIG_NAME, "an exported model")["max_position_embeddings"])
    most = positions - settings.max_codes - 1  # the stop token
    fitting = [prompt for prompt in prompts if prompt.num_prefix_tokens(grammar) <= most]
    if not fitting:
        raise DataError(
            f"all {len(prompts):,} prompts are longer than the {max(most, 0):,} tokens that {positions:,} positions "
            f"leave beside {settings.max_codes:,} codes: lower --max-sec, or give shorter prompts"
        )
    if len(fitting) < len(prompts):
        logger.warning("%d of %d prompts are too long and are left out", len(prompts) - len(fitting), len(prompts))
    return fitting


def _sampling(found: Prompts, scorer: Scorer, settings: GRPOSettings) -> dict[str, Any]:
    kept = asdict(replace(settings, terms=()))
    for name in ("output", "terms", "model"):
        kept.pop(name)
    base = read_record(settings.model)
    return {
        "model": str(settings.model),
        "weights": base.weights,
        "prompts": found.manifest.fingerprint,
        "prompt_ids": hashlib.sha256("\n".join(one.sample_id for one in found.prompts).encode()).hexdigest()[:16],
        "scorer": f"{scorer.name} {scorer.version}",
        "reward": [str(term) for term in settings.terms],
        **kept,
    }


def _run(rollouts: Rollouts, settings: GRPOSettings) -> Any:
    """TRL's trainer to its last step; the model."""
    from datasets import Dataset  # pyright: ignore[reportMissingImports]
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from transformers.trainer_utils import get_last_checkpoint
    from trl import GRPOConfig, GRPOTrainer  # pyright: ignore[reportMissingImports]

    class Trainer(GRPOTrainer):
        """With prompts that are ids: the text of a prompt is the name of its sample."""

        def _tokenize_prompts(self, prompts: list) -> tuple[list[list[int]], None, dict[str, Any]]:
            return [rollouts.prompt_ids(prompt) for prompt in prompts], None, {}

    class Bounds(TrainerCallback):
        """Writes each step, and ends training where a bound is left, before the step is saved."""

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            record = {"step": state.global_step, **rollouts.steps[-1]}
            with (settings.work / STEPS_NAME).open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            if rollouts.breach:
                control.should_save, control.should_training_stop = False, True

    def rewards(prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        return rollouts.rewards(prompts, completion_ids)

    reference = get_last_checkpoint(str(settings.work))
    done = int(reference.rpartition("-")[2]) if reference else 0
    _cut_steps(settings.work / STEPS_NAME, done)
    args = GRPOConfig(
        output_dir=str(settings.work),
        max_steps=settings.num_steps,
        num_generations=settings.num_answers,
        per_device_train_batch_size=settings.num_answers * settings.prompts_per_step,
        max_completion_length=settings.max_codes + 1,
        learning_rate=settings.lr,
        lr_scheduler_type="constant",
        beta=settings.beta,
        temperature=settings.temperature,
        top_k=settings.top_k,
        save_steps=settings.save_every,
        save_total_limit=3,
        logging_steps=1,
        seed=settings.seed,
        report_to="none",
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
    )
    model = AutoModelForCausalLM.from_pretrained(settings.model, dtype="float32")
    names = [{"prompt": sample_id} for sample_id in rollouts.prompts]
    trainer = Trainer(
        model=model,
        reward_funcs=rewards,
        args=args,
        train_dataset=Dataset.from_list(names),
        processing_class=AutoTokenizer.from_pretrained(settings.model, padding_side="left"),
        callbacks=[Bounds()],
    )
    trainer.train(resume_from_checkpoint=reference)
    if rollouts.breach:
        last = get_last_checkpoint(str(settings.work))
        where = f"The last checkpoint within them is {last}" if last else "There is no checkpoint before it"
        raise HealthError(
            f"step {trainer.state.global_step:,} left its bounds: {rollouts.breach}. {where}. The reward is met in a "
            "way that was not meant: give it another term, lower --lr or raise --beta, and another --output"
        )
    return trainer.accelerator.unwrap_model(trainer.model)


def _cut_steps(path: Path, done: int) -> None:
    """Steps after the checkpoint that is resumed are made again."""
    lines = path.read_text().splitlines() if path.exists() else []
    kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= done]
    write_atomically(path, "".join(f"{line}\n" for line in kept))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return sha256_of(file)


def _export(model: Any, settings: GRPOSettings, record: Mapping[str, Any]) -> None:
    """The base's folder with other weights, whole or not at all."""
    partial = settings.output.with_name(f"{settings.output.name}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    weights = sorted(partial.glob("*.safetensors"))
    digest = hashlib.sha256("".join(_sha256(path) for path in weights).encode()).hexdigest()[:16]
    own = {CONFIG_NAME, GENERATION_NAME, *(path.name for path in weights)}
    for name in find_exported_files(settings.model).files:
        if name in own - {CONFIG_NAME, GENERATION_NAME} or name.endswith((".safetensors", ".safetensors.index.json")):
            continue
        (partial / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(settings.model / name, partial / name)
    base = read_record(settings.model)
    replace(base, weights=digest).write(partial)
    expansion = read_expansion(settings.model)
    told = f"{settings.num_steps} steps of GRPO on {expansion.source} (weights {base.weights})"
    replace(expansion, source=told).write(partial)
    card = (settings.model / CARD_NAME).read_text(encoding="utf-8")
    note = f"\n## Reward training\n{told}; {RECORD_NAME} has reward, scorer, prompts and every step.\n"
    write_atomically(partial / CARD_NAME, card + note)
    write_atomically(partial / RECORD_NAME, json.dumps(record, indent=1) + "\n")
    assert {MODEL_RECORD_NAME, EXPANSION_NAME} <= {path.name for path in partial.iterdir()}
    partial.rename(settings.output)
