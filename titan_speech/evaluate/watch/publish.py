"""Where results go besides their folder: the note for a card, TensorBoard, Weights & Biases.

In: results as they appear. Out: RUN/evaluation/step-N.md, which the export of that step puts into its card; scalars at
the checkpoint's own step, in event files of RUN/evaluation/tb and in a W&B run of its own.
A sink that fails costs one warning, as in training.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from titan_speech.checkpoint.commit import step_name
from titan_speech.errors import DataError
from titan_speech.evaluate.result import RESULTS_DIR, Result, read_result, result_path
from titan_speech.evaluate.statistics import intervals
from titan_speech.evaluate.summary import summary
from titan_speech.training.sinks.sink import Sinks
from titan_speech.training.sinks.tensorboard import TensorBoardSink
from titan_speech.training.sinks.wandb_run import WandbSink
from titan_speech.utils.files import write_atomically

SINKS = ("tensorboard", "wandb")


def open_sinks(names: Sequence[str], folder: Path, run_name: str) -> Sinks:
    """Sinks for evaluations.

    Args:
        names: of `SINKS`.
        folder: RUN/evaluation, or a folder of this machine.
        run_name: of the run that is evaluated.
    """
    makers = {
        "tensorboard": lambda: TensorBoardSink(folder / "tb", 0),
        "wandb": lambda: WandbSink(folder, {"evaluates": run_name}, ("evaluation",), f"{run_name}-evaluation"),
    }
    return Sinks(*((name, makers[name]) for name in names))


@dataclass
class Publisher:
    """Publishes each result."""

    notes: Path | None
    """The folder of notes for cards; None: none are written."""
    sinks: Sinks
    _read: dict[str, Result | None] = field(default_factory=dict)
    """Results of the folder by the names of their files, each read once; None: it has none."""

    def __call__(self, result: Result) -> None:
        if result.step is None:
            return
        self.sinks.log(result.step, scalars(result))
        if self.notes is not None:
            of_step = [one for one in self._results() if one.step == result.step]
            write_atomically(self._note(result.step), summary(of_step))

    def restore_notes(self) -> None:
        """Write notes that are missing or older than a result of their step.

        A worker that was killed between a result and its note leaves such ones."""
        if self.notes is None:
            return
        by_step: dict[int, list[Result]] = defaultdict(list)
        newest: dict[int, float] = defaultdict(float)
        for result in self._results():
            if result.step is not None:
                by_step[result.step].append(result)
                path = self.notes / result_path(result.key.id)
                newest[result.step] = max(newest[result.step], path.stat().st_mtime)
        for step, results in by_step.items():
            note = self._note(step)
            if not note.is_file() or note.stat().st_mtime < newest[step]:
                write_atomically(note, summary(results))

    def _note(self, step: int) -> Path:
        assert self.notes is not None
        return self.notes / f"{step_name(step)}.md"

    def _results(self) -> list[Result]:
        assert self.notes is not None
        for path in sorted((self.notes / RESULTS_DIR).glob("*.json")):
            if path.name not in self._read:
                try:
                    self._read[path.name] = read_result(path)
                except DataError:  # a failure instead of a result, or a damaged file, which the watcher has named
                    self._read[path.name] = None
        return [one for one in self._read.values() if one is not None]


def scalars(result: Result) -> Mapping[str, float]:
    """Means by metric and language, named evaluation/SET/METRIC and evaluation/SET/METRIC/language/L."""
    set_name = result.key.pack.rpartition("-")[2]
    return {
        f"evaluation/{set_name}/{one.metric}{f'/language/{one.language}' if one.language else ''}": one.mean
        for one in intervals(result)
        if one.subset == "*" and one.mean is not None
    }
