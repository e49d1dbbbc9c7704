"""The record beside each checkpoint: which vocabulary, model and data plan it belongs to, and what made it.

In: fingerprints and versions, known before training. Out: `provenance/step-N.json` in the checkpoint folder, written
before the checkpoint itself, so that a checkpoint that loads always has one. It is compared before weights are read,
so that a mismatch is an error that names both sides instead of a failure about tensor shapes.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from titan_speech.errors import CheckpointError
from titan_speech.model.shape import BackboneShape

FOLDER = "provenance"
WEIGHTS_NEED = ("vocabulary", "model")
RESUMING_NEEDS = (*WEIGHTS_NEED, "grammar", "global_batch_tokens")
"""Whether the data plan allows it is for data/phases to say, which can tell what changed."""


@dataclass(frozen=True)
class Provenance:
    """What a checkpoint was made by. Which of it must agree is said in `check_fits`."""

    vocabulary: str
    """Fingerprint of vocabulary and tokenizer."""

    grammar: str
    """Fingerprint of the prompt grammar."""

    model: str
    """Family and flavor of the backbone."""

    global_batch_tokens: int
    """Tokens of a step: with it a step number says which data was read."""

    plan: str = ""
    """Fingerprint of the data plan: stores, weights, sequence length, seed."""

    stores: tuple[str, ...] = ()
    """Fingerprints of the token stores."""

    versions: tuple[str, ...] = ()
    """Versions of the packages that trained it."""

    git_revision: str = ""
    """Revision of the working directory's repository, with `-dirty` after it when it had changes."""

    world_size: int = 1
    """Processes that wrote it."""

    backbone: BackboneShape | None = None
    """Sizes of the backbone."""

    initial: str = ""
    """What the first weights of the run were made from: folder, digest of its weights, how new rows were drawn."""

    def write(self, checkpoint: Path) -> None:
        """Write the record of `checkpoint` (.../step-N); atomic, so a kill leaves the old one or the new one."""
        path = provenance_path(checkpoint)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        partial.replace(path)

    def check_fits(self, found: Provenance, where: Path, *, weights_only: bool) -> None:
        """Refuse a checkpoint of another vocabulary or model and, to resume it, of another grammar or batch size.

        Raises:
            CheckpointError: names every field that differs, with both values.
        """
        must_agree = WEIGHTS_NEED if weights_only else RESUMING_NEEDS
        differing = [
            f"{name}: the checkpoint has {theirs}, this run has {ours}"
            for name in must_agree
            if (ours := getattr(self, name)) != (theirs := getattr(found, name))
        ]
        if differing:
            fits = all(getattr(self, name) == getattr(found, name) for name in WEIGHTS_NEED)
            weights = "; to take only its weights, set checkpoint.initial_load_path to it" if fits else ""
            raise CheckpointError(
                f"{where} belongs to another run. {'; '.join(differing)}. To go on, use the configuration it was "
                f"trained with (config.toml in its run folder); to start anew, give another job.dump_folder{weights}."
            )


def provenance_path(checkpoint: Path) -> Path:
    """Where the record of a checkpoint (.../step-N) lies: beside it, since DCP owns the folder itself."""
    return checkpoint.parent / FOLDER / f"{checkpoint.name}.json"


def read_provenance(checkpoint: Path) -> Provenance | None:
    """The record of a checkpoint, or None where there is none (a checkpoint from elsewhere).

    Raises:
        CheckpointError: the record is there but cannot be read.
    """
    path = provenance_path(checkpoint)
    if not path.exists():
        return None
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(
            f"{path} is damaged ({error}); without it {checkpoint.name} cannot be told from another run's checkpoint. "
            "Restore it, or remove it to load the checkpoint unchecked."
        ) from error
    lists: dict[str, Any] = {key: tuple(record[key]) for key in ("stores", "versions") if key in record}
    if record.get("backbone") is not None:
        lists["backbone"] = BackboneShape.from_record(record["backbone"])
    known = {field.name for field in fields(Provenance)}
    return Provenance(**{key: value for key, value in {**record, **lists}.items() if key in known})


def package_versions() -> tuple[str, ...]:
    """Versions that can change a result."""
    names = ("titan_speech", "torch", "torchtitan", "torchdata")
    return tuple(f"{name} {_version(name)}" for name in names)


def git_revision() -> str:
    """Revision of the working directory, or empty where there is no repository."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _version(name: str) -> str:
    from titan_speech import __version__

    return __version__ if name == "titan_speech" else version(name)
