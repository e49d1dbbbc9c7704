"""`align grpo`: reward training (GRPO, GSPO) of an exported model by TRL, on prompts of a store.

In: an exported folder, prompts, a reward and bounds. Out: another exported folder, from which a stage starts
(`[model] initial`), which `generate` reads and pairs are made with, with grpo.json: the base's weights, reward, scorer,
prompts, settings of TRL, parity, reward and scores of every step, breaches.

    prompt ids      those of the project's grammar, never made from text (trl_training.py)
    completion ids  scored as ids: codes, whether the model stopped, tokens that are no codes (rollouts.py)
    reward          the terms of rewards.py, of the scores of align/scorers.py
    parity          trainer, transformers and generator agree on the same tokens before the first step (parity.py)
    bounds          of the mean of a score over the completions of a step. A breach goes back to the last checkpoint
                    whose answers were within them and continues with half the rate, or ends the job with its name

WORK (OUTPUT.work) keeps TRL's checkpoints and what `titan-speech report` draws; the same command continues a job that
was killed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from titan_speech import __version__
from titan_speech.align.job_files import PARITY_NAME, SETTINGS_NAME, read_steps
from titan_speech.align.journal import check_settings
from titan_speech.align.prompts import StorePrompt, StorePrompts
from titan_speech.align.rollouts import KL, REWARD, REWARD_STD, Limits, Rollouts
from titan_speech.align.scorers import AnswerScorer, check_names
from titan_speech.align.trl_training import GRPOSettings, read_breaches, require_trl, train_by_trl
from titan_speech.errors import DataError, ModelError
from titan_speech.hf.config_json import read_json
from titan_speech.hf.expand import read_expansion
from titan_speech.hf.model_card import as_text, read_card, read_record
from titan_speech.model.exported_files import (
    CARD_NAME,
    CONFIG_NAME,
    EXPANSION_NAME,
    GENERATION_NAME,
    MODEL_RECORD_NAME,
    find_exported_files,
)
from titan_speech.tokenization.prompt_template import Grammar
from titan_speech.tokenization.text_tokenizer import TextTokenizer
from titan_speech.utils.checksum import sha256_of
from titan_speech.utils.files import write_atomically
from titan_speech.utils.locks import RunLock

logger = logging.getLogger(__name__)

RECORD_NAME = "grpo.json"


def train_grpo(
    found: StorePrompts, tokenizer: TextTokenizer, scorer: AnswerScorer, settings: GRPOSettings
) -> dict[str, Any]:
    """Train, and write the exported folder.

    Args:
        found: the prompts, and the manifest of their store.
        tokenizer: of the model.
        scorer: of answers.
        settings: how, and where to.

    Returns:
        The record that is written as grpo.json.

    Raises:
        DataError: the output exists, the job was begun with other settings, prompts leave no room, or a reward is
            constant or no number.
        HealthError: a bound was left once too often.
        ModelError: trainer, transformers and generator disagree before the first step.
        CheckpointError: another process is at it.
    """
    require_trl()
    if settings.output.exists():
        raise DataError(f"{settings.output} exists already; choose another folder or delete it")
    sampling, rollouts = prepare(found, tokenizer, scorer, settings)
    with _work_folder(settings.work):
        check_settings(settings.work / SETTINGS_NAME, sampling)
        model = train_by_trl(rollouts, settings)
        record = {
            "version": __version__,
            "trl": version("trl"),
            **sampling,
            "parity": read_json(settings.work / PARITY_NAME, "a job of align grpo"),
            "breaches": read_breaches(settings.work),
            "steps": read_steps(settings.work),
        }
        _export(model, settings, record)
    return record


@contextmanager
def _work_folder(work: Path) -> Iterator[None]:
    """The folder of the job, locked; one that was made for a job which did no step is removed."""
    is_new = not work.exists()
    work.mkdir(parents=True, exist_ok=True)
    try:
        with RunLock.take(work):
            yield
    except BaseException:
        if is_new and not read_steps(work):
            shutil.rmtree(work)
        raise


def prepare(
    found: StorePrompts, tokenizer: TextTokenizer, scorer: AnswerScorer, settings: GRPOSettings
) -> tuple[dict[str, Any], Rollouts]:
    """What the job is recorded by, and its prompts; nothing is written.

    Raises:
        DataError: prompts leave no room, or a reward or bound is of no score.
        ModelError: a file of the model's folder is missing or damaged.
    """
    check_names(scorer, (term.name for term in settings.terms))
    measured = {REWARD, REWARD_STD, *((KL,) if settings.beta else ())}
    check_names(scorer, sorted({*settings.stop, *settings.stop_below} - measured))
    sampling = _sampling(found, scorer, settings)
    read_card(settings.model)  # the export needs it, hours later
    read_expansion(settings.model)
    grammar = Grammar(tokenizer.vocabulary())
    limits = Limits(settings.stop, settings.stop_below)
    return sampling, Rollouts(_that_fit(found.prompts, grammar, settings), grammar, scorer, settings.terms, limits)


def max_positions(model: Path) -> int:
    """Tokens of prompt and answer together at most, of an exported folder.

    Raises:
        ModelError: the folder does not say.
    """
    positions = read_json(model / CONFIG_NAME, "an exported model").get("max_position_embeddings")
    if type(positions) is not int or not 0 < positions < 1 << 31:
        raise ModelError(
            f"{model / CONFIG_NAME}: found {positions!r:.80} as max_position_embeddings, expected a number of tokens; "
            "export the model again"
        )
    return positions


def _that_fit(prompts: Sequence[StorePrompt], grammar: Grammar, settings: GRPOSettings) -> list[StorePrompt]:
    """Prompts that leave room for the longest answer."""
    positions = max_positions(settings.model)
    most = positions - settings.max_codes - 1  # the stop token
    fitting = [prompt for prompt in prompts if prompt.num_prefix_tokens(grammar) <= most]
    if not fitting:
        raise DataError(
            f"all {len(prompts):,} prompts are longer than the {max(most, 0):,} tokens that {positions:,} positions "
            f"leave next to {settings.max_codes:,} codes: lower --max-sec, or give shorter prompts"
        )
    if len(fitting) < len(prompts):
        logger.warning("%d of %d prompts are too long and are left out", len(prompts) - len(fitting), len(prompts))
    return fitting


def _sampling(found: StorePrompts, scorer: AnswerScorer, settings: GRPOSettings) -> dict[str, Any]:
    kept = asdict(replace(settings, terms=()))
    for name in ("output", "terms", "model", "max_breaches"):  # a job that ended may be given more breaches
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


def _export(model: Any, settings: GRPOSettings, record: Mapping[str, Any]) -> None:
    """The base's folder with other weights, whole or not at all."""
    partial = settings.output.with_name(f"{settings.output.name}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    weights = sorted(partial.glob("*.safetensors"))
    sums = []
    for path in weights:
        with path.open("rb") as file:
            sums.append(sha256_of(file))
    digest = hashlib.sha256("".join(sums).encode()).hexdigest()[:16]
    own = {CONFIG_NAME, GENERATION_NAME, *(path.name for path in weights)}
    for name in find_exported_files(settings.model).files:
        if name in own - {CONFIG_NAME, GENERATION_NAME} or name.endswith((".safetensors", ".safetensors.index.json")):
            continue
        (partial / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(settings.model / name, partial / name)
    base = read_record(settings.model)
    replace(base, weights=digest).write(partial)
    expansion = read_expansion(settings.model)
    trained = f"{settings.num_steps} steps of GRPO on {expansion.source} (weights {base.weights})"
    replace(expansion, source=trained).write(partial)
    note = f"\n## Reward training\n{as_text(trained)}; {RECORD_NAME} has reward, scorer, prompts and every step.\n"
    write_atomically(partial / CARD_NAME, read_card(settings.model) + note)
    write_atomically(partial / RECORD_NAME, json.dumps(record, indent=1) + "\n")
    assert {MODEL_RECORD_NAME, EXPANSION_NAME} <= {path.name for path in partial.iterdir()}
    partial.rename(settings.output)
