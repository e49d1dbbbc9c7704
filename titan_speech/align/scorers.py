"""Scores of answers: measures of their codes, those of the evaluator, or what a program of your own finds.

In: a prompt and its answers. Out: for each answer named scores, which rewards.py makes a reward of; a score that cannot
be given is left out. A scorer has a version, which is recorded with the pairs. The evaluator's scorers hear each answer
decoded once, however many they are.

A program (`CommandScorer`) is started once and speaks lines of JSON: first it writes {"name": ..., "version": ...},
then it answers each line {"prompt": {"id", "language", "text"}, "answers": [[code, ...], ...]} with {"scores": [{name:
number, ...}, ...]}. It may have packages, GPUs and a codec of its own.
"""

from __future__ import annotations

import json
import os
import select
import shlex
import subprocess
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from titan_speech.align.answers import checked_scores
from titan_speech.align.prompts import StorePrompt
from titan_speech.codec.base import Codec
from titan_speech.errors import DataError
from titan_speech.evaluate.clip import Clip, Sound
from titan_speech.evaluate.scorers.base import Scorer, score_clips, versions_of
from titan_speech.generate.measures import MEASURE_NAMES, measure
from titan_speech.generate.sampling import Generated
from titan_speech.tokenization.prompt_template import Grammar, Task
from titan_speech.utils.json_text import parse_json
from titan_speech.utils.printable import one_line

MAX_LINE_BYTES = 64 << 20
LAST_WORDS_BYTES = 500


class AnswerScorer(Protocol):
    """Gives named scores to answers."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str:
        """Changes with whatever changes scores."""
        ...

    @property
    def names(self) -> frozenset[str] | None:
        """Names of all scores; None if they are not known before."""
        ...

    @property
    def heard(self) -> Sequence[NDArray[np.float32]]:
        """The sound of the answers that were scored last; empty where the scorer decodes none."""
        ...

    def score(self, prompt: StorePrompt, answers: Sequence[Generated]) -> list[dict[str, float]]:
        """The scores of each answer."""
        ...

    def close(self) -> None:
        """End processes; a closed scorer is not used again."""
        ...


def check_names(scorer: AnswerScorer, names: Iterable[str]) -> None:
    """Refuse names that no score has, before anything is answered; a program's are not known before.

    Raises:
        DataError: there is no such score.
    """
    unknown = [name for name in names if scorer.names is not None and name not in scorer.names]
    if unknown and scorer.names is not None:
        raise DataError(f"no score is called {unknown[0]}; there are {', '.join(sorted(scorer.names))}")


MEASURES = (*MEASURE_NAMES, "num_codes", "codes_per_character")


def measures_of(ids_T: NDArray[np.int64], prompt: StorePrompt, grammar: Grammar) -> dict[str, float]:
    """Measures of all sampled ids, those that are no codes among them.

    Args:
        ids_T: with the stop token if the model ended.
        prompt: what was answered.
        grammar: of the model.
    """
    stop_id, num_target_codes = grammar.stop_id(Task.TTS), len(prompt.recorded_codes_F)
    return asdict(measure(ids_T, stop_id=stop_id, vocabulary=grammar.vocabulary, num_target_codes=num_target_codes))


class MeasuresScorer:
    """Measures of the codes alone (generate/measures.py), the answer's length, and its codes per character."""

    name, version = "measures", "1"
    names = frozenset(MEASURES)
    heard = ()

    def __init__(self, grammar: Grammar) -> None:
        self.grammar = grammar

    def score(self, prompt: StorePrompt, answers: Sequence[Generated]) -> list[dict[str, float]]:
        """The measures of each answer; length_ratio compares with the recording.

        Args:
            prompt: what was answered.
            answers: of the model.
        """
        found = []
        for answer in answers:
            ids_T = self.grammar.vocabulary.codes_to_ids(answer.codes_F).astype(np.int64)
            ids_T = np.append(ids_T, self.grammar.stop_id(Task.TTS)) if answer.stopped else ids_T
            num_codes = float(len(answer.codes_F))
            rate = num_codes / max(len(prompt.text.strip()), 1)
            measures = measures_of(ids_T, prompt, self.grammar)
            found.append({**measures, "num_codes": num_codes, "codes_per_character": rate})
        return found

    def close(self) -> None:
        """There is nothing to end."""


class EvaluatorScorer:
    """The scorers of evaluations (evaluate/scorers/), and the measures of the codes."""

    name = "evaluator"

    def __init__(self, scorers: Sequence[Scorer], codec: Codec, measures: MeasuresScorer) -> None:
        """`codec` is that of the codes; whoever opened the scorers closes them."""
        self.scorers, self.codec, self.measures = scorers, codec, measures
        self.names = measures.names | {metric.name for scorer in scorers for metric in scorer.metrics}
        self.heard: list[NDArray[np.float32]] = []

    @property
    def version(self) -> str:
        versions = {**versions_of(self.scorers), "measures": self.measures.version, "codec": self.codec.codec_hash}
        return json.dumps(versions, sort_keys=True)

    def score(self, prompt: StorePrompt, answers: Sequence[Generated]) -> list[dict[str, float]]:
        """What the scorers give, without the scores that they have a reason not to give.

        Args:
            prompt: what was answered; its recording is the voice that an answer ought to have.
            answers: of the model.
        """
        recording = self._sound(prompt.recorded_codes_F)
        voice = recording if prompt.voice is None else self._sound(prompt.voice.codes_F)
        clips = [
            Clip(
                prompt_id=prompt.sample_id,
                language=prompt.language,
                text=prompt.text,
                sound=self._sound(answer.codes_F),
                seed=number,
                voice=voice,
                recording=recording,
                stopped=answer.stopped,
            )
            for number, answer in enumerate(answers)
        ]
        self.heard = [np.zeros(0, np.float32) if clip.sound.wav_T is None else clip.sound.wav_T for clip in clips]
        found = self.measures.score(prompt, answers)
        for scores, of_clip in zip(found, score_clips(clips, self.scorers), strict=True):
            scores |= {name: score.value for name, score in of_clip.items() if score.value is not None}
        return found

    def _sound(self, codes_F: NDArray[np.uint16]) -> Sound:
        return Sound(self.codec.decode(codes_F) if len(codes_F) else np.zeros(0, np.float32), codes_F)

    def close(self) -> None:
        """There is nothing of its own to end."""


class CommandScorer:
    """A program that scores; see the module."""

    names = None
    heard = ()

    def __init__(self, command: str, timeout_sec: float = 600.0) -> None:
        """Start the program and read its name and version.

        Args:
            command: words as in a shell.
            timeout_sec: how long it may take for its first line, and for the answers to one prompt.

        Raises:
            DataError: it cannot be started, ends, does not answer in time or says something else.
        """
        self.command, self.timeout_sec = command, timeout_sec
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the program)
        self._rest = b""
        try:
            words = shlex.split(command)
            self._process = subprocess.Popen(  # noqa: S603  (the user's own program, without a shell)
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, bufsize=0
            )
        except (OSError, ValueError, IndexError) as error:
            self._errors.close()
            raise DataError(f"the scorer {command!r} cannot be started: {error}") from None
        try:
            os.set_blocking(self._input, False)
            head = self._read(time.monotonic() + timeout_sec)
            if not (isinstance(head, dict) and isinstance(head.get("name"), str) and "version" in head):
                raise self._failure('did not begin with {"name": ..., "version": ...}')
        except BaseException:
            self.close()
            raise
        self.name, self.version = one_line(head["name"]), one_line(str(head["version"]))

    def score(self, prompt: StorePrompt, answers: Sequence[Generated]) -> list[dict[str, float]]:
        """What the program says of each answer.

        Args:
            prompt: what was answered.
            answers: of the model.

        Raises:
            DataError: the program ended, was too slow, or did not give numbers for every answer.
        """
        asked = {
            "prompt": {"id": prompt.sample_id, "language": prompt.language, "text": prompt.text},
            "answers": [answer.codes_F.tolist() for answer in answers],
        }
        deadline = time.monotonic() + self.timeout_sec
        self._write(json.dumps(asked).encode() + b"\n", deadline)
        found = self._read(deadline)
        scores = found.get("scores") if isinstance(found, dict) else None
        if not isinstance(scores, list) or len(scores) != len(answers):
            raise self._failure(f"was asked for the scores of {len(answers)} answers and gave {str(found)[:200]!r}")
        try:
            return [checked_scores(one) for one in scores]
        except (TypeError, ValueError) as error:
            raise self._failure(f"gave scores that are not names with numbers: {error}") from None

    def close(self) -> None:
        """End the program."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            if pipe is not None:
                pipe.close()

    @property
    def _input(self) -> int:
        assert self._process.stdin is not None
        return self._process.stdin.fileno()

    def _write(self, line: bytes, deadline: float) -> None:
        """Hand a line over; a program that does not read it is too slow, however long its pipe is."""
        while line:
            left_sec = deadline - time.monotonic()
            if left_sec <= 0 or not select.select([], [self._input], [], left_sec)[1]:
                raise self._failure(f"did not read what it was asked in {self.timeout_sec:g} s")
            try:
                line = line[os.write(self._input, line) :]
            except OSError:
                raise self._failure("ended") from None

    def _read(self, deadline: float) -> Any:
        """The next line as JSON."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while b"\n" not in self._rest:
            left_sec = deadline - time.monotonic()
            if left_sec <= 0 or not select.select([descriptor], [], [], left_sec)[0]:
                raise self._failure(f"gave no answer in {self.timeout_sec:g} s")
            data = os.read(descriptor, 1 << 20)
            if not data:
                raise self._failure("ended")
            self._rest += data
            if len(self._rest) > MAX_LINE_BYTES:
                raise self._failure(f"wrote a line of more than {MAX_LINE_BYTES >> 20} MB")
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            return parse_json(line)
        except ValueError:
            raise self._failure(f"wrote {line[:200].decode(errors='replace')!r}, which is not JSON") from None

    def _failure(self, what: str) -> DataError:
        try:
            code = self._process.wait(1)
        except subprocess.TimeoutExpired:
            code = None
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - LAST_WORDS_BYTES))
        words = one_line(self._errors.read().decode(errors="replace").strip())
        ending = f" with code {code}" if code is not None and what == "ended" else ""
        said = f"; its last words: {words}" if words else ""
        return DataError(f"the scorer {self.command!r} {what}{ending}{said}. Prompts that are done are kept")
