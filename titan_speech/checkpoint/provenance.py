"""Companion files of a checkpoint: what made it, and how far each data stream was read.

In: fingerprints, versions and configuration, known before training; the step and the phases of its data.
Out: `provenance/step-N.json` and `data_phases/...` in the checkpoint folder, written before the checkpoint's marker,
which names them with size and checksum: so a checkpoint always has them, and whoever copies it knows what belongs to
it. Provenance is compared before weights are read, so a mismatch is an error that names both sides instead of a failure
about tensor shapes. Tokens read are computed from the step: nothing is counted and no device is asked.
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
from titan_speech.data.phase_files import PHASES_DIR, phase_end, write_step
from titan_speech.data.phases import Phase
from titan_speech.errors import CheckpointError
from titan_speech.model.backbones import HALVES, PAIRS, BackboneShape
from titan_speech.utils.files import write_atomically
from titan_speech.utils.json_text import read_json_file
from titan_speech.utils.record_types import check_types

PROVENANCE_DIR = "provenance"
WEIGHTS_NEED = ("vocabulary", "model")
RESUMING_NEEDS = (*WEIGHTS_NEED, "grammar", "global_batch_tokens", "lora")
"""Whether a changed data plan can be resumed is decided in data/phases.py, which can say what changed."""


@dataclass(frozen=True)
class TokensRead:
    """Tokens of the packs read from one stream up to a checkpoint, padding included."""

    source: str
    language: str
    num_tokens: int


@dataclass(frozen=True)
class Provenance:
    """What made a checkpoint. `check_fits` says which fields must agree."""

    vocabulary: str
    """Fingerprint of vocabulary and tokenizer."""

    grammar: str
    """Fingerprint of the prompt grammar."""

    model: str
    """Family and flavor of the backbone."""

    global_batch_tokens: int
    """Tokens per step: with it a step number says which data was read."""

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
    """Degrees of each kind of parallelism."""

    backbone: BackboneShape | None = None
    """Sizes of the backbone."""

    initial: str = ""
    """What the first weights of the run were made from: folder, digest of its weights, initialization of new rows."""

    config: str = ""
    """The resolved configuration as TOML, without secrets."""

    step: int = 0
    """Step of the checkpoint."""

    tokens: tuple[TokensRead, ...] = ()
    """What was read of each stream up to that step, in this run."""

    lora: str = ""
    """Settings of the adapter, which is then all the weights it holds; empty: it holds the whole model."""

    base: str = ""
    """Where the weights were that the adapter was trained on: a checkpoint or a Hugging Face folder."""

    base_fingerprint: str = ""
    """Fingerprint of these weights."""

    stage_from: str = ""
    """Checkpoint of the previous stage that the run started from."""

    rotary: str = HALVES
    """Order of the rows of queries and keys within a head."""

    reordered_from: str = ""
    """Checkpoint in the other order that this run was loaded from: weights and moments were reordered."""

    older_vocabularies: tuple[str, ...] = ()
    """Fingerprints of the same vocabulary with fewer markup names: a stage may start from weights of these."""

    budget: Budget | None = None
    """Steps and schedule: with it the learning rate of a checkpoint is known."""

    rate_factor: float = 1.0
    """The learning rate, as a multiple of the schedule's: breaches lower it (health.max_breaches)."""

    @property
    def trained_budget(self) -> Budget | None:
        """The budget with the rates that were trained with; None if it is not known."""
        return None if self.budget is None else self.budget.scaled(self.rate_factor)

    def at(self, step: int, phases: Sequence[Phase]) -> Provenance:
        """The record of a checkpoint at `step` of a run with these phases."""
        return replace(self, step=step, tokens=tokens_read(phases, step))

    def inheriting(self, found: Provenance | None) -> Provenance:
        """This record with what is recorded once per run, taken from the checkpoint it resumes from."""
        if found is None:
            return self
        return replace(
            self,
            initial=self.initial or found.initial,
            stage_from=self.stage_from or found.stage_from,
            reordered_from=self.reordered_from or found.reordered_from,
        )

    def write(self, checkpoint: Path) -> None:
        """Write the record of a checkpoint (.../step-N)."""
        write_atomically(provenance_path(checkpoint), json.dumps(asdict(self), indent=1))

    def check_fits(self, found: Provenance, where: Path, *, weights_only: bool) -> None:
        """Refuse a checkpoint of another vocabulary or model and, to resume it, of another grammar or batch size.

        Raises:
            CheckpointError: names every field that differs, with both values.
        """
        if weights_only and found.lora:
            raise CheckpointError(
                f"{where} holds a LoRA adapter ({found.lora}) and not the weights of a model. Add it to its base first "
                "(titan-speech model merge) and give the folder that is written"
            )
        must_agree = WEIGHTS_NEED if weights_only else RESUMING_NEEDS
        differing = [
            f"{name}: the checkpoint has {theirs}, this run has {ours}"
            for name in must_agree
            if (ours := getattr(self, name)) != (theirs := getattr(found, name))
            and not (weights_only and name == "vocabulary" and theirs in self.older_vocabularies)
        ]
        if differing:
            advice = _ADVICE_FOR_WEIGHTS if weights_only else _ADVICE_FOR_RESUME
            if not weights_only and all(getattr(self, name) == getattr(found, name) for name in WEIGHTS_NEED):
                advice += "; to load only its weights, set checkpoint.initial_load_path to it"
            raise CheckpointError(f"{where} belongs to another run. {'; '.join(differing)}. {advice}.")


_ADVICE_FOR_RESUME = (
    "To resume, use the configuration it was trained with (config.toml in its run folder); to start from scratch, give "
    "another job.dump_folder"
)
_ADVICE_FOR_WEIGHTS = (
    "Weights fit a run of the same backbone and tokenizer: give model.flavor, model.initial and tokenizer.path as "
    "config.toml in its run folder has them, or name another checkpoint"
)


def tokens_read(phases: Sequence[Phase], step: int) -> tuple[TokensRead, ...]:
    """Tokens of each stream, from the slots each phase has read up to `step`; the sum is step x tokens per step."""
    ends = [*(phase.first_step for phase in phases[1:]), step]
    read: dict[tuple[str, str], int] = {}
    for phase, end_step in zip(phases, ends, strict=True):
        num_packs = phase.order().num_packs(phase.slots(end_step).start - phase.first_slot)
        for stream, number in zip(phase.streams, num_packs, strict=True):
            key = stream.source, stream.language
            read[key] = read.get(key, 0) + int(number) * phase.seq_len
    return tuple(TokensRead(*key, num_tokens) for key, num_tokens in sorted(read.items()))


def provenance_path(checkpoint: Path) -> Path:
    """The file of a checkpoint's (.../step-N) record: next to it, since DCP owns the folder itself."""
    return checkpoint.parent / PROVENANCE_DIR / f"{checkpoint.name}.json"


def read_provenance(checkpoint: Path) -> Provenance | None:
    """The record of a checkpoint, or None if it has none (a checkpoint of another program).

    Raises:
        CheckpointError: the record is there but cannot be read.
    """
    path = provenance_path(checkpoint)
    if not path.exists():
        return None
    try:
        return _provenance(read_json_file(path))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}); without it {checkpoint.name} cannot be distinguished from another "
            "run's checkpoint. Restore it, or remove it to load the checkpoint unchecked."
        ) from error


def has_rotary_pairs(checkpoint: Path, family: str) -> bool:
    """Whether rows of queries and keys in a checkpoint (.../step-N) are in the order of the complex rotary embedding.

    Llama only: of a run before the real form, whose record does not name an order, or of TorchTitan itself, without a
    record.
    """
    if family != "llama3":
        return False
    found = read_provenance(checkpoint)
    return found is None or found.rotary == PAIRS


def _provenance(record: dict[str, Any]) -> Provenance:
    record = {"rotary": PAIRS, **record}
    lists: dict[str, Any] = {
        key: tuple(record[key]) for key in ("stores", "versions", "older_vocabularies") if key in record
    }
    lists["tokens"] = tuple(TokensRead(**tokens) for tokens in record.get("tokens", ()))
    if record.get("backbone") is not None:
        lists["backbone"] = BackboneShape.from_record(record["backbone"])
    if record.get("budget") is not None:
        lists["budget"] = Budget.from_record(record["budget"])
    known = {field.name for field in fields(Provenance)}
    found = Provenance(**{key: value for key, value in {**record, **lists}.items() if key in known})
    check_types(found)
    return found


def layout(parallelism: ParallelismConfig, world_size: int) -> str:
    """Degrees of parallelism as text, the sharding degree computed from the world size."""
    replicate, tensor = parallelism.data_parallel_replicate_degree, parallelism.tensor_parallel_degree
    context = parallelism.context_parallel_degree
    shard = world_size // (replicate * tensor * context)
    return f"replicate {replicate}, shard {shard}, tensor {tensor}, context {context}"


def package_versions() -> tuple[str, ...]:
    """Versions that can change a result."""
    names = ("titan_speech", "torch", "torchtitan", "torchdata")
    from titan_speech import __version__

    versions = (__version__ if name == "titan_speech" else version(name) for name in names)
    return tuple(f"{name} {found}" for name, found in zip(names, versions, strict=True))


def git_revision(folder: Path) -> str:
    """Revision of the repository that `folder` is in; empty if it is in none."""
    return _git(folder, "describe", "--always", "--dirty", "--abbrev=40")


def source_revision() -> str:
    """Revision of titan_speech, if its files are those of a repository (and not installed inside some other one)."""
    package = Path(__file__).parent
    return git_revision(package) if _git(package, "ls-files", Path(__file__).name) else ""


def _git(folder: Path, *words: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603  (of this package's own folder)
            ["git", "-C", str(folder), *words],  # noqa: S607  (the git of the user's PATH)
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def write_companion_files(
    checkpoint: Path, step: int, provenance: Provenance, phases: Sequence[Phase]
) -> tuple[FileRecord, ...]:
    """Write the companion files of a checkpoint (.../step-N).

    Returns:
        Their records for the marker.
    """
    provenance.at(step, phases).write(checkpoint)
    write_step(checkpoint, step, phases)
    return _records(checkpoint, phases)


def companion_records(checkpoint: Path) -> tuple[FileRecord, ...]:
    """Records of the companion files that a checkpoint has, all of them or a part.

    Raises:
        CheckpointError: the record of its data is damaged, or a file that it names is missing.
    """
    read_provenance(checkpoint)  # a damaged one is refused
    end = phase_end(checkpoint)
    return _records(checkpoint, end.phases if end else ())


def _records(checkpoint: Path, phases: Sequence[Phase]) -> tuple[FileRecord, ...]:
    """Records of the companion files that exist."""
    folder = checkpoint.parent
    names = [str(provenance_path(checkpoint).relative_to(folder)), f"{PHASES_DIR}/{checkpoint.name}.json"]
    names += [f"{PHASES_DIR}/{phase.fingerprint}.json" for phase in phases]
    return tuple(file_record(folder / name, name, "beside") for name in names if (folder / name).is_file())
