"""TensorBoard: event files in RUN/tb, one per start of the run, which TensorBoard reads as one run.

A resumed run tells TensorBoard at which step it begins again, so what an earlier start logged after it is not shown.
Audio and texts of generated samples are under the name of their prompt.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from titan_speech.training.sinks.sink import Sample, Sink


def _hide_errors_of_the_writer() -> None:
    """TensorBoard's thread keeps its error, which the next call raises: what Python prints is one report too many."""
    plain = threading.excepthook

    def hook(raised: threading.ExceptHookArgs) -> None:
        if not type(raised.thread).__module__.startswith("tensorboard."):
            plain(raised)

    threading.excepthook = hook


class TensorBoardSink(Sink):
    """Writes event files."""

    def __init__(self, folder: Path, from_step: int) -> None:
        """
        Args:
            folder: of the event files.
            from_step: steps that were done before this start.
        """
        from torch.utils.tensorboard import SummaryWriter

        _hide_errors_of_the_writer()
        # Also from step 0: a start before may have been killed before its first save.
        self._writer = SummaryWriter(str(folder), max_queue=1000, purge_step=from_step + 1)

    def log(self, step: int, metrics: Mapping[str, float], *, is_repeat: bool = False) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def samples(self, step: int, samples: Sequence[Sample], *, is_repeat: bool = False) -> None:
        for sample in samples:
            text = "\n".join(f"{name}: {value}  " for name, value in sample.columns.items())
            self._writer.add_text(f"samples/{sample.name}", text, step)
            if sample.audio_T is not None:
                self._writer.add_audio(f"samples/{sample.name}", sample.audio_T[None], step, sample.sample_rate)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
