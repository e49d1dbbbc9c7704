"""Text for `titan-speech checkpoint list`, `inspect` and `diff`, and which checkpoints a path of theirs means.

In: a run folder, its checkpoint folder, or a checkpoint (.../step-N).
Out: text. `list` looks at sizes only, so it answers at once for any size of model; `inspect` reads DCP's index, no
tensor. The run's configuration is read as plain TOML: its stores and tokenizer may be on another machine.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import tomli

from titan_speech.checkpoint.commit import (
    INDEX,
    MARKER,
    Checkpoint,
    committed_checkpoints,
    existing_text,
    role_of_name,
    step_from_name,
    step_name,
    suspicion,
)
from titan_speech.checkpoint.folders import PARTIAL, ROLLED_BACK
from titan_speech.checkpoint.provenance import Provenance, read_provenance
from titan_speech.checkpoint.retention import RetentionPolicy, pinned_steps
from titan_speech.checkpoint.upload.job import UploadStatus, read_status, status_path
from titan_speech.checkpoint.verify import CheckpointVerification, verify
from titan_speech.config.resolved import RESOLVED_NAME
from titan_speech.config.schema_operations import CheckpointConfig
from titan_speech.errors import CheckpointError
from titan_speech.utils.json_text import parse_json
from titan_speech.utils.printable import joined_lines
from titan_speech.utils.text_table import counted, size_text, table_lines

HEADER = ("step", "kind", "size", "age", "saved for", "kept as", "loss", "upload", "state")
MULTILINE = ("config", "tokens")


@dataclass(frozen=True)
class RunDir:
    """The checkpoints of one run, and what its folder says about them."""

    folder: Path
    """The folder of the checkpoints step-N."""

    milestone_every_steps: int = 0
    loss_at: dict[int, float] = field(default_factory=dict)
    """Losses of logged steps."""

    def checkpoint(self, step: int) -> Checkpoint:
        """The complete checkpoint of a step.

        Raises:
            CheckpointError: the run has no complete checkpoint of this step.
        """
        complete = committed_checkpoints(self.folder)
        found = next((one for one in complete if one.step == step), None)
        if found is None:
            known = existing_text([one.step for one in complete])
            raise CheckpointError(f"no complete checkpoint of step {step} in {self.folder}; {known}")
        return found


def run_dir(path: Path) -> RunDir:
    """The checkpoints at `path`: a run folder, or the folder of the checkpoints step-N.

    Raises:
        CheckpointError: the path is neither.
    """
    run_folder = path if (path / RESOLVED_NAME).is_file() else path.parent
    if (run_folder / RESOLVED_NAME).is_file():
        settings = _checkpoint_settings(run_folder / RESOLVED_NAME)
        folder = run_folder / str(settings.get("folder", CheckpointConfig.folder))
        if path in (run_folder, folder):
            every = settings.get("milestone_every_steps", CheckpointConfig.milestone_every_steps)
            return RunDir(folder, int(str(every)), _losses(run_folder))
    if any(path.glob("step-[0-9]*")):
        return RunDir(path)
    raise CheckpointError(
        f"{path} is neither a run folder (with {RESOLVED_NAME}) nor a folder with checkpoints (step-N)"
    )


def checkpoints_at(path: Path, step: int | None = None) -> list[Path]:
    """The checkpoint at `path`, or all of the run at `path` by rising step, or the run's checkpoint of `step`.

    Raises:
        CheckpointError: a checkpoint that is named by its step does not exist.
    """
    own_step = step_from_name(path.name)
    if own_step is not None:
        return [path if path.is_dir() else RunDir(path.parent).checkpoint(own_step).path]
    run = run_dir(path)
    return [one.path for one in (committed_checkpoints(run.folder) if step is None else [run.checkpoint(step)])]


def one_checkpoint(path: Path) -> Path:
    """The checkpoint at `path`, or the newest of the run at `path`.

    Raises:
        CheckpointError: no complete checkpoint is there.
    """
    found = checkpoints_at(path)
    if not found:
        raise CheckpointError(f"no complete checkpoint in {path}; has the run saved one yet?")
    return found[-1]


def _checkpoint_settings(file: Path) -> dict[str, object]:
    try:
        return tomli.loads(file.read_text(encoding="utf-8")).get("checkpoint", {})
    except ValueError as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error


def _losses(run_folder: Path) -> dict[int, float]:
    path = run_folder / "metrics.jsonl"
    if not path.is_file():
        return {}
    losses = {}
    with open(path, "rb") as file:
        for line in file:
            with suppress(ValueError, KeyError, TypeError):  # a line that a crash cut off, or an event
                record = parse_json(line)
                losses[int(record["step"])] = float(record["loss"])
    return losses


@dataclass(frozen=True)
class Listing:
    """One line per checkpoint, and what else is in the folder."""

    lines: tuple[str, ...]
    is_lost: bool
    """There are checkpoints, and every one of them is damaged."""

    def __str__(self) -> str:
        return joined_lines(self.lines)


def list_checkpoints(run: RunDir) -> Listing:
    """One line per checkpoint of a run, other folders that look like checkpoints, and the state of its uploads."""
    uploads = read_status(status_path(run.folder.parent))
    found = [(one, verify(one.path, checksums=False)) for one in committed_checkpoints(run.folder)]
    pinned = pinned_steps(run.folder)
    rows = [_row(run, one.step, verification, uploads, pinned) for one, verification in found]
    lines = [*table_lines([HEADER, *rows]), *_incomplete(run.folder)]
    lines += _uploads(uploads, run.folder) if uploads else []
    return Listing(tuple(lines), bool(found) and not any(verification.is_sound for _, verification in found))


def _row(
    run: RunDir, step: int, found: CheckpointVerification, uploads: UploadStatus | None, pinned: frozenset[int]
) -> tuple[str, ...]:
    reasons = ["pinned"] if step in pinned else []
    reasons += ["milestone"] if RetentionPolicy(0, 0, run.milestone_every_steps).is_milestone(step) else []
    loss = f"{run.loss_at[step]:.4f}" if step in run.loss_at else ""
    upload = uploads.state_of(step_name(step)) if uploads else ""
    state = f"DAMAGED: {'; '.join(found.problems)}"
    if found.is_sound:
        suspect = found.commit.suspect if found.commit is not None else ""
        state = f"SUSPECT: {suspect}" if suspect else "complete"
    of_commit = ("?", "?", "?", "?")
    if found.commit is not None:
        commit = found.commit
        of_commit = (commit.kind, size_text(commit.num_bytes), _age(commit.written_unix_sec), commit.reason)
    return (str(step), *of_commit, ", ".join(reasons), loss, upload, state)


def _incomplete(folder: Path) -> Iterator[str]:
    """Folders that look like checkpoints and are not complete ones."""
    for path in sorted(folder.glob("step-*")):
        if path.name.endswith(PARTIAL):
            yield f"{path.name}: being saved now, or left by a run that was stopped"
        elif path.name.endswith(ROLLED_BACK):
            yield f"{path.name}: the run was rolled back to an earlier step; remove it when you like"
        elif step_from_name(path.name) is not None and not (path / MARKER).exists():
            yield f"{path.name}: has no {MARKER}, so it is not complete; see titan-speech checkpoint verify {path}"


def _uploads(status: UploadStatus, folder: Path) -> Iterator[str]:
    """What the table has no column for."""
    yield f"uploads to {status.to}: {len(status.waiting)} wait ({size_text(status.left_bytes)})"
    only_there = [name for name in status.complete if not (folder / name).is_dir()]
    if only_there:
        yield f"complete there and not here: {', '.join(only_there)}"
    yield from status.left_out
    if status.last_error:
        yield f"the last attempt failed: {status.last_error}"


def _age(written_unix_sec: float) -> str:
    """How long ago by the wall clock; a clock that was set back makes it 0."""
    minutes = max(0.0, time.time() - written_unix_sec) / 60
    if minutes < 120:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.0f} h" if minutes < 48 * 60 else f"{minutes / 1440:.0f} d"


def inspect_text(checkpoint: Path) -> str:
    """What made a checkpoint, the tokens it was trained on, and every tensor in it."""
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    from titan_speech.checkpoint.index_reader import read_index

    provenance = read_provenance(checkpoint)
    suspect = suspicion(checkpoint)
    lines = [f"{checkpoint}", *([f"SUSPECT: {suspect}"] if suspect else [])]
    lines += _provenance_lines(provenance) if provenance else ["no record of what made it"]
    try:
        entries = read_index(checkpoint / INDEX).state_dict_metadata
    except OSError as error:
        raise CheckpointError(f"the index of {checkpoint} cannot be read: {type(error).__name__}: {error}") from error
    tensors = {name: entry for name, entry in entries.items() if isinstance(entry, TensorStorageMetadata)}
    weights = [entry.size.numel() for name, entry in tensors.items() if role_of_name(name) == "model"]
    lines.append(
        f"tensors: {len(tensors):,}, of them {counted(len(weights), 'weight')} with {counted(sum(weights), 'number')}"
    )
    for name, entry in sorted(tensors.items()):
        lines.append(f"  {name}  {list(entry.size)}  {str(entry.properties.dtype).removeprefix('torch.')}")
    return joined_lines(lines)


def _provenance_lines(provenance: Provenance) -> Iterator[str]:
    for name, value in asdict(provenance).items():
        if name not in MULTILINE and value:
            yield f"  {name}: {', '.join(map(str, value)) if isinstance(value, tuple) else value}"
    total = sum(read.num_tokens for read in provenance.tokens)
    yield f"  tokens read in this run, padding included: {total:,}"
    yield from (f"    {read.source} {read.language}: {read.num_tokens:,}" for read in provenance.tokens)
    yield "  configuration:"
    yield from (f"    {line}" for line in provenance.config.splitlines())


def diff_text(one: Path, other: Path) -> str:
    """What differs in how two checkpoints were made; empty if nothing does.

    Raises:
        CheckpointError: one of them has no provenance.
    """
    return joined_lines(
        difflib.unified_diff(_read_lines(one), _read_lines(other), str(one), str(other), lineterm="", n=0)
    )


def _read_lines(checkpoint: Path) -> list[str]:
    provenance = read_provenance(checkpoint)
    if provenance is None:
        raise CheckpointError(f"{checkpoint} has no record of what made it (provenance/{checkpoint.name}.json)")
    return list(_provenance_lines(provenance))
