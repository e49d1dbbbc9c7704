"""Which checkpoints a path on the command line means.

In: a run folder, its checkpoint folder, or a checkpoint (.../step-N). Out: the folder of checkpoints, and of a run its
settings and losses as far as they lie there. The run's configuration is read as plain TOML: its stores and tokenizer
may be on another machine.

Checkpoints for people: `titan-speech checkpoint list`, `inspect` and `diff`.

In: checkpoint folders. Out: text. `list` looks at sizes only, so it answers at once for any size of model; `inspect`
reads DCP's index, no tensor.
"""

from __future__ import annotations

import difflib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import tomli

from titan_speech.checkpoint.commit import (
    INDEX,
    MARKER,
    PARTIAL,
    ROLLED_BACK,
    STEP_NAME,
    checkpoint_path,
    committed_steps,
    role_of_name,
)
from titan_speech.checkpoint.provenance import Provenance, read_provenance
from titan_speech.checkpoint.retention import RetentionPolicy, pinned_steps
from titan_speech.checkpoint.upload.status import UploadStatus, read_status, status_path
from titan_speech.checkpoint.verify import Verification, verify
from titan_speech.config.resolved import RESOLVED_NAME
from titan_speech.config.schema_operations import CheckpointConfig
from titan_speech.errors import CheckpointError
from titan_speech.utils.text_table import size_text, table_lines


@dataclass(frozen=True)
class RunDir:
    """Checkpoints of one run, and what is known of it."""

    folder: Path
    """Where step-N lie."""

    milestone_every_steps: int = 0
    loss_at: dict[int, float] = field(default_factory=dict)
    """Losses of logged steps."""

    def checkpoint(self, step: int) -> Path:
        """A checkpoint that is complete.

        Raises:
            CheckpointError: there is none of this step.
        """
        steps = committed_steps(self.folder)
        if step not in steps:
            known = f"there are the steps {', '.join(map(str, steps))}" if steps else "there is none"
            raise CheckpointError(f"no complete checkpoint of step {step} in {self.folder}; {known}")
        return checkpoint_path(self.folder, step)


def run_dir(path: Path) -> RunDir:
    """The checkpoints in `path`: a run folder, or the folder step-N lie in.

    Raises:
        CheckpointError: it is neither.
    """
    run_folder = path if (path / RESOLVED_NAME).is_file() else path.parent
    if (run_folder / RESOLVED_NAME).is_file():
        table = _table(run_folder / RESOLVED_NAME)
        folder = run_folder / str(table.get("folder", CheckpointConfig.folder))
        if path in (run_folder, folder):
            every = table.get("milestone_every_steps", CheckpointConfig.milestone_every_steps)
            return RunDir(folder, int(str(every)), _losses(run_folder))
    if any(STEP_NAME.match(step.name) for step in path.glob("step-*")):
        return RunDir(path)
    raise CheckpointError(
        f"{path} is neither a run folder (with {RESOLVED_NAME}) nor a folder with checkpoints (step-N)"
    )


def checkpoints_at(path: Path, step: int | None = None) -> Iterator[Path]:
    """The checkpoint `path` is, or those of the run it is, or the one of `step`.

    Raises:
        CheckpointError: what was asked for by its step is not there.
    """
    if match := STEP_NAME.fullmatch(path.name):
        yield path if path.is_dir() else RunDir(path.parent).checkpoint(int(match[1]))
        return
    place = run_dir(path)
    steps = committed_steps(place.folder) if step is None else [step]
    yield from (place.checkpoint(one) if step is not None else checkpoint_path(place.folder, one) for one in steps)


def one_checkpoint(path: Path) -> Path:
    """The checkpoint `path` is, or the newest of the run it is.

    Raises:
        CheckpointError: there is none.
    """
    found = list(checkpoints_at(path))
    if not found:
        raise CheckpointError(f"no complete checkpoint in {path}; has the run saved one yet?")
    return found[-1]


def _table(file: Path) -> dict[str, object]:
    try:
        return tomli.loads(file.read_text(encoding="utf-8")).get("checkpoint", {})
    except ValueError as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error


def _losses(run_folder: Path) -> dict[int, float]:
    path = run_folder / "metrics.jsonl"
    if not path.is_file():
        return {}
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    return {record["step"]: record["loss"] for record in records if "event" not in record and record.get("loss")}


HEADER = ("step", "kind", "size", "age", "saved for", "kept as", "loss", "upload", "state")
MULTILINE = ("config", "tokens")


@dataclass(frozen=True)
class Listing:
    """A line a checkpoint, and what else lies there."""

    lines: tuple[str, ...]
    is_lost: bool
    """There are checkpoints, and every one of them is damaged."""

    def __str__(self) -> str:
        return "\n".join(self.lines)


def listed(place: RunDir) -> Listing:
    """The checkpoints of a run."""
    uploads = read_status(status_path(place.folder.parent))
    steps = committed_steps(place.folder)
    found = [verify(checkpoint_path(place.folder, step), checksums=False) for step in steps]
    rows = (_row(place, step, one, uploads) for step, one in zip(steps, found, strict=True))
    lines = [*table_lines([HEADER, *rows]), *_no_checkpoints(place.folder)]
    lines += _uploads(uploads, place.folder) if uploads else []
    return Listing(tuple(lines), bool(found) and not any(one.is_sound for one in found))


def _no_checkpoints(folder: Path) -> Iterator[str]:
    """Folders that look like checkpoints and do not count."""
    for path in sorted(folder.glob("step-*")):
        if path.name.endswith(PARTIAL):
            yield f"{path.name}: being saved now, or left over from a run that was stopped"
        elif path.name.endswith(ROLLED_BACK):
            yield f"{path.name}: the run was rolled back behind it; remove it when you like"
        elif STEP_NAME.fullmatch(path.name) and not (path / MARKER).exists():
            yield f"{path.name}: has no {MARKER}, so it does not count; see titan-speech checkpoint verify {path}"


def _uploads(status: UploadStatus, folder: Path) -> Iterator[str]:
    """What the table has no place for."""
    yield f"uploads to {status.to}: {len(status.waiting)} wait ({size_text(status.left_bytes)})"
    only_there = [name for name in status.complete if not (folder / name).is_dir()]
    if only_there:
        yield f"complete there and not here: {', '.join(only_there)}"
    yield from status.left_out
    if status.last_error:
        yield f"the last attempt failed: {status.last_error}"


def _row(place: RunDir, step: int, found: Verification, uploads: UploadStatus | None) -> tuple[str, ...]:
    reasons = ["pinned"] if step in pinned_steps(place.folder) else []
    reasons += ["milestone"] if RetentionPolicy(0, 0, place.milestone_every_steps).is_milestone(step) else []
    loss = place.loss_at.get(step)
    state = "complete" if found.is_sound else f"DAMAGED: {'; '.join(found.problems)}"
    told = ("?", "?", "?", "?")
    if found.commit is not None:
        commit = found.commit
        told = (commit.kind, size_text(commit.num_bytes), _age(commit.written_unix_sec), commit.reason)
    return (str(step), *told, ", ".join(reasons), "" if loss is None else f"{loss:.4f}", _upload(uploads, step), state)


def _upload(status: UploadStatus | None, step: int) -> str:
    return status.state_of(f"step-{step}") if status else ""


def _age(written_unix_sec: float) -> str:
    """How long ago by the wall clock; a clock that was set back makes it 0."""
    minutes = max(0.0, time.time() - written_unix_sec) / 60
    if minutes < 120:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.0f} h" if minutes < 48 * 60 else f"{minutes / 1440:.0f} d"


def inspect_text(checkpoint: Path) -> str:
    """What made a checkpoint, what it has read, and every tensor in it."""
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    from titan_speech.checkpoint.dcp_index import read_index

    provenance = read_provenance(checkpoint)
    lines = [f"{checkpoint}", *(_provenance(provenance) if provenance else ["no record of what made it"])]
    try:
        entries = read_index(checkpoint / INDEX).state_dict_metadata
    except OSError as error:
        raise CheckpointError(f"the index of {checkpoint} cannot be read: {type(error).__name__}: {error}") from error
    tensors = {name: entry for name, entry in entries.items() if isinstance(entry, TensorStorageMetadata)}
    weights = [entry.size.numel() for name, entry in tensors.items() if role_of_name(name) == "model"]
    lines.append(f"tensors: {len(tensors):,}, of them {len(weights):,} weights with {sum(weights):,} numbers")
    lines += [f"  {name}  {list(entry.size)}  {_dtype(entry)}" for name, entry in sorted(tensors.items())]
    return "\n".join(lines)


def _dtype(entry: object) -> str:
    return str(entry.properties.dtype).removeprefix("torch.")  # pyright: ignore[reportAttributeAccessIssue]


def _provenance(provenance: Provenance) -> Iterator[str]:
    for name, value in _facts(provenance).items():
        yield f"  {name}: {value}"
    total = sum(read.num_tokens for read in provenance.tokens)
    yield f"  tokens read in this run, padding included: {total:,}"
    yield from (f"    {read.source} {read.language}: {read.num_tokens:,}" for read in provenance.tokens)
    yield "  configuration:"
    yield from (f"    {line}" for line in provenance.config.splitlines())


def _facts(provenance: Provenance) -> dict[str, str]:
    """All that fits a line."""
    facts = {name: value for name, value in asdict(provenance).items() if name not in MULTILINE and value}
    return {
        name: ", ".join(map(str, value)) if isinstance(value, tuple) else str(value) for name, value in facts.items()
    }


def diff_text(one: Path, other: Path) -> str:
    """What differs in how two checkpoints were made; empty if nothing does.

    Raises:
        CheckpointError: one of them has no record.
    """
    return "\n".join(difflib.unified_diff(_told(one), _told(other), str(one), str(other), lineterm="", n=0))


def _told(checkpoint: Path) -> list[str]:
    provenance = read_provenance(checkpoint)
    if provenance is None:
        raise CheckpointError(f"{checkpoint} has no record of what made it (provenance/{checkpoint.name}.json)")
    return list(_provenance(provenance))
