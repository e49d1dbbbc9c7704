"""The reward of a completion, by the scorers that evaluate checkpoints.

In: a prompt (text, language, reference voice) and the codes that a model gave. Out: `Reward`: one number for
alignment, and what it is made of. Each completion is decoded once; a batch goes to each model together.

    reward = 0.4 (1 - CER) + 0.3 similarity + 0.3 (MOS - 1) / 4        each part within 0 and 1

In a language without a trusted ASR the content weight is 0 and the others stay as they are: rewards are compared among
completions of one prompt. A completion that says nothing (no codes, silence, less than 0.1 s) has reward 0. Where a
scorer failed there is no reward: the completion should be left out, not punished.

In process: `RewardFunction`. Over HTTP: reward_server.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from titan_speech.codec.base import Codec
from titan_speech.evaluate.clip import Clip, Score, Sound, resynthesized
from titan_speech.evaluate.models.opinions import DNSMOS
from titan_speech.evaluate.scorers.base import Scorer, says_nothing, score_clips


@dataclass(frozen=True)
class RewardWeights:
    """What each part of a reward counts."""

    content: float = 0.4
    similarity: float = 0.3
    mos: float = 0.3
    mos_metric: str = DNSMOS
    """The predicted opinion score that counts."""


@dataclass(frozen=True)
class Reward:
    """The reward of one completion; None is not measured."""

    reward: float | None
    """None: a scorer failed."""
    cer: float | None
    similarity: float | None
    mos: float | None
    stop: bool
    """Whether the model produced its stop token."""
    rate: float | None
    """Letters of the text per second that is not silent."""
    f0_range: float | None
    """In semitones."""
    weights: tuple[float, float, float]
    """Content, similarity and MOS, as they counted."""
    reasons: tuple[str, ...] = ()
    """Of parts that were not measured."""


class RewardFunction:
    """Scores completions; one object for a whole run of alignment, closed at its end by closing the scorers."""

    def __init__(self, codec: Codec, scorers: Sequence[Scorer], weights: RewardWeights = RewardWeights()) -> None:
        """Args:
        codec: of the model's codes.
        scorers: of choice.open_scorers.
        weights: of the parts; a part whose scorer is not there counts 0.
        """
        self.codec, self.scorers, self.weights = codec, scorers, weights

    def score(self, prompt: Clip, completion_codes: NDArray[np.integer], stopped: bool = True) -> Reward:
        """The reward of one completion."""
        return self.score_batch([prompt], [completion_codes], [stopped])[0]

    def score_batch(
        self, prompts: Sequence[Clip], completions: Sequence[NDArray[np.integer]], stopped: Sequence[bool]
    ) -> list[Reward]:
        """The reward of each completion.

        Args:
            prompts: text, language and voice of each; their sound is not used.
            completions: codes without the stop token.
            stopped: whether each ended by its stop token.
        """
        clips = [
            replace(prompt, sound=self._spoken(codes_F), stopped=is_stopped)
            for prompt, codes_F, is_stopped in zip(prompts, completions, stopped, strict=True)
        ]
        scores = score_clips(clips, self.scorers)
        return [self._reward(clip, found) for clip, found in zip(clips, scores, strict=True)]

    def _spoken(self, codes_F: NDArray[np.integer]) -> Sound:
        codes_F = np.asarray(codes_F, np.uint16)
        return resynthesized(Sound(codes_F=codes_F), self.codec) if len(codes_F) else Sound(np.zeros(0, np.float32))

    def _reward(self, clip: Clip, scores: Mapping[str, Score]) -> Reward:
        none = Score.missing("no scorer")
        cer, similarity, mos = (scores.get(name, none) for name in ("cer", "similarity", self.weights.mos_metric))
        parts = (
            (self.weights.content, cer, lambda value: 1 - min(value, 1.0)),
            (self.weights.similarity, similarity, lambda value: min(max(value, 0.0), 1.0)),
            (self.weights.mos, mos, lambda value: min(max((value - 1) / 4, 0.0), 1.0)),
        )
        weights = tuple(0.0 if score.value is None else weight for weight, score, _ in parts)
        total = sum(weight * part(score.value) for weight, score, part in parts if score.value is not None)
        has_failed = any(score.failed and weight for weight, score, _ in parts)
        return Reward(
            reward=0.0 if says_nothing(clip.sound) else None if has_failed else total,
            cer=cer.value,
            similarity=similarity.value,
            mos=mos.value,
            stop=bool(clip.stopped),
            rate=scores.get("chars_per_sec", none).value,
            f0_range=scores.get("f0_range_semitones", none).value,
            weights=(weights[0], weights[1], weights[2]),
            reasons=tuple(dict.fromkeys(score.reason for _, score, _ in parts if score.value is None)),
        )
