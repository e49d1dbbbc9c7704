"""What a model says in reward training, step by step: scores, rewards, bounds, and answers kept for people to hear.

In: completions of TRL as token ids. Out: a reward each; per step the mean of every score, and whether a mean left its
bound. `metrics.jsonl` in the job's folder has a line per step, so `titan-speech report` draws it while it trains;
`rollouts/step-N.json` and, where answers are decoded, `rollouts/step-N/K.wav` have the answers to some prompts.

A reward that is met in a way that was not meant shows in another score first, which is what bounds are for. An answer
that lacks a score (a voice in silence) is left out of its mean; where the reward needs the score, its reward is the
smallest of the step. A bounded score that no answer has is a breach.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from titan_speech.align.job_files import ROLLOUTS_NAME
from titan_speech.align.prompts import StorePrompt
from titan_speech.align.rewards import Term, has_scores, reward
from titan_speech.align.scorers import AnswerScorer, measures_of
from titan_speech.codec.wav import wav_bytes
from titan_speech.errors import DataError
from titan_speech.generate.sampling import Generated
from titan_speech.tokenization.prompt_template import Grammar, Task
from titan_speech.utils.files import write_atomically

KL, LR, REWARD, REWARD_STD = "kl", "lr", "reward", "reward_std"
MAX_CONSTANT_STEPS = 10
"""Steps in a row whose rewards are all equal: nothing is learned, and the job ends."""
MAX_KEPT_PROMPTS, MAX_KEPT_ANSWERS = 4, 4
"""Of a step that is kept to be listened to."""


@dataclass(frozen=True)
class Limits:
    """Bounds of the mean of a score over a step."""

    upper: Mapping[str, float] = field(default_factory=dict)
    lower: Mapping[str, float] = field(default_factory=dict)

    def breach(self, means: Mapping[str, float], possible: Sequence[str]) -> str:
        """Which bounds are left, in words; empty while all hold.

        Args:
            means: of a step.
            possible: scores that may be missing from a step.

        Raises:
            DataError: a bounded score does not exist.
        """
        found = []
        for bounds, word, is_left in ((self.upper, "above", float.__gt__), (self.lower, "below", float.__lt__)):
            for name, bound in bounds.items():
                if name in means:
                    if is_left(float(means[name]), float(bound)):
                        found.append(f"{name} {means[name]:.3g} is {word} {bound:g}")
                elif name in possible:
                    found.append(f"no answer has a score {name}")
                else:
                    names = ", ".join(sorted({*means, *possible}))
                    raise DataError(f"no score is called {name}, which has a bound; there are {names}")
        return "; ".join(found)


class Rollouts:
    """The answers of a job, step by step."""

    def __init__(
        self,
        prompts: Sequence[StorePrompt],
        grammar: Grammar,
        scorer: AnswerScorer,
        terms: Sequence[Term],
        limits: Limits,
    ) -> None:
        self.prompts = {prompt.sample_id: prompt for prompt in prompts}
        self.grammar, self.scorer, self.terms, self.limits = grammar, scorer, terms, limits
        self.means: dict[str, float] = {}
        """Of the step whose completions were scored last: reward, its spread, and every score."""
        self.kept: list[dict[str, Any]] = []
        """Answers of that step to a few prompts; with `wav`, the sound of an answer that was decoded."""
        self._num_constant = 0
        self._scores_seen = {*(scorer.names or ())}
        """Those that an answer may have; of a program, those that one had."""

    def prompt_ids(self, sample_id: str) -> list[int]:
        """Token ids of a prompt, by the project's grammar."""
        prompt = self.prompts[sample_id]
        return self.grammar.prefix(prompt.task, prompt.parts).tolist()

    def rewards(self, sample_ids: Sequence[str], completion_ids: Sequence[Sequence[int]]) -> list[float]:
        """The reward of each completion of a step.

        Raises:
            DataError: no answer has every score of the reward, one is no number, or the rewards have been constant for
                too long.
        """
        scores: list[dict[str, float]] = [{} for _ in sample_ids]
        heard: list[tuple[StorePrompt, list[int], list[Any]]] = []
        for sample_id in dict.fromkeys(sample_ids):
            rows = [row for row, one in enumerate(sample_ids) if one == sample_id]
            prompt, ids = self.prompts[sample_id], [np.array(completion_ids[row], np.int64) for row in rows]
            found = self.scorer.score(prompt, [self._generated(ids_T) for ids_T in ids])
            for row, of_answer, ids_T in zip(rows, found, ids, strict=True):
                scores[row] = {**of_answer, **measures_of(ids_T, prompt, self.grammar)}
            if len(heard) < MAX_KEPT_PROMPTS:
                heard.append((prompt, rows, list(self.scorer.heard)))
        found_rewards = self._rewards(sample_ids, scores)
        self.kept = [_kept(prompt, rows, sounds, scores, found_rewards) for prompt, rows, sounds in heard]
        values: dict[str, list[float]] = {}
        for one in scores:
            for name, value in one.items():
                values.setdefault(name, []).append(value)
        means = {name: float(np.mean(some)) for name, some in sorted(values.items())}
        self.means = {REWARD: float(np.mean(found_rewards)), REWARD_STD: float(np.std(found_rewards)), **means}
        self._scores_seen.update(means)
        self._check_constant(found_rewards)
        return found_rewards

    def _rewards(self, sample_ids: Sequence[str], scores: Sequence[Mapping[str, float]]) -> list[float]:
        found = [
            reward(one, self.terms, id_) if has_scores(one, self.terms) else None
            for one, id_ in zip(scores, sample_ids, strict=True)
        ]
        given = [one for one in found if one is not None]
        if not given:
            raise DataError(
                f"no answer of a step has every score of the reward ({', '.join(map(str, self.terms))}); the first has "
                f"{', '.join(sorted(scores[0]))}"
            )
        return [min(given) if one is None else one for one in found]

    def breach(self, more: Mapping[str, float]) -> str:
        """Which bounds the last step left, in words; empty while all hold.

        Args:
            more: what the trainer measured, such as `KL`.
        """
        return self.limits.breach({**self.means, **more}, sorted(self._scores_seen))

    def write_kept(self, folder: Path, step: int) -> None:
        """Keep answers of the last step for the run page."""
        place = folder / ROLLOUTS_NAME
        (place / f"step-{step}").mkdir(parents=True, exist_ok=True)
        number = 0
        for prompt in self.kept:
            for answer in prompt["answers"]:
                sound = answer.pop("wav", None)
                if sound is not None and len(sound):
                    (place / f"step-{step}" / f"{number}.wav").write_bytes(wav_bytes(sound))
                answer["number"] = number
                number += 1
        write_atomically(place / f"step-{step}.json", json.dumps(self.kept, ensure_ascii=False) + "\n")

    def _check_constant(self, found_rewards: Sequence[float]) -> None:
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


def _kept(
    prompt: StorePrompt, rows: Sequence[int], sounds: Sequence[Any], scores: Sequence[Any], rewards: Sequence[float]
) -> dict[str, Any]:
    """The first answers to a prompt, with their sound where it was decoded."""
    answers = [
        {"reward": rewards[row], "scores": dict(scores[row]), "wav": sound}
        for row, sound in zip(rows[:MAX_KEPT_ANSWERS], [*sounds, *([None] * len(rows))], strict=False)
    ]
    return {"sample_id": prompt.sample_id, "language": prompt.language, "text": prompt.text, "answers": answers}
