"""`[model] initial`: the folder a run starts from, grown where it is not.

In: the [model] table and the run's vocabulary. Out: the sizes of the backbone, and a folder with grown weights. A
backbone as it was published is grown into the run folder by the first process of each machine, while the others wait
for a lock; growing is a function of folder and seed, so every machine gets the same weights, and a grown folder made
beforehand by `titan-speech model expand` with the same settings has them too.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from titan_speech.checkpoint.provenance import Provenance
from titan_speech.config.schema_training import INITIAL_FLAVOR, ModelConfig
from titan_speech.distributed.consensus import decide_on_rank_0
from titan_speech.errors import ModelError
from titan_speech.hf.expand import Expansion, Extendable, NewRows, is_expanded, read_expansion
from titan_speech.hf.model_folder import HFFolder, read_json, shape_from_config
from titan_speech.model.backbones import BackboneShape, published_shape
from titan_speech.model.exported_files import CONFIG_NAME
from titan_speech.tokenization.vocabulary import Vocabulary

INITIAL_DIR = "initial"
"""Of a run folder: the backbone, grown. Once the run has a checkpoint nothing reads it."""


def model_shape(table: ModelConfig) -> BackboneShape:
    """Sizes the [model] table asks for.

    Raises:
        ConfigError: the family has no such flavor.
        ModelError: model.initial has other sizes than the flavor, or is no model folder.
    """
    if not table.initial:
        return published_shape(table.family, table.flavor)
    file = Path(table.initial) / CONFIG_NAME
    found = shape_from_config(read_json(file, "a Hugging Face model folder (model.initial)"), file)
    if table.flavor == INITIAL_FLAVOR:
        differences = [] if found.family == table.family else [f"family {found.family} against {table.family}"]
    else:
        differences = found.differences(published_shape(table.family, table.flavor))
    if differences:
        raise ModelError(
            f"model.initial = {table.initial!r} is not the {table.family} {table.flavor} that [model] asks for: "
            f'{"; ".join(differences)}. Set model.flavor = "{INITIAL_FLAVOR}" to take the sizes of the folder, or '
            "correct model.family and model.flavor"
        )
    return found


def trained_shape(table: ModelConfig, provenance: Provenance | None) -> BackboneShape:
    """Sizes a checkpoint was trained with; its record has them, also where model.initial is gone."""
    return provenance.backbone if provenance is not None and provenance.backbone is not None else model_shape(table)


def extended_initial(table: ModelConfig, vocabulary: Vocabulary, run_folder: Path) -> tuple[Path, Expansion]:
    """The folder to load, and the record of how it was made; grown into `run_folder` where it is not.

    Raises:
        ModelError: the folder does not fit the run's vocabulary or cannot be grown.
    """
    source, output = Path(table.initial), run_folder / INITIAL_DIR
    looked_at: list[Extendable] = []

    def look() -> None:
        if is_expanded(source):
            _checked(read_expansion(source), source, vocabulary)
        elif not output.exists():
            looked_at.append(Extendable.of(source))

    decide_on_rank_0("initial", look)  # refused by all at once, before the run folder is touched
    if is_expanded(source):
        return source, _checked(read_expansion(source), source, vocabulary)
    how = NewRows(table.new_rows, table.new_rows_scale)
    if not output.exists():
        growable = looked_at[0] if looked_at else Extendable.of(source)
        with _first_of_this_machine(run_folder):
            if not output.exists():
                growable.write(output, how)
    record = _checked(read_expansion(output), output, vocabulary)
    _check_same_start(record, source, how, output)
    return output, record


def _check_same_start(record: Expansion, source: Path, how: NewRows, output: Path) -> None:
    """An earlier start of the run may have been asked for other weights."""
    found = Path(record.source).name, record.method, record.scale
    asked = source.name, how.method, how.scale
    if found != asked:
        raise ModelError(
            f"{output} was made of {found[0]} with new rows {found[1]}, scale {found[2]:g}; this run asks for "
            f"{asked[0]}, {asked[1]}, scale {asked[2]:g}. Delete the folder to have it made again, or give another "
            "job.dump_folder"
        )


@contextlib.contextmanager
def _first_of_this_machine(run_folder: Path) -> Iterator[None]:
    """One process at a time; its lock file goes with it, and so does a run folder that was made for it in vain."""
    try:
        run_folder.mkdir(parents=True, exist_ok=True)
        lock = run_folder / f"{INITIAL_DIR}.lock"
        with open(lock, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
    except OSError as error:
        raise ModelError(
            f"job.dump_folder = {str(run_folder)!r} cannot be written: {error}; give a folder this user can write to"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # it has the files of a run
            run_folder.rmdir()


def _checked(record: Expansion, folder: Path, vocabulary: Vocabulary) -> Expansion:
    if record.vocabulary != vocabulary.fingerprint:
        raise ModelError(
            f"{folder} was grown for vocabulary {record.vocabulary}, this run has {vocabulary.fingerprint}: point "
            "[tokenizer] path at the tokenizer of the backbone (text_tokenizer in the grown folder)"
        )
    HFFolder.open(folder)
    return record
