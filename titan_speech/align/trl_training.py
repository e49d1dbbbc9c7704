"""Reward training by TRL: its trainer on prompts that are ids, with bounds that lower the rate or end the job.

In: rollouts (prompts, rewards and bounds) and settings. Out: the trained model of transformers. Optimization,
generation, checkpoints and resume are TRL's and transformers'. TRL's trainer takes text, so its `_tokenize_prompts` is
overridden, and its version is fixed for that.

Answers of step s come from the weights of step s - 1, so a breach at s says that the checkpoint of s - 1 is not good
any more: the last good one is at most of step s - 2. `max_breaches` breaches go back there and continue with the rate
times `LOWER_BY`; the next one ends the job. A checkpoint from which the bounds are left once more was too close to
them, and the one before it is taken.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from titan_speech.align.job_files import BREACHES_NAME, PARITY_NAME, append_record, append_step, cut_steps
from titan_speech.align.parity import NUM_PROMPTS, measure_parity
from titan_speech.align.rewards import Term
from titan_speech.align.rollouts import KL, LR, REWARD, Rollouts
from titan_speech.errors import DataError, HealthError, ModelError
from titan_speech.tokenization.prompt_template import Task
from titan_speech.utils.files import write_atomically
from titan_speech.utils.json_text import read_json_file
from titan_speech.utils.progress import Progress
from titan_speech.utils.text_table import counted

logger = logging.getLogger(__name__)

TRL_VERSION = "1.16"
LOWER_BY = 0.5
"""The rate after a breach, of the rate before it."""
CHECKPOINTS, CHECKPOINT_END = "checkpoint-", "trainer_state.json"
MAX_BREACHES = 1000
"""Rates below 1e-300 are 0."""


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
    max_breaches: int = 0
    """Breaches after which training continues with a lower rate."""
    task: Literal["tts", "clone"] = "tts"
    """Whose prompts are answered."""
    ratio: Literal["token", "sequence"] = "token"
    """Importance ratio per token (GRPO) or per sequence (GSPO)."""

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
            f"align grpo needs trl {TRL_VERSION}, found {found}: pip install 'titan-speech[align]', or "
            f"'trl=={TRL_VERSION}.*' in this environment"
        )


def read_breaches(work: Path) -> list[dict[str, Any]]:
    """The breaches after which the rate was lowered.

    Raises:
        DataError: the file is damaged.
    """
    path = work / BREACHES_NAME
    if not path.exists():
        return []
    try:
        found = read_json_file(path)
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found) or len(found) > MAX_BREACHES:
            raise ValueError(f"expected a list of at most {MAX_BREACHES} breaches")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}); delete the folder to train again") from error
    return found


def train_by_trl(rollouts: Rollouts, settings: GRPOSettings) -> Any:
    """Train to the last step; the same call continues a job that was killed.

    Raises:
        HealthError: a bound was left once too often.
        ModelError: trainer, transformers and generator disagree before the first step.
        DataError: a score is missing or no number, or the reward stays constant.
    """
    while True:
        breaches = read_breaches(settings.work)
        model, step, breach = _attempt(rollouts, settings, settings.lr * LOWER_BY ** len(breaches))
        if not breach:
            return model
        go_back(settings, step, breach, breaches)


def go_back(settings: GRPOSettings, step: int, breach: str, breaches: list[dict[str, Any]]) -> None:
    """Leave the checkpoints that are beyond the bounds and lower the rate, or end the job."""
    if step == 1:
        raise HealthError(
            f"{settings.model} is beyond its bounds before it is trained: {breach}. Give bounds that it keeps"
        )
    steps = saved_steps(settings.work)
    good = [one for one in steps if one <= step - 2]
    if good and breaches and good[-1] == breaches[-1].get("back_to"):
        good.pop()  # it led here once more
    where = f"The last checkpoint within them is {settings.work / f'{CHECKPOINTS}{good[-1]}'}" if good else ""
    if len(breaches) >= settings.max_breaches:
        times = f" after the rate was lowered {counted(len(breaches), 'time')}" if breaches else ""
        raise HealthError(
            f"step {step:,} left its bounds{times}: {breach}. {where or 'There is no checkpoint within them'}. The "
            "reward is met in a way that was not meant: give it another term, lower --lr or raise --beta, and another "
            "--output"
        )
    for one in steps[len(good) :]:
        _remove(settings.work / f"{CHECKPOINTS}{one}")
    back_to, lr = good[-1] if good else 0, settings.lr * LOWER_BY ** (len(breaches) + 1)
    breaches = [*breaches, {"step": step, "breach": breach, "back_to": back_to, "lr": lr}]
    write_atomically(settings.work / BREACHES_NAME, json.dumps(breaches, indent=1) + "\n")
    logger.warning("step %d left its bounds: %s; back to step %d, with rate %.3g", step, breach, back_to, lr)


def saved_steps(work: Path) -> list[int]:
    """The steps of the whole checkpoints. One that was being written or removed when the job was killed is removed.

    transformers writes its `CHECKPOINT_END` last; it would resume from a folder without it, and end with a traceback.
    """
    whole = []
    for path in work.glob(f"{CHECKPOINTS}*"):
        number = path.name.removeprefix(CHECKPOINTS)
        if not number.isdecimal() or not path.is_dir() or path.is_symlink():
            continue
        try:
            read_json_file(path / CHECKPOINT_END)
        except (OSError, ValueError):
            logger.warning("%s is not whole, and is removed", path)
            _remove(path)
        else:
            whole.append(int(number))
    return sorted(whole)


def _remove(checkpoint: Path) -> None:
    (checkpoint / CHECKPOINT_END).unlink(missing_ok=True)  # half of it is no checkpoint
    shutil.rmtree(checkpoint)


def load_policy(folder: Path) -> Any:
    """The model that is trained, in float32; weights are safetensors, and no code of its folder is run."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype="float32", use_safetensors=True, trust_remote_code=False)


def _attempt(rollouts: Rollouts, settings: GRPOSettings, lr: float) -> tuple[Any, int, str]:
    """TRL's trainer from the last checkpoint to the last step, or to a breach: the model, its step, and the breach."""
    from datasets import Dataset  # pyright: ignore[reportMissingImports]
    from transformers import AutoTokenizer, PrinterCallback, TrainerCallback
    from trl import GRPOTrainer  # pyright: ignore[reportMissingImports]

    breach = ""

    class Trainer(GRPOTrainer):
        """With prompts that are ids: the text of a prompt is the name of its sample."""

        def _tokenize_prompts(self, prompts: list) -> tuple[list[list[int]], None, dict[str, Any]]:
            return [rollouts.prompt_ids(prompt) for prompt in prompts], None, {}

    class StepCallback(TrainerCallback):
        """Sets the rate, which a checkpoint brings along; writes each step, and ends where a bound is left."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
            for group in parts["optimizer"].param_groups:
                group["lr"] = group["initial_lr"] = lr
            parts["lr_scheduler"].base_lrs = [lr] * len(parts["lr_scheduler"].base_lrs)

        def on_log(
            self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **_: Any
        ) -> None:
            nonlocal breach
            if logs is None or REWARD not in logs:
                return  # the summary at the end
            measured = {KL: float(logs[KL])} if KL in logs else {}
            step = int(state.global_step)
            means = {**rollouts.means, **measured, LR: float(logs["learning_rate"])}
            append_step(settings.work, step, means)
            breach = rollouts.breach(measured)
            if breach or step == 1 or step % settings.save_every == 0 or step == settings.num_steps:
                rollouts.write_kept(settings.work, step)
            if breach:  # before the step is saved
                control.should_save, control.should_training_stop = False, True
            progress.add(1)

    def rewards(prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[float | None]:
        return [*rollouts.rewards(prompts, completion_ids)]

    done = max(saved_steps(settings.work), default=0)
    resumed = str(settings.work / f"{CHECKPOINTS}{done}") if done else None
    cut_steps(settings.work, done)
    model = load_policy(settings.model)
    if not (settings.work / PARITY_NAME).exists():
        _check_parity(rollouts, settings, model)
    trainer = Trainer(
        model=model,
        reward_funcs=rewards,
        args=_arguments(settings, lr),
        train_dataset=Dataset.from_list([{"prompt": sample_id} for sample_id in rollouts.prompts]),
        processing_class=AutoTokenizer.from_pretrained(settings.model, padding_side="left", trust_remote_code=False),
        callbacks=[StepCallback()],
    )
    trainer.remove_callback(PrinterCallback)
    with Progress("reward training", settings.num_steps - done, "steps") as progress:
        trainer.train(resume_from_checkpoint=resumed)
    return trainer.accelerator.unwrap_model(trainer.model), int(trainer.state.global_step), breach


def _arguments(settings: GRPOSettings, lr: float) -> Any:
    from trl import GRPOConfig  # pyright: ignore[reportMissingImports]

    return GRPOConfig(
        output_dir=str(settings.work),
        max_steps=settings.num_steps,
        num_generations=settings.num_answers,
        per_device_train_batch_size=settings.num_answers,  # whole logits: of one prompt's answers at a time
        gradient_accumulation_steps=settings.prompts_per_step,
        max_completion_length=settings.max_codes + 1,
        learning_rate=lr,
        lr_scheduler_type="constant",
        beta=settings.beta,
        temperature=settings.temperature,
        top_k=settings.top_k,
        importance_sampling_level=settings.ratio,
        loss_type="grpo" if settings.ratio == "sequence" else "dapo",
        save_steps=settings.save_every,
        save_total_limit=3,
        logging_steps=1,
        seed=settings.seed,
        report_to="none",
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
    )


def _check_parity(rollouts: Rollouts, settings: GRPOSettings, model: Any) -> None:
    """Before the first step; the job does not begin where sampler and trainer disagree."""
    names = list(rollouts.prompts)[:NUM_PROMPTS]
    prefixes = [np.array(rollouts.prompt_ids(name), np.int64) for name in names]
    sampling = {"temperature": settings.temperature, "top_k": settings.top_k, "max_new_tokens": settings.max_codes + 1}
    parity = measure_parity(settings.model, model, prefixes, rollouts.grammar.stop_id(Task.TTS), sampling)
    parity.check()
    write_atomically(settings.work / PARITY_NAME, json.dumps(parity.record(), indent=1) + "\n")
    event = {"event": "parity", "step": 0, **{f"parity/{name}": one.greatest for name, one in parity.apart.items()}}
    append_record(settings.work, event)
