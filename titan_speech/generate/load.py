"""A run's checkpoint, or a Hugging Face folder, loaded in one process as the trainer's model.

In: a run folder (its config.toml and checkpoints). Out: model, grammar and tokenizer, with the weights of one step read
directly from the DCP checkpoint, whatever number of ranks wrote it; an adapter's with those of its base. No process
group is created.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torchtitan.models.common.decoder import Decoder

from titan_speech.checkpoint.commit import Checkpoint, committed_checkpoints, newest_unsuspected, suspicion
from titan_speech.checkpoint.provenance import read_provenance
from titan_speech.config.resolved import RESOLVED_NAME
from titan_speech.config.schema import SpeechConfig
from titan_speech.errors import CheckpointError
from titan_speech.hf.config_json import trained_shape
from titan_speech.hf.lora_export import TensorReader, base_of, holds_adapter, load_adapted
from titan_speech.hf.model_folder import HFFolder
from titan_speech.model.backbones import BackboneShape
from titan_speech.model.spec import HFAdapter, model_spec
from titan_speech.preflight.config_checks import load_config
from titan_speech.tokenization.prompt_template import Grammar
from titan_speech.tokenization.text_tokenizer import TextTokenizer
from titan_speech.utils import cpu

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedRun:
    """A run's model, and what prompts for it are made with."""

    config: SpeechConfig
    tokenizer: TextTokenizer
    grammar: Grammar
    model: Decoder
    step: int


def load_run(folder: Path, step: int | None = None) -> TrainedRun:
    """Load a checkpoint of a run.

    Args:
        folder: the run folder (job.dump_folder).
        step: the step of the checkpoint; the newest complete one if None.

    Raises:
        CheckpointError: the folder is not a run, it has no such complete checkpoint, or the checkpoint has another
            vocabulary or an index that is refused.
    """
    cpu.prepare()  # decoding runs on the CPU, even if training did not
    config = _run_config(folder)
    tokenizer = TextTokenizer.load(config.tokenizer.path)
    grammar = Grammar(tokenizer.vocabulary())
    checkpoint = _checkpoint(folder / config.checkpoint.folder, step)
    found = read_provenance(checkpoint.path)
    if found is not None and found.vocabulary != grammar.vocabulary.fingerprint:
        raise CheckpointError(
            f"{checkpoint.path} was trained with vocabulary {found.vocabulary}; the tokenizer at "
            f"{config.tokenizer.path} gives {grammar.vocabulary.fingerprint}. Restore the one it was trained with."
        )
    shape, num_rows = trained_shape(config.model, found), grammar.vocabulary.num_rows
    if found is not None and holds_adapter(found):
        base = base_of(checkpoint.path, folder, found)
        model = load_adapted(checkpoint.path, base, config, shape, num_rows)
    else:
        model = _model(shape, num_rows, checkpoint.path)
    return TrainedRun(config, tokenizer, grammar, model, checkpoint.step)


def _run_config(folder: Path) -> SpeechConfig:
    path = folder / RESOLVED_NAME
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is not a run folder: it has no {RESOLVED_NAME}; give the run's job.dump_folder"
        )
    return load_config(["--job.config_file", str(path)]).config


def _checkpoint(folder: Path, step: int | None) -> Checkpoint:
    """The checkpoint of a step, or the newest complete one."""
    complete = committed_checkpoints(folder)
    if not complete:
        raise CheckpointError(f"no complete checkpoint in {folder}; has the run saved one yet?")
    if step is None:
        newest, remark = newest_unsuspected(complete)
        if remark:
            logger.warning("%s", remark)
        return newest
    found = next((one for one in complete if one.step == step), None)
    if found is None:
        raise CheckpointError(
            f"no complete checkpoint of step {step} in {folder}; there are {[one.step for one in complete]}"
        )
    if suspect := suspicion(found.path):
        logger.warning("%s is suspect: %s", found.path, suspect)
    return found


def _model(shape: BackboneShape, num_rows: int, checkpoint: Path) -> Decoder:
    """The model in fp32 on the CPU, with dense attention, which needs no accelerator."""
    model = model_spec(shape, "dense", num_rows).model.build()
    with torch.no_grad():
        model.init_weights()
    load_weights(model, checkpoint, shape)
    return model.eval()


def load_weights(model: Decoder, checkpoint: Path, shape: BackboneShape) -> None:
    """Read the weights of a checkpoint (.../step-N) that holds a whole model."""
    state = model.state_dict()
    TensorReader(checkpoint, shape).read(state)
    model.load_state_dict(state, strict=False)  # hooks merge split projections, so names do not match one to one


def load_folder(path: Path) -> Decoder:
    """The trainer's model of a Hugging Face folder, in fp32 on the CPU, with dense attention.

    Raises:
        ModelError: the folder is incomplete or of another architecture.
    """
    cpu.prepare()
    folder = HFFolder.open(path)
    model = model_spec(folder.shape, "dense", folder.num_rows).model.build()
    with torch.no_grad():
        model.init_weights()
    adapter = HFAdapter(model.config, None)  # pyright: ignore[reportArgumentType, reportCallIssue]
    model.load_state_dict(adapter.from_hf({name: folder.tensor(name).float() for name in folder.files}), strict=False)
    return model.eval()
