"""Answers of a model to prompts, and the journal that keeps them with their scores.

In: a model (an exported folder, or a run's checkpoint), prompts, decoding settings and a seed. Out: N answers per
prompt, one line of JOURNAL/answers.jsonl each time a prompt is done. A job that was killed continues after the last
whole line; a journal of other settings is refused. The answers to a prompt depend on its id and the seed alone, so they
are the same in whatever order, and wherever the job was cut.

Shapes: F codes (frames) of an answer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from titan_speech.align.journal import DAMAGED, check_settings, damaged, open_lines, read_lines
from titan_speech.align.parity import PolicyParity, measure_parity
from titan_speech.align.prompts import StorePrompt
from titan_speech.evaluate.result import MAX_SCORE
from titan_speech.generate.load import TrainedRun
from titan_speech.generate.sampling import Decoding, Generated, generate_codes
from titan_speech.generate.synthesize import SpeechModel
from titan_speech.tokenization.prompt_template import Grammar, Task
from titan_speech.tokenization.text_tokenizer import TextTokenizer
from titan_speech.tokenization.vocabulary import NUM_CODES

ANSWERS_NAME, SETTINGS_NAME = "answers.jsonl", "settings.json"


class Policy(Protocol):
    """A model that answers prompts."""

    @property
    def tokenizer(self) -> TextTokenizer: ...

    @property
    def grammar(self) -> Grammar: ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """What tells this model from another."""
        ...

    @property
    def max_positions(self) -> int:
        """Tokens of prompt and answer together at most."""
        ...

    def answer(self, prompt: StorePrompt, count: int, decoding: Decoding) -> list[Generated]:
        """Sample `count` answers; the same for the same `decoding.seed`."""
        ...

    def parity(self, prompts: Sequence[StorePrompt], decoding: Decoding) -> PolicyParity | None:
        """How far what answers is from the trainer; None where the trainer's own forward pass answers."""
        ...


@dataclass(frozen=True)
class ExportedPolicy:
    """A folder of `titan-speech model export`, decoded by transformers with a key-value cache."""

    model: SpeechModel
    folder: Path

    @property
    def tokenizer(self) -> TextTokenizer:
        return self.model.tokenizer

    @property
    def grammar(self) -> Grammar:
        return self.model.grammar

    @property
    def identity(self) -> Mapping[str, Any]:
        record = self.model.record
        return {"model": str(self.folder), "step": record.step, "weights": record.weights}

    @property
    def max_positions(self) -> int:
        return int(self.model.model.config.max_position_embeddings)

    def answer(self, prompt: StorePrompt, count: int, decoding: Decoding) -> list[Generated]:
        prefix_T = self.grammar.prefix(prompt.task, prompt.parts).astype(np.int64)
        return self.model.complete([prefix_T] * count, range(count), decoding)

    def parity(self, prompts: Sequence[StorePrompt], decoding: Decoding) -> PolicyParity | None:
        prefixes = [self.grammar.prefix(prompt.task, prompt.parts).astype(np.int64) for prompt in prompts]
        sampling = {"temperature": decoding.temperature or 1.0, "top_k": decoding.top_k}
        sampling["max_new_tokens"] = min(decoding.max_codes, self.max_positions - max(map(len, prefixes)))
        return measure_parity(self.folder, self.model.model, prefixes, self.grammar.stop_id(Task.TTS), sampling)


@dataclass(frozen=True)
class RunPolicy:
    """A run's checkpoint, decoded without a cache: for small models."""

    trained: TrainedRun
    folder: Path
    weights: str
    """Fingerprint of the checkpoint."""

    @property
    def tokenizer(self) -> TextTokenizer:
        return self.trained.tokenizer

    @property
    def grammar(self) -> Grammar:
        return self.trained.grammar

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"run": str(self.folder), "step": self.trained.step, "weights": self.weights}

    @property
    def max_positions(self) -> int:
        return self.trained.config.training.seq_len

    def answer(self, prompt: StorePrompt, count: int, decoding: Decoding) -> list[Generated]:
        seeds = (seed_of(str(number), decoding.seed) for number in range(count))
        decodings = (replace(decoding, seed=seed) for seed in seeds)
        return [generate_codes(self.trained.model, self.grammar, prompt.task, prompt.parts, one) for one in decodings]

    def parity(self, prompts: Sequence[StorePrompt], decoding: Decoding) -> PolicyParity | None:
        return None


def seed_of(name: str, seed: int) -> int:
    """A seed that depends on a name and a seed."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:4], "little")


@dataclass(frozen=True, eq=False)
class Answer:
    """One answer with its scores."""

    codes_F: NDArray[np.uint16]
    stopped: bool
    """Whether the model ended it; otherwise it was cut at the limit."""
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Answered:
    """A prompt's answers; none where it was left out."""

    sample_id: str
    answers: tuple[Answer, ...]
    left_out: str = ""
    """Why the prompt was not answered."""


Score = Callable[[StorePrompt, Sequence[Generated]], list[dict[str, float]]]


class Journal:
    """The folder in which a job keeps the prompts it has done."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Open or begin a journal; the caller holds the folder's lock.

        Raises:
            DataError: it was begun with other settings.
        """
        self.path = folder / ANSWERS_NAME
        check_settings(folder / SETTINGS_NAME, settings)

    def read(self) -> Iterator[Answered]:
        """What is done; a last line that was not finished is removed from the file.

        Raises:
            DataError: a line is no record of a prompt.
        """
        for number, record in read_lines(self.path):
            try:
                answered = _answered(record)
            except DAMAGED as error:
                raise damaged(self.path, number, error) from None
            yield answered

    def append(self) -> IO[bytes]:
        """The file, to `write_line` to."""
        return open_lines(self.path)


def write_line(file: IO[bytes], answered: Answered) -> None:
    """Write a prompt that is done, at once."""
    answers = [
        {"codes": answer.codes_F.tolist(), "stopped": answer.stopped, "scores": dict(answer.scores)}
        for answer in answered.answers
    ]
    record = {"prompt": answered.sample_id, "answers": answers, "left_out": answered.left_out}
    file.write(json.dumps(record, separators=(",", ":")).encode() + b"\n")
    file.flush()


def _answered(record: Any) -> Answered:
    """Raises one of `DAMAGED`: it is no record of a prompt."""
    sample_id, left_out, answers = record["prompt"], record["left_out"], record["answers"]
    if not (isinstance(sample_id, str) and isinstance(left_out, str) and isinstance(answers, list)):
        raise TypeError("expected texts as prompt and left_out, and a list of answers")
    return Answered(sample_id, tuple(map(_answer, answers)), left_out)


def _answer(record: Any) -> Answer:
    codes, stopped = record["codes"], record["stopped"]
    if not (isinstance(codes, list) and all(type(code) is int and 0 <= code < NUM_CODES for code in codes)):
        raise TypeError(f"codes are integers from 0 to {NUM_CODES - 1}")
    if not isinstance(stopped, bool):
        raise TypeError(f"found {stopped!r:.80}, expected true or false as stopped")
    return Answer(np.array(codes, np.uint16), stopped, checked_scores(record["scores"]))


def checked_scores(found: Any) -> dict[str, float]:
    """Scores of one answer as others wrote them; none is left out, so that a sum of them is a number.

    Raises:
        TypeError: they are not names with numbers.
        ValueError: a number is not finite, or is over `MAX_SCORE`.
    """
    if not isinstance(found, dict) or not all(type(value) in (int, float) for value in found.values()):
        raise TypeError(f"found {found!r:.200}, expected names with numbers")
    for name, value in found.items():
        if not abs(value) <= MAX_SCORE:
            raise ValueError(f"the score {name!r:.80} is {value!r:.80}, expected a number up to {MAX_SCORE:g}")
    return {name: float(value) for name, value in found.items()}


def answer_prompt(policy: Policy, prompt: StorePrompt, count: int, decoding: Decoding, score: Score) -> Answered:
    """Answers to one prompt with their scores; a prompt that leaves no room for the shortest answer is left out."""
    room = policy.max_positions - prompt.num_prefix_tokens(policy.grammar) - 1  # the stop token
    if room < decoding.min_codes:
        return Answered(prompt.sample_id, (), f"its prompt leaves {max(room, 0)} of {policy.max_positions} positions")
    own = replace(decoding, seed=seed_of(prompt.sample_id, decoding.seed), max_codes=min(decoding.max_codes, room))
    generated = policy.answer(prompt, count, own)
    scores = score(prompt, generated)
    answers = (Answer(one.codes_F, one.stopped, some) for one, some in zip(generated, scores, strict=True))
    return Answered(prompt.sample_id, tuple(answers))


def settings_of(policy: Policy, decoding: Decoding, count: int, **more: Any) -> dict[str, Any]:
    """What the answers of a journal depend on."""
    return {**policy.identity, "decoding": asdict(decoding), "num_answers": count, **more}
