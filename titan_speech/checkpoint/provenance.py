"""The record beside each checkpoint: which vocabulary, model and data plan it belongs to, and what made it.

In: fingerprints, versions and configuration, known before training; the step and the phases of its data. Out:
`provenance/step-N.json` in the checkpoint folder, written before the checkpoint's marker, so that a checkpoint always
has one. It is compared before weights are read, so that a mismatch is an error that names both sides instead of a
failure about tensor shapes. Tokens read are computed from the step: nothing is counted or asked of a device.

The records beside a checkpoint: what made it, and how far each data stream was read.

In: a step, its provenance and the phases of its data. Out: small files in the folder above the checkpoint, with their
sizes and checksums for the marker, which names them, so that whoever copies the checkpoint knows what belongs to it.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from titan_speech.checkpoint.commit import FileRecord, file_record
from titan_speech.config.budget import Budget
from titan_speech.config.schema_parallelism import ParallelismConfig
from titan_speech.data.phase_files import PHASES_DIR as PHASES_FOLDER
from titan_speech.data.phase_files import phase_end, write_step
from titan_speech.data.phases import Phase
from titan_speech.errors import CheckpointError
from titan_speech.model.backbones import BackboneShape

PROVENANCE_DIR = "provenance"
WEIGHTS_NEED = ("vocabulary", "model")
RESUMING_NEEDS = (*WEIGHTS_NEED, "grammar", "global_batch_tokens")
"""Whether the data plan allows it is for data/phases to say, which can tell what changed."""


@dataclass(frozen=True)
class TokensRead:
    """Tokens of the packs one stream has given up to a checkpoint, padding included."""

    source: str
    language: str
    num_tokens: int


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
    """Revision of the working directory's repository, with `-dirty` after it when tracked files had changes."""

    source_revision: str = ""
    """The same of the repository titan_speech itself was run from; empty when it was installed."""

    world_size: int = 1
    """Processes that wrote it."""

    layout: str = ""
    """How they divided the work: degrees of each kind of parallelism."""

    backbone: BackboneShape | None = None
    """Sizes of the backbone."""

    initial: str = ""
    """What the first weights of the run were made from: folder, digest of its weights, how new rows were drawn."""

    config: str = ""
    """The resolved configuration as TOML, without secrets."""

    step: int = 0
    """Step of the checkpoint."""

    tokens: tuple[TokensRead, ...] = ()
    """What each stream gave up to that step, in this run."""

    stage_from: str = ""
    """Checkpoint of the stage before that the run started from."""

    budget: Budget | None = None
    """Steps and schedule: with it the rate of a checkpoint is known."""

    def at(self, step: int, phases: Sequence[Phase]) -> Provenance:
        """The record of a checkpoint at `step` of a run with these phases."""
        return replace(self, step=step, tokens=tokens_read(phases, step))

    def inheriting(self, found: Provenance | None) -> Provenance:
        """With what is told of a run once, from the checkpoint it goes on from."""
        if found is None:
            return self
        return replace(self, initial=self.initial or found.initial, stage_from=self.stage_from or found.stage_from)

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
            advice = _OF_WEIGHTS if weights_only else _OF_A_RUN
            if not weights_only and all(getattr(self, name) == getattr(found, name) for name in WEIGHTS_NEED):
                advice += "; to take only its weights, set checkpoint.initial_load_path to it"
            raise CheckpointError(f"{where} belongs to another run. {'; '.join(differing)}. {advice}.")


_OF_A_RUN = (
    "To go on, use the configuration it was trained with (config.toml in its run folder); to start anew, give another "
    "job.dump_folder"
)
_OF_WEIGHTS = (
    "Weights fit a run of the same backbone and tokenizer: give model.flavor, model.initial and tokenizer.path as "
    "config.toml in its run folder has them, or name another checkpoint"
)


def tokens_read(phases: Sequence[Phase], step: int) -> tuple[TokensRead, ...]:
    """By stream, from the slots each phase has read up to `step`; the sum is step x tokens of a step."""
    ends = [*(phase.first_step for phase in phases[1:]), step]
    read: dict[tuple[str, str], int] = {}
    for phase, end_step in zip(phases, ends, strict=True):
        num_packs = phase.order().num_packs(phase.slots(end_step).start - phase.first_slot)
        for stream, number in zip(phase.streams, num_packs, strict=True):
            key = stream.source, stream.language
            read[key] = read.get(key, 0) + int(number) * phase.seq_len
    return tuple(TokensRead(*key, num_tokens) for key, num_tokens in sorted(read.items()))


def provenance_path(checkpoint: Path) -> Path:
    """Where the record of a checkpoint (.../step-N) lies: beside it, since DCP owns the folder itself."""
    return checkpoint.parent / PROVENANCE_DIR / f"{checkpoint.name}.json"


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
    lists["tokens"] = tuple(TokensRead(**tokens) for tokens in record.get("tokens", ()))
    if record.get("backbone") is not None:
        lists["backbone"] = BackboneShape.from_record(record["backbone"])
    if record.get("budget") is not None:
        lists["budget"] = Budget.from_record(record["budget"])
    known = {field.name for field in fields(Provenance)}
    return Provenance(**{key: value for key, value in {**record, **lists}.items() if key in known})


def layout(table: ParallelismConfig, world_size: int) -> str:
    """Degrees of parallelism, with those that follow from the world size."""
    replicate, tensor = table.data_parallel_replicate_degree, table.tensor_parallel_degree
    context = table.context_parallel_degree
    shard = world_size // (replicate * tensor * context)
    return f"replicate {replicate}, shard {shard}, tensor {tensor}, context {context}"


def package_versions() -> tuple[str, ...]:
    """Versions that can change a result."""
    names = ("titan_speech", "torch", "torchtitan", "torchdata")
    return tuple(f"{name} {_version(name)}" for name in names)


def git_revision(folder: Path) -> str:
    """Revision of the repository `folder` lies in, or empty where there is none."""
    return _git(folder, "describe", "--always", "--dirty", "--abbrev=40")


def source_revision() -> str:
    """Revision of titan_speech, if its files are those of a repository (and not installed inside some other one)."""
    package = Path(__file__).parent
    return git_revision(package) if _git(package, "ls-files", Path(__file__).name) else ""


def _git(folder: Path, *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _version(name: str) -> str:
    from titan_speech import __version__

    return __version__ if name == "titan_speech" else version(name)


def write_companion_files(
    checkpoint: Path, step: int, provenance: Provenance, phases: Sequence[Phase]
) -> tuple[FileRecord, ...]:
    """Write them; records of what was written."""
    provenance.at(step, phases).write(checkpoint)
    write_step(checkpoint, step, phases)
    return _records(checkpoint, phases)


def companion_records(checkpoint: Path) -> tuple[FileRecord, ...]:
    """Records of what lies beside a checkpoint already, all of it or a part.

    Raises:
        CheckpointError: the record of its data is damaged, or a file that it names is missing.
    """
    read_provenance(checkpoint)  # a damaged one is refused
    end = phase_end(checkpoint)
    return _records(checkpoint, end.phases if end else ())


def _records(checkpoint: Path, phases: Sequence[Phase]) -> tuple[FileRecord, ...]:
    """Of the files that are there."""
    folder = checkpoint.parent
    names = [str(provenance_path(checkpoint).relative_to(folder)), f"{PHASES_FOLDER}/{checkpoint.name}.json"]
    names += [f"{PHASES_FOLDER}/{phase.fingerprint}.json" for phase in phases]
    return tuple(file_record(folder / name, name, "beside") for name in names if (folder / name).is_file())
