"""`[model] initial`: the folder a run starts from, with its vocabulary extended where it is not yet.

In: the [model] settings and the run's vocabulary. Out: a folder with weights for the extended vocabulary. A backbone as
it was published is extended into the run folder by the first process of each machine, while the others wait for a lock.
The result depends on folder and seed alone, so every machine gets the same weights, and so does `titan-speech model
expand` with the same settings.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from titan_speech.config.schema_training import ModelConfig
from titan_speech.distributed.consensus import StartupConsensus
from titan_speech.errors import ModelError
from titan_speech.hf.expand import Expansion, ExtendableBackbone, is_expanded, read_expansion
from titan_speech.hf.model_folder import HFFolder
from titan_speech.hf.row_initialization import NewRows
from titan_speech.tokenization.vocabulary import Vocabulary
from titan_speech.utils.locks import wait_for_lock

INITIAL_DIR = "initial"
"""Folder in a run folder: the backbone with its vocabulary extended. Once the run has a checkpoint nothing reads it."""


def extended_initial(
    config: ModelConfig, vocabulary: Vocabulary, run_folder: Path, consensus: StartupConsensus
) -> tuple[Path, Expansion]:
    """The folder to load weights from, and the record of how it was made.

    Every rank calls this before the process group exists. The vocabulary is extended into `run_folder` unless it is
    already; a folder that cannot be used is refused on every rank at once, before the run folder is touched.

    Raises:
        ModelError: the folder does not fit the run's vocabulary, or its vocabulary cannot be extended.
    """
    source, output = Path(config.initial), run_folder / INITIAL_DIR
    checked: list[ExtendableBackbone] = []

    def check() -> None:
        if is_expanded(source):
            _checked(read_expansion(source), source, vocabulary)
        elif not output.exists():
            checked.append(ExtendableBackbone.open(source))

    consensus.decide_on_rank_0("initial", check)
    if is_expanded(source):
        return source, _checked(read_expansion(source), source, vocabulary)
    settings = NewRows(config.new_rows, config.new_rows_scale)
    if not output.exists():
        backbone = checked[0] if checked else ExtendableBackbone.open(source)
        with _first_process_of_machine(run_folder):
            if not output.exists():
                backbone.write(output, settings)
    record = _checked(read_expansion(output), output, vocabulary)
    _check_same_settings(record, source, settings, output)
    return output, record


def _check_same_settings(record: Expansion, source: Path, settings: NewRows, output: Path) -> None:
    """An earlier start of the run may have asked for other weights."""
    found = Path(record.source).name, record.method, record.scale
    asked = source.name, settings.method, settings.scale
    if found != asked:
        raise ModelError(
            f"{output} was made of {found[0]} with new rows {found[1]}, scale {found[2]:g}; this run asks for "
            f"{asked[0]}, {asked[1]}, scale {asked[2]:g}. Delete the folder to have it made again, or give another "
            "job.dump_folder"
        )


@contextlib.contextmanager
def _first_process_of_machine(run_folder: Path) -> Iterator[None]:
    """One process at a time. The lock file is removed, and so is a run folder that was made for it and stayed empty."""
    try:
        lock = run_folder / f"{INITIAL_DIR}.lock"
        with wait_for_lock(lock):
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
    except OSError as error:
        raise ModelError(
            f"job.dump_folder = {str(run_folder)!r} cannot be written: {error}; give a folder this user can write to"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # a run folder that holds files stays
            run_folder.rmdir()


def _checked(record: Expansion, folder: Path, vocabulary: Vocabulary) -> Expansion:
    """The record, if the folder is complete and of this vocabulary."""
    if record.vocabulary != vocabulary.fingerprint:
        raise ModelError(
            f"{folder} was extended to vocabulary {record.vocabulary}, this run has {vocabulary.fingerprint}: point "
            "[tokenizer] path at the tokenizer of the backbone (text_tokenizer in the extended folder)"
        )
    HFFolder.open(folder)
    return record
