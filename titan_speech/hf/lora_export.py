"""The model of a LoRA checkpoint: its adapter on the base it was trained on, in one process.

In: a checkpoint with an adapter, and where its base may be. Out: the model in fp32 with the adapter added to the base's
matrices, which decoding, export and merging take their weights from. The base is taken only if its fingerprint is the
one that the checkpoint records. The whole model is in memory, 4 bytes per parameter (5 GB for 1B, 34 GB for 8B); the
adapter itself is small.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torchtitan.models.common.decoder import Decoder

from titan_speech.checkpoint.dcp_reader import SafeFileSystemReader, load_into
from titan_speech.checkpoint.lora_base import Base, find_base
from titan_speech.checkpoint.provenance import Provenance, has_rotary_pairs
from titan_speech.config.schema import SpeechConfig
from titan_speech.errors import CheckpointError
from titan_speech.hf.extended_backbone import INITIAL_DIR
from titan_speech.hf.model_folder import HFFolder
from titan_speech.model.backbones import BackboneShape
from titan_speech.model.lora import is_of_base, is_trained, merge_adapters
from titan_speech.model.rotary import reorder_saved
from titan_speech.model.spec import HFAdapter, model_spec


def holds_adapter(provenance: Provenance | None) -> bool:
    """Whether a checkpoint holds an adapter and not a whole model."""
    return provenance is not None and bool(provenance.lora)


def base_of(checkpoint: Path, run_folder: Path, provenance: Provenance, place: Path | None = None) -> Base:
    """The base of the adapter in a checkpoint.

    Args:
        checkpoint: .../step-N.
        run_folder: its run.
        provenance: its record.
        place: where the user says the base is; None: where it was when the adapter was trained.

    Raises:
        CheckpointError: it is missing, or another base is in its place.
    """
    places = [place] if place is not None else [Path(provenance.base), run_folder / INITIAL_DIR]
    return find_base(provenance.base_fingerprint, (one.absolute() for one in places), f"the adapter in {checkpoint}")


def load_adapted(
    checkpoint: Path, base: Base, config: SpeechConfig, shape: BackboneShape, num_rows: int, *, merge: bool = True
) -> Decoder:
    """The model of an adapter and its base, in fp32 on the CPU, with dense attention.

    Args:
        merge: add the adapter to the matrices; otherwise it stays next to them.

    Raises:
        CheckpointError: the base or the checkpoint lacks a tensor or is damaged.
    """
    model = model_spec(shape, "dense", num_rows, None, config.lora).model.build()
    with torch.no_grad():
        model.init_weights()
    state = model.state_dict()
    _load(model, {name: value for name, value in state.items() if is_of_base(name)}, base, shape)
    trained = {name: value for name, value in state.items() if is_trained(name, config.lora)}
    TensorReader(checkpoint, shape).read(trained)
    model.load_state_dict(trained, strict=False)
    if merge:
        merge_adapters(model)
    return model.eval()


def _load(model: Decoder, state: dict[str, torch.Tensor], base: Base, shape: BackboneShape) -> None:
    if base.is_hf:
        folder = HFFolder.open(base.path)
        adapter = HFAdapter(model.config, None)  # pyright: ignore[reportArgumentType, reportCallIssue]
        state = adapter.from_hf({name: folder.tensor(name).float() for name in folder.files})
    else:
        TensorReader(base.path, shape).read(state)
    model.load_state_dict(state, strict=False)


class TensorReader:
    """Reads tensors of a checkpoint by their names in it, with their rows in the model's order."""

    def __init__(self, checkpoint: Path, shape: BackboneShape) -> None:
        """Args:
        checkpoint: .../step-N.
        shape: of its backbone.
        """
        self._checkpoint, self._shape = checkpoint, shape
        self._reader = SafeFileSystemReader(checkpoint)
        self._has_pairs = has_rotary_pairs(checkpoint, shape.family)

    def read(self, state: dict[str, torch.Tensor]) -> None:
        """Fill tensors in place, each converted to its type while it is copied.

        Raises:
            CheckpointError: the checkpoint lacks one of them or is damaged.
        """
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # intended
                load_into(state, self._reader, no_dist=True)
        except CheckpointError:
            raise
        except (Exception, CheckpointException) as error:  # damaged files raise many types
            at = f" at {next(iter(state))}" if len(state) == 1 else ""
            raise CheckpointError(
                f"{self._checkpoint} cannot be read{at}, so it is damaged or was cut short: {type(error).__name__}: "
                f"{str(error)[:300]}. Restore it or take another step"
            ) from error
        if self._has_pairs:
            reorder_saved(state, self._shape.head_dim, self._shape.num_kv_heads)
