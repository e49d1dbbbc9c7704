"""`align pairs`: a model's answers to the prompts of a store become a store of preference pairs.

In: a policy, prompts, a scorer and a reward. Out: a token store of task preference, with pairs.json next to its
manifest: the model, decoding, seeds, scorer, reward and rules it was made by, what gave no pair and why, and the scores
of every pair. Answers and scores stay in OUTPUT.answers, so another reward or margin picks again without sampling.

A prompt to clone has its recording in the store too, as X/voice. Training on the store and answering again with the new
model is iterative DPO.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from titan_speech import __version__
from titan_speech.align.answers import Answered, Journal, Policy, answer_prompt, settings_of, write_line
from titan_speech.align.job_files import PARITY_NAME
from titan_speech.align.parity import NUM_PROMPTS
from titan_speech.align.prompts import DESCRIPTION, StorePrompt, StorePrompts
from titan_speech.align.rewards import EQUAL_REWARDS, LEFT_OUT, NOT_SCORED, Pair, Term, has_scores, pick, reward
from titan_speech.align.scorers import AnswerScorer, check_names
from titan_speech.errors import DataError
from titan_speech.generate.sampling import Decoding
from titan_speech.store.manifest import Manifest
from titan_speech.store.sample import CHOSEN, REJECTED, VOICE, SampleInfo
from titan_speech.store.writer import StoreWriter
from titan_speech.tokenization.text_tokenizer import TextTokenizer
from titan_speech.utils.files import write_atomically
from titan_speech.utils.json_text import read_json_file
from titan_speech.utils.locks import RunLock
from titan_speech.utils.progress import Progress
from titan_speech.utils.text_table import counted

RECORD_NAME = "pairs.json"


@dataclass(frozen=True)
class PairSettings:
    """How pairs are made."""

    output: Path
    num_answers: int
    decoding: Decoding
    terms: tuple[Term, ...]
    margin: float
    transcript: str
    task: Literal["tts", "clone"] = "tts"
    """Whose prompts are answered."""

    @property
    def journal(self) -> Path:
        """Where answers are kept."""
        return self.output.with_name(f"{self.output.name}.answers")


@dataclass(frozen=True)
class PairResult:
    """What a job made."""

    pairs: tuple[Pair, ...]
    without: Counter[str]
    """Prompts without a pair, by reason."""

    def lines(self) -> list[str]:
        """For the console; a bias of the pairs, as towards short answers, shows in the means."""
        total = len(self.pairs) + sum(self.without.values())
        lines = [f"{counted(len(self.pairs), 'pair')} from {counted(total, 'prompt')}"]
        lines += [f"  no pair: {number:,} with {reason}" for reason, number in self.without.items()]
        lines.append(f"  {'mean of':24}{'chosen':>12}{'rejected':>12}")
        rewards = [(pair.chosen_reward, pair.rejected_reward) for pair in self.pairs]
        for name, values in {"reward": rewards, **self._scores()}.items():
            chosen, rejected = np.mean(values, axis=0)
            lines.append(f"  {name:24}{chosen:>12.4g}{rejected:>12.4g}")
        return lines

    def _scores(self) -> dict[str, list[tuple[float, float]]]:
        """Of the scores that every answer has."""
        answers = [answer for pair in self.pairs for answer in (pair.chosen, pair.rejected)]
        names = sorted(set.intersection(*({*answer.scores} for answer in answers)) if answers else ())
        return {name: [(pair.chosen.scores[name], pair.rejected.scores[name]) for pair in self.pairs] for name in names}


def make_pairs(policy: Policy, found: StorePrompts, scorer: AnswerScorer, settings: PairSettings) -> PairResult:
    """Answer, score, pick and write; a job that was cut continues.

    Args:
        policy: the model.
        found: the prompts, and the manifest of their store.
        scorer: of answers.
        settings: how, and where to.

    Raises:
        DataError: the output exists, the scorer fails, a reward is not a number, or no prompt gives a pair.
        CheckpointError: another process is at it.
        ModelError: what answers is not the trainer's model.
    """
    if settings.output.exists():
        raise DataError(f"{settings.output} exists already and a store is never changed: choose another path")
    check_names(scorer, (term.name for term in settings.terms))
    settings.journal.mkdir(parents=True, exist_ok=True)
    sampling = settings_of(
        policy,
        settings.decoding,
        settings.num_answers,
        prompts=found.manifest.fingerprint,
        transcript=settings.transcript,
        scorer=f"{scorer.name} {scorer.version}",
        **({"task": settings.task} if settings.task != "tts" else {}),  # jobs of before it was there continue
    )
    with RunLock.take(settings.journal):
        parity = _checked_parity(policy, found.prompts, settings)
        answered = _answer(policy, found.prompts, scorer, settings, Journal(settings.journal, sampling))
        result = _pick(answered, settings)
        record = {**_record(result, settings, sampling), "parity": parity}
        prompts = {prompt.sample_id: prompt for prompt in found.prompts}
        _write(result, prompts, found.manifest, policy.tokenizer, settings, record)
    return result


def _checked_parity(policy: Policy, prompts: Sequence[StorePrompt], settings: PairSettings) -> object:
    """Measured once, before the first answer; answers of another model than the trainer's would be off-policy."""
    path = settings.journal / PARITY_NAME
    if not path.exists():
        room = policy.max_positions - settings.decoding.min_codes - 1
        few = [prompt for prompt in prompts if prompt.num_prefix_tokens(policy.grammar) <= room][:NUM_PROMPTS]
        parity = policy.parity(few, settings.decoding) if few else None
        if parity is not None:
            parity.check()
        write_atomically(path, json.dumps(None if parity is None else parity.record()))
    return read_json_file(path)


def _answer(
    policy: Policy, prompts: Sequence[StorePrompt], scorer: AnswerScorer, settings: PairSettings, journal: Journal
) -> list[Answered]:
    """All prompts with their answers, in the order of the prompts."""
    done = {one.sample_id: one for one in journal.read()}
    missing = [prompt for prompt in prompts if prompt.sample_id not in done]
    with Progress("answers", len(missing), "prompts") as progress, journal.append() as file:
        for prompt in missing:
            one = answer_prompt(policy, prompt, settings.num_answers, settings.decoding, scorer.score)
            for answer in one.answers:
                if has_scores(answer.scores, settings.terms):
                    reward(answer.scores, settings.terms, prompt.sample_id)  # refused before hours of more answers
            write_line(file, one)
            done[prompt.sample_id] = one
            progress.add(1)
    return [done[prompt.sample_id] for prompt in prompts]


def _pick(answered: Sequence[Answered], settings: PairSettings) -> PairResult:
    pairs, without = list[Pair](), Counter[str]()
    for one in answered:
        found = pick(one, settings.terms, settings.margin)
        if isinstance(found, Pair):
            pairs.append(found)
        else:
            without[found] += 1
    if not pairs:
        reasons = "; ".join(f"{number:,} with {reason}" for reason, number in without.items())
        raise DataError(f"no prompt of {len(answered):,} gives a pair: {reasons}. {_advice(without)}")
    return PairResult(tuple(pairs), without)


def _advice(without: Counter[str]) -> str:
    most, _ = without.most_common(1)[0]
    if most == EQUAL_REWARDS:
        return "The reward is constant: it does not distinguish the answers. Give another --reward"
    if most == NOT_SCORED:
        return "The scorer gives no such score: see the names it gives in the answers, or why it gives none"
    if most == LEFT_OUT:
        return "Give shorter prompts, or a model with more positions"
    return "Sample more or longer answers at a higher temperature, or lower --margin"


def _record(result: PairResult, settings: PairSettings, sampling: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "version": __version__,
        **sampling,
        "reward": [str(term) for term in settings.terms],
        "margin": settings.margin,
        "without_pair": dict(result.without),
        "pairs": [
            {
                "prompt": pair.sample_id,
                "chosen": {"reward": pair.chosen_reward, **pair.chosen.scores},
                "rejected": {"reward": pair.rejected_reward, **pair.rejected.scores},
            }
            for pair in result.pairs
        ],
    }


def _write(
    result: PairResult,
    prompts: Mapping[str, StorePrompt],
    source: Manifest,
    tokenizer: TextTokenizer,
    settings: PairSettings,
    record: Mapping[str, Any],
) -> None:
    writer = StoreWriter(
        settings.output,
        name=f"pairs of {source.name}",
        codec=source.codec,
        tokenizer=tokenizer,
        normalization_version=source.normalization_version,
        licence=source.licence,
    )
    with writer:
        for pair in result.pairs:
            prompt = prompts[pair.sample_id]
            texts = {settings.transcript: prompt.text}
            samples = [(CHOSEN, pair.chosen.codes_F, texts), (REJECTED, pair.rejected.codes_F, texts)]
            if prompt.voice is not None:
                samples.append((VOICE, prompt.voice.codes_F, {settings.transcript: prompt.voice.text}))
            elif prompt.description:
                texts[DESCRIPTION] = prompt.description
            for end, codes_F, said in samples:
                info = SampleInfo(
                    sample_id=f"{prompt.sample_id}{end}",
                    dataset_source=prompt.dataset_source,
                    language=prompt.language,
                    source_video_id=prompt.sample_id,
                )
                writer.add_speech(info, codes_F, said)
        writer.add_file(RECORD_NAME, json.dumps(record, indent=1) + "\n")
