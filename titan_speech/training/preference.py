"""What preference training needs besides its loss: the pairs of a step, and the reference's log-probabilities.

In: the batches of a step, each with which samples its answers are, and a forward pass of the trainer. Out: the loss
knows the number of pairs of the step and, before each micro-batch, the reference's log-probability of each answer.

`precomputed` reads every pair once before the first step with the weights that the run starts from, and keeps one
number per answer in RUN/reference.parquet: no second model, and from then on no second forward pass. A run that resumes
reads that file, since its weights have moved. `adapters_off` computes the reference in every step, with the adapters'
scale at zero. A pair has the same log-probabilities in any pack, up to the rounding of the compute type.

Shapes: B packs, A numbers of answers in a pack.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torchtitan.distributed import ParallelDims
from torchtitan.tools.logging import logger

from titan_speech.config.schema_training import PreferenceConfig
from titan_speech.data.loader import ANSWERS, Batch
from titan_speech.data.pack_layout import PackPlan, max_answers, views
from titan_speech.data.packing import Piece
from titan_speech.data.paired_documents import PreferenceDocuments
from titan_speech.data.plan import DataPlan
from titan_speech.data.validation_set import ValidationSet, packed
from titan_speech.distributed.consensus import decide_on_rank_0
from titan_speech.errors import BoundsLeftError, CheckpointError, DataError
from titan_speech.training.loss import sum_over
from titan_speech.training.preference_loss import PreferenceLoss, describe_pairs
from titan_speech.utils.files import write_atomically
from titan_speech.utils.text_table import counted

REFERENCE_FILE = "reference.parquet"
TRAINING_PAIRS = ""
"""The pairs that are trained on; those of a validation set have its name."""


ADVICE = (
    "copy it from where the run began; it cannot be computed again, since the weights have moved. Or start a new run "
    "from the same weights"
)
_COLUMNS = pa.schema(
    [("pairs", pa.string()), ("documents", pa.string()), ("sample", pa.int64()), ("logp", pa.float64())]
)


def read_reference(path: Path) -> tuple[list[tuple[str, str]], np.ndarray, np.ndarray]:
    """The file of a reference: of each answer its set and documents, its sample, its log-probability.

    Raises:
        CheckpointError: it is damaged.
    """
    try:
        found = pq.read_table(path, columns=_COLUMNS.names).cast(_COLUMNS)
        keys = list(zip(found["pairs"].to_pylist(), found["documents"].to_pylist(), strict=True))
        sample_N, logp_N = found["sample"].to_numpy(), found["logp"].to_numpy()
        if found["sample"].null_count or (sample_N < 0).any():
            raise ValueError("a sample has a number below 0, or none")
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): {ADVICE}") from None
    return keys, sample_N, logp_N


def answers_of(batch: Batch) -> torch.Tensor:
    """Stream, part and sample of each answer, shape [B, A, 3]; -1 where a pair has no such answer.

    A batch of padding has -1 everywhere.
    """
    inputs, labels_BL = batch
    if ANSWERS in inputs:
        return inputs[ANSWERS]
    return torch.full((len(labels_BL), max_answers(inputs["input"].shape[1]) + 1, 3), -1)


class ReferenceTable:
    """One log-probability per sample of some preference documents, on the device."""

    def __init__(self, documents: Mapping[int, Sequence[PreferenceDocuments]], device: torch.device) -> None:
        """`documents` has the parts of each stream."""
        self.documents = documents
        self.device = device
        num_parts = max((len(parts) for parts in documents.values()), default=0)
        offset_SP = np.zeros((max(documents, default=-1) + 1, num_parts), np.int64)
        end = 1  # number 0 is no answer
        for stream, parts in documents.items():
            for part, some in enumerate(parts):
                offset_SP[stream, part] = end
                end += some.num_documents
        self.offset_SP = torch.from_numpy(offset_SP).to(device)
        self.logp = torch.zeros(end, dtype=torch.float64, device=device)

    def _index(self, answers_BA3: torch.Tensor) -> torch.Tensor:
        stream_BA, part_BA, sample_BA = answers_BA3.to(self.device).unbind(-1)
        index_BA = self.offset_SP[stream_BA.clamp(min=0), part_BA.clamp(min=0)] + sample_BA
        return torch.where(stream_BA >= 0, index_BA, 0)

    def look_up(self, answers_BA3: torch.Tensor) -> torch.Tensor:
        """Log-probability of each answer; 0 where a pair has no such answer."""
        return self.logp[self._index(answers_BA3)]

    def put(self, answers_BA3: torch.Tensor, logp_BA: torch.Tensor) -> None:
        """Set what `look_up` returns."""
        index_BA = self._index(answers_BA3)
        self.logp[index_BA] = torch.where(index_BA > 0, logp_BA, 0.0)

    def pack_plans(self, seq_len: int) -> list[PackPlan]:
        """Every pair that fits once, in packs of one stream."""
        plans = []
        for stream, parts in self.documents.items():
            pieces = []
            for part, some in enumerate(parts):
                length_N = some.lengths(0, some.num_documents)
                fitting = np.flatnonzero((length_N > 0) & (length_N <= seq_len))
                pieces += [Piece(part, int(i), 0, int(length_N[i])) for i in fitting]
            plans += [PackPlan(stream, parts, views(parts, few)) for few in packed(pieces, seq_len)]
        return plans

    def columns(self) -> Iterator[tuple[PreferenceDocuments, torch.Tensor]]:
        """The documents of each part, with the log-probabilities of its samples."""
        for stream, parts in self.documents.items():
            for part, some in enumerate(parts):
                first = int(self.offset_SP[stream, part])
                yield some, self.logp[first : first + some.num_documents]


@dataclass(frozen=True)
class ReferenceForward:
    """What is needed of the trainer to compute log-probabilities."""

    log_probabilities: Callable[[Batch], torch.Tensor]
    """A forward pass without gradients: of each answer of a batch, shape [B, A]."""
    deal: Callable[[Sequence[PackPlan]], Iterator[Batch]]
    """This rank's batches of some packs; every rank gets as many."""


@dataclass
class Preference:
    """Preference training of one run."""

    settings: PreferenceConfig
    loss: PreferenceLoss
    plan: DataPlan
    validation_sets: Sequence[ValidationSet]
    parallel_dims: ParallelDims
    device: torch.device
    reference: ReferenceForward
    _adrift: str = field(init=False, default="")
    """What the last log step found beyond its limit; empty while all is within."""
    tables: dict[str, ReferenceTable] = field(init=False, default_factory=dict)
    """The precomputed log-probabilities of each set of pairs; empty if nothing is precomputed."""

    def __post_init__(self) -> None:
        if (mesh := self.parallel_dims.get_optional_mesh("cp")) is not None:
            group = mesh.get_group()
            self.loss.add_over_context = lambda sums: torch.distributed.all_reduce(sums, group=group)
            self.loss.num_context = self.parallel_dims.cp
        self.loss.num_pairs = self.loss.num_pairs.to(self.device)
        self.names: list[tuple[str, ...]] = [
            (f"source/{stream.source}", f"language/{stream.language}") for stream in self.plan.streams
        ]

    @property
    def is_precomputed(self) -> bool:
        return self.settings.has_reference and self.settings.reference == "precomputed"

    def begin(self, step: int, folders: Sequence[Path], start: str) -> None:
        """Compute the reference's log-probabilities before the first step, or read them; called on every rank.

        Args:
            step: steps done.
            folders: the run folder, and where else its reference may be.
            start: what the run starts from, in words.

        Raises:
            CheckpointError: the run resumes without them.
            DataError: one of them is not finite.
        """
        if not self.is_precomputed or self.tables:
            return
        streams = (cast(Sequence[PreferenceDocuments], stream.documents) for stream in self.plan.streams)
        self.tables[TRAINING_PAIRS] = ReferenceTable(dict(enumerate(streams)), self.device)
        for some in self.validation_sets:
            documents = {pack.stream: cast(Sequence[PreferenceDocuments], pack.documents) for pack in some.pack_plans}
            self.tables[some.name] = ReferenceTable(documents, self.device)
        if step == 0:
            self._compute()
            decide_on_rank_0(lambda: self._write(folders[0] / REFERENCE_FILE, start))
        else:
            decide_on_rank_0(lambda: self._read([folder / REFERENCE_FILE for folder in folders]))
            for table in self.tables.values():
                torch.distributed.broadcast(table.logp, 0)

    def read_step(self, batches: Iterator[Batch], num_microbatches: int) -> Iterator[Batch]:
        """The batches of a step, read at once, since the loss divides by the number of all their pairs."""
        taken = [next(batches) for _ in range(num_microbatches)]
        num_pairs = sum(((answers_of(batch)[:, 2::2, 0] >= 0).sum() for batch in taken), torch.zeros(()))
        self.loss.num_pairs = sum_over(self.parallel_dims, ("batch",), num_pairs.double().to(self.device))
        return iter(taken)

    def set_reference(self, batch: Batch, pairs: str) -> None:
        """Look up, or compute, the reference's log-probabilities of the next forward pass.

        Args:
            batch: what the next forward pass reads.
            pairs: name of the validation set, or `TRAINING_PAIRS`.
        """
        if not self.settings.has_reference:
            return
        if self.is_precomputed:
            self.loss.reference_BA = self.tables[pairs].look_up(answers_of(batch))
        else:
            self.loss.reference_BA = self.reference.log_probabilities(batch)

    def metrics(self) -> dict[str, float]:
        """Means over the pairs of the steps since the last call; at a log step, on every rank."""
        found = self._described(self.loss.answers.groups.pairs.take(self.device))
        drift, limit = found.get("preference/chosen_drift", 0.0), self.settings.max_drift
        if limit and self.settings.has_reference and abs(drift) > limit:
            self._adrift = f"{drift:+.3g} nats per token from the reference, beyond preference.max_drift {limit:g}"
        return found

    def end_if_adrift(self, step: int, log_every: int) -> None:
        """After a step, on all ranks alike, before it is saved.

        A step reads with the weights of the step before, so those within the limit are the ones that the line before
        the last one has read with.

        Args:
            step: steps done.
            log_every: steps between log lines.

        Raises:
            BoundsLeftError: the chosen answers have drifted from the reference.
        """
        if self._adrift:
            raise BoundsLeftError(
                f"after step {step:,} the log-probability of the chosen answers is {self._adrift}. Lower optimizer.lr, "
                "raise preference.beta or set preference.sft_weight.",
                found=self._adrift,
                step=step,
                within_step=max(step - log_every - 1, 0),
            )

    def step_metrics(self) -> dict[str, float]:
        """Means over the pairs of a validation."""
        return self._described(self.loss.answers.groups.pairs.take_step(self.device))

    def _described(self, sums_SK: torch.Tensor) -> dict[str, float]:
        return describe_pairs(sum_over(self.parallel_dims, ("loss",), sums_SK).cpu(), self.names)

    def _compute(self) -> None:
        for name, table in self.tables.items():
            plans = table.pack_plans(self.plan.seq_len)
            what = f"of {name}" if name else "that are trained on"
            logger.info(f"Reference: log-probabilities of the pairs {what}, {counted(len(plans), 'pack')}")
            for batch in self.reference.deal(plans):
                table.put(answers_of(batch), self.reference.log_probabilities(batch))
            sum_over(self.parallel_dims, ("batch",), table.logp)
            for documents, logp_N in table.columns():
                if len(bad := np.flatnonzero(~np.isfinite(logp_N.cpu().numpy()))):
                    sample = documents.part.row(int(bad[0])).sample_id
                    raise DataError(
                        f"the reference's log-probability of {len(bad):,} answers is not finite, such as that of "
                        f"{sample}: the weights that the run starts from are damaged, or too large for "
                        "training.mixed_precision_param"
                    )

    def _write(self, path: Path, start: str) -> None:
        tables = []
        for pairs, table in self.tables.items():
            for documents, logp_N in table.columns():
                logp_N = logp_N.cpu().numpy()
                read = np.flatnonzero(logp_N)
                columns = {
                    "pairs": pa.array([pairs] * len(read), pa.string()).dictionary_encode(),
                    "documents": pa.array([documents.key] * len(read), pa.string()).dictionary_encode(),
                    "sample": pa.array(read, pa.int64()),
                    "logp": pa.array(logp_N[read], pa.float64()),
                }
                tables.append(pa.table(columns))
        found = pa.concat_tables(tables).unify_dictionaries()
        buffer = io.BytesIO()
        pq.write_table(found.replace_schema_metadata({"start": start}), buffer, compression="zstd")
        try:
            write_atomically(path, buffer.getvalue())
        except OSError as error:
            raise CheckpointError(f"{path} cannot be written: {error}") from error

    def _read(self, paths: Sequence[Path]) -> None:
        path = next((path for path in paths if path.exists()), None)
        if path is None:
            raise CheckpointError(f"{paths[0]}, the log-probabilities of the reference, is missing: {ADVICE}")
        keys, sample_N, logp_N = read_reference(path)
        rows: dict[tuple[str, str], list[int]] = {}
        for row, key in enumerate(keys):
            rows.setdefault(key, []).append(row)
        for pairs, table in self.tables.items():
            for documents, target_N in table.columns():
                mine = rows.get((pairs, documents.key), [])
                wanted = np.zeros(documents.num_documents, np.bool_)
                length_N = documents.lengths(0, documents.num_documents)
                wanted[(length_N > 0) & (length_N <= self.plan.seq_len)] = True
                values_N = np.zeros(documents.num_documents)
                try:
                    values_N[sample_N[mine]] = logp_N[mine]
                except IndexError:
                    what = f"{path} names samples that {documents.part.name} does not have"
                    raise CheckpointError(f"{what}: {ADVICE}") from None
                if not (np.isfinite(values_N).all() and values_N[wanted].all()):
                    raise CheckpointError(
                        f"{path} does not have the pairs of {documents.part.name}: a run keeps the pairs and the "
                        "transcript it began with. Start a new run for others"
                    )
                target_N.copy_(torch.from_numpy(values_N))
