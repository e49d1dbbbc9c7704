"""Whether an exported folder, in another engine, is the model that was trained.

In: a checkpoint and the folder that was exported from it, and the engine that runs it. Out: `ParityReport`: what is
wrong, by name where it can be named, and how far log-probabilities and greedy ids are apart on documents of all tasks.

The trainer's model is rounded to the type of the export first, so what is left is the engine's arithmetic: in fp32 that
is about 1e-6, where an error of conversion shows as 1e-1. One model is in memory at a time: the engine answers in its
own process, then the trainer's model reads the documents and the engine's greedy continuations, one forward pass each.
A continuation is equal if each of its ids is the trainer's first choice, or as likely as that within the bound (a tie).

Shapes: B documents, T tokens of a document, V rows of the vocabulary.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torchtitan.models.common.decoder import Decoder

from titan_speech.evaluate.engine_process import MAX_LOGITS, batches_of
from titan_speech.evaluate.engines import EngineAnswers, ParityDocument, parity_documents
from titan_speech.evaluate.export_checks import folder_problems, row_problems, trained_matrices
from titan_speech.generate.load import load_weights
from titan_speech.hf.export import WeightsCheckpoint
from titan_speech.hf.model_folder import HFFolder
from titan_speech.model.spec import model_spec
from titan_speech.tokenization.vocabulary import TokenKind, Vocabulary, token_kinds
from titan_speech.utils import cpu
from titan_speech.utils.text_table import counted

Ask = Callable[[Sequence[ParityDocument]], EngineAnswers]
QUANTILES = (0.5, 0.99, 1.0)


@dataclass(frozen=True)
class ParityBounds:
    """How far log-probabilities may be apart, in nats."""

    median: float
    p99: float
    greatest: float

    @property
    def tie(self) -> float:
        """Two ids whose logits are this far apart may change places."""
        return 2 * self.p99


BOUNDS = {"float32": ParityBounds(1e-4, 1e-3, 1e-2), "bfloat16": ParityBounds(2e-2, 1e-1, 0.5)}
"""By the type that the engine computes in. Measured on a model of two layers: 3e-6 at most in fp32, and 7e-4, 2e-2 and
4e-2 in bfloat16 (transformers 5.24); the rest is for depth."""


@dataclass(frozen=True)
class ParityReport:
    """What a comparison found."""

    engine: str
    num_documents: int
    num_tokens: int
    differences: dict[str, tuple[float, ...]]
    """By kind of token, and "all": the quantiles `QUANTILES` of the absolute differences of log-probabilities."""
    num_greedy: int
    num_ties: int
    """Greedy ids that are not the trainer's first choice and as likely as that within the bound."""
    problems: tuple[str, ...]
    """Empty: the engine computes the model that was trained."""

    def lines(self) -> list[str]:
        """The report for a person."""
        rows = [
            f"{kind}: log-probabilities differ by {quantiles[0]:.1e} (median), {quantiles[1]:.1e} (99 %), "
            f"{quantiles[2]:.1e} (most)"
            for kind, quantiles in self.differences.items()
        ]
        ties = f", {self.num_ties} of them as likely as the trainer's first choice" if self.num_ties else ""
        greedy = f"greedy ids: {self.num_greedy:,} compared{ties}"
        head = f"{self.engine} against the trainer: {self.num_documents:,} documents, {self.num_tokens:,} tokens"
        if self.problems:
            return [head, *rows, *(f"differs: {problem}" for problem in self.problems)]
        return [head, *rows, greedy, "equal within the bounds"]


def compare(
    checkpoint: WeightsCheckpoint,
    folder: Path,
    ask: Ask,
    weights_dtype: torch.dtype,
    compute_dtype: str = "float32",
    base: Path | None = None,
) -> ParityReport:
    """Compare an engine with the trainer's model.

    Args:
        checkpoint: what was exported.
        folder: what it was exported to.
        ask: the engine, which runs the folder.
        weights_dtype: of the weights in the folder.
        compute_dtype: of the engine's arithmetic, a key of `BOUNDS`.
        base: of a LoRA checkpoint, where it is not where it was.

    Raises:
        ModelError: the engine fails.
        CheckpointError: the checkpoint cannot be read.
    """
    documents = parity_documents(checkpoint.grammar)
    vocabulary = checkpoint.grammar.vocabulary
    if problems := folder_problems(folder, checkpoint):
        return ParityReport("the folder", 0, 0, {}, 0, 0, tuple(problems))
    answers = ask(documents)
    if wrong := [id_ for row in answers.greedy for id_ in row if not 0 <= id_ < vocabulary.num_rows]:
        problem = f"id {wrong[0]} was generated, the vocabulary has {counted(vocabulary.num_rows, 'row')}"
        return ParityReport(answers.engine, len(documents), 0, {}, 0, 0, (problem,))
    model = _trained_model(checkpoint, weights_dtype, base)
    matrices = trained_matrices(model.state_dict(), checkpoint, weights_dtype)
    shifted = tuple(row_problems(HFFolder.open(folder), matrices, checkpoint.grammar))
    report = judge(documents, answers, _trainer_logits(model), vocabulary, BOUNDS[compute_dtype])
    return replace(report, problems=shifted + report.problems)


def judge(
    documents: Sequence[ParityDocument],
    answers: EngineAnswers,
    logits_of: Callable[[torch.Tensor], torch.Tensor],
    vocabulary: Vocabulary,
    bounds: ParityBounds,
) -> ParityReport:
    """Compare answers with the logits of a reference.

    Args:
        documents: what the engine was asked.
        answers: what it answered.
        logits_of: ids_BT -> logits_BTV of the reference, in fp32.
        vocabulary: of the model.
        bounds: how far apart they may be.
    """
    differences: dict[str, list[NDArray]] = defaultdict(list)
    gaps: list[NDArray] = []
    lengths = [(len(one.ids_T), one.num_prefix_tokens) for one in documents]
    for numbers in batches_of(lengths, vocabulary.num_rows):
        ids_BT = torch.from_numpy(np.stack([documents[number].ids_T for number in numbers]))
        logits_BTV = logits_of(ids_BT)[:, :-1]
        own_BT = (logits_BTV.gather(-1, ids_BT[:, 1:, None])[..., 0] - logits_BTV.logsumexp(-1)).numpy()
        theirs_BT = np.array([answers.logprobs[number] for number in numbers])
        apart_BT = np.abs(own_BT - theirs_BT)
        kinds_BT = token_kinds(ids_BT[:, 1:].numpy(), vocabulary.kind_boundaries)
        for kind in TokenKind:
            differences[kind.name.lower()].append(apart_BT[kinds_BT == kind])
        gaps.append(_greedy_gaps(documents, answers, logits_of, numbers))
    by_kind = {kind: np.concatenate(parts) for kind, parts in differences.items()}
    everything = np.concatenate(list(by_kind.values()))
    gap_N = np.concatenate([gap_BN.ravel() for gap_BN in gaps])
    quantiles = {
        kind: tuple(np.quantile(values, QUANTILES).tolist())
        for kind, values in {"all": everything, **by_kind}.items()
        if len(values)
    }
    return ParityReport(
        engine=answers.engine,
        num_documents=len(documents),
        num_tokens=len(everything),
        differences=quantiles,
        num_greedy=len(gap_N),
        num_ties=int(((gap_N > 0) & (gap_N <= bounds.tie)).sum()),
        problems=tuple(_problems(quantiles, gap_N, bounds)),
    )


def _greedy_gaps(
    documents: Sequence[ParityDocument],
    answers: EngineAnswers,
    logits_of: Callable[[torch.Tensor], torch.Tensor],
    numbers: Sequence[int],
) -> NDArray:
    """How much less likely than the reference's first choice each generated id is, in nats; [B, N]."""
    num_prefix = documents[numbers[0]].num_prefix_tokens
    rows = [documents[number].prefix + list(answers.greedy[number]) for number in numbers]
    ids_BT = torch.tensor(rows)
    logits_BNV = logits_of(ids_BT)[:, num_prefix - 1 : -1]
    chosen_BN = logits_BNV.gather(-1, ids_BT[:, num_prefix:, None])[..., 0]
    return (logits_BNV.amax(-1) - chosen_BN).numpy()


def _problems(quantiles: dict[str, tuple[float, ...]], gap_N: NDArray, bounds: ParityBounds) -> list[str]:
    problems = []
    limits = (bounds.median, bounds.p99, bounds.greatest)
    for kind, found in quantiles.items():
        if kind != "all" and any(value > limit for value, limit in zip(found, limits, strict=True)):
            problems.append(
                f"log-probabilities of {kind} tokens are {found[0]:.2g} (median) and {found[2]:.2g} (most) apart; at "
                f"most {limits[0]:g} and {limits[2]:g} are expected"
            )
    if (count := int((gap_N > bounds.tie).sum())) > 0:
        problems.append(f"{count} of {len(gap_N)} greedily decoded ids are not the trainer's first choice")
    return problems


def _trained_model(checkpoint: WeightsCheckpoint, dtype: torch.dtype, base: Path | None) -> Decoder:
    """The trainer's model in fp32 with weights that were rounded to `dtype`, with dense attention."""
    cpu.prepare()
    model = model_spec(checkpoint.shape, "dense", checkpoint.grammar.vocabulary.num_rows).model.build()
    with torch.no_grad():
        model.init_weights()
    with checkpoint.kept():
        merged = checkpoint.merged_weights(base)
        if merged is None:
            load_weights(model, checkpoint.path, checkpoint.shape)
        else:
            model.load_state_dict(merged, strict=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(dtype))
    return model.eval()


def _trainer_logits(model: Decoder) -> Callable[[torch.Tensor], torch.Tensor]:
    """ids_BT -> logits_BTV in fp32 of the trainer's own forward pass."""

    @torch.inference_mode()
    def logits_of(ids_BT: torch.Tensor) -> torch.Tensor:
        positions_BT = torch.arange(ids_BT.shape[1]).expand(ids_BT.shape)
        return model(ids_BT, positions_BT, model.get_attention_masks(positions_BT)).float()

    return logits_of


def needed_bytes(checkpoint: WeightsCheckpoint) -> int:
    """Memory of a comparison: one model in fp32, and the logits of a batch three times."""
    return 4 * checkpoint.shape.num_parameters(checkpoint.grammar.vocabulary.num_rows) + 3 * 4 * MAX_LOGITS
