"""A checkpoint that is to be exported, with what its run says of it.

In: .../step-N or a run folder. Out: the step, its configuration, vocabulary and sizes, once its marker is there and its
files have the sizes the marker says (one stat a file; checksums would read all of it, 34 GB for 8B in float32, once
more). `titan-speech checkpoint adopt` gives a checkpoint of another program its marker.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from titan_speech.checkpoint.provenance import Provenance, read_provenance
from titan_speech.checkpoint.start import complete_steps
from titan_speech.checkpoint.upload.lease import kept_for_upload
from titan_speech.checkpoint.verify import verify
from titan_speech.config.load import load_config
from titan_speech.config.resolved import FILE_NAME
from titan_speech.config.tables import SpeechConfig
from titan_speech.errors import CheckpointError
from titan_speech.hf.initial import trained_shape
from titan_speech.model.shape import BackboneShape
from titan_speech.prompts import Grammar
from titan_speech.text_tokenizer import TextTokenizer

EVALUATION_FOLDER = "evaluation"
"""Of a run folder: step-N.md has what was measured of a step, for the card of its export."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint with what its run says of it."""

    path: Path
    run_folder: Path
    step: int
    config: SpeechConfig
    tokenizer: TextTokenizer
    grammar: Grammar
    shape: BackboneShape
    provenance: Provenance | None

    @classmethod
    def open(cls, path: Path) -> Checkpoint:
        """`path` is .../step-N, or a run folder, whose newest checkpoint is taken.

        Raises:
            CheckpointError: there is none, or it was trained with another vocabulary than its tokenizer gives.
        """
        run_folder, checkpoint = _located(path)
        config = load_config(["--job.config_file", str(run_folder / FILE_NAME)]).config
        tokenizer = TextTokenizer.load(config.tokenizer.path)
        grammar = Grammar(tokenizer.vocabulary())
        provenance = read_provenance(checkpoint)
        if provenance is not None and provenance.vocabulary != grammar.vocabulary.fingerprint:
            raise CheckpointError(
                f"{checkpoint} was trained with vocabulary {provenance.vocabulary}; the tokenizer at "
                f"{config.tokenizer.path} gives {grammar.vocabulary.fingerprint}. Restore the one it was trained with."
            )
        step = int(checkpoint.name.removeprefix("step-"))
        shape = trained_shape(config.model, provenance)
        return cls(checkpoint, run_folder, step, config, tokenizer, grammar, shape, provenance)

    def evaluation_notes(self) -> str:
        """What the run folder has on this step; empty where it has nothing."""
        file = self.run_folder / EVALUATION_FOLDER / f"{self.path.name}.md"
        return file.read_text(encoding="utf-8").strip() if file.is_file() else ""

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Retention leaves its files alone until the block ends.

        Raises:
            CheckpointError: it is gone, or being removed.
        """
        with kept_for_upload(self.path) as is_there:
            if not is_there:
                raise CheckpointError(f"{self.path} was removed, or is being removed (retention); take another step")
            yield


def _located(path: Path) -> tuple[Path, Path]:
    """Run folder and checkpoint folder."""
    if path.name.startswith("step-"):
        checkpoint = path.absolute()
        run_folder = next((p for p in checkpoint.parents if (p / FILE_NAME).is_file()), None)
        if run_folder is None:
            raise CheckpointError(f"{path} belongs to no run: expected {FILE_NAME} in a folder above")
        _check_whole(checkpoint)
        return run_folder, checkpoint
    if not (path / FILE_NAME).is_file():
        raise CheckpointError(f"{path} is neither a checkpoint (.../step-N) nor a run folder with {FILE_NAME}")
    folder = path / load_config(["--job.config_file", str(path / FILE_NAME)]).config.checkpoint.folder
    steps = complete_steps(folder)
    if not steps:
        raise CheckpointError(f"no complete checkpoint in {folder}; has the run saved one yet?")
    _check_whole(folder / f"step-{steps[-1]}")
    return path, folder / f"step-{steps[-1]}"


def _check_whole(checkpoint: Path) -> None:
    found = verify(checkpoint, checksums=False)
    if not found.is_sound:
        raise CheckpointError(f"{checkpoint} is no complete checkpoint: {'; '.join(found.problems)}")
