"""Merge a LoRA checkpoint: a run folder with the whole model, as if all weights had been trained.

In: a checkpoint with an adapter, and its base. Out: a run folder of one checkpoint with weights only, which decoding,
export, evaluation and the next stage's `[stage] from` read as any other; what it was made from is in its record. The
sum of base and adapter is made in model/lora.py, tensor by tensor (through hf/lora_export.py). The folder appears when
it is complete. The whole model is in memory, in fp32.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import torch.distributed.checkpoint as dcp

from titan_speech.checkpoint.commit import FileRecord, checkpoint_path
from titan_speech.checkpoint.provenance import companion_records
from titan_speech.checkpoint.saver import CommittingWriter, SaveJob
from titan_speech.config.load import LoadedConfig
from titan_speech.config.resolved import RESOLVED_NAME, resolved_toml
from titan_speech.config.schema_training import LoRAConfig
from titan_speech.data.phase_files import phase_end, write_step
from titan_speech.errors import CheckpointError
from titan_speech.hf.export import WeightsCheckpoint
from titan_speech.hf.safetensors_writer import new_folder
from titan_speech.model.backbones import HALVES
from titan_speech.preflight.config_checks import load_config
from titan_speech.utils.files import write_atomically


def merge(checkpoint: WeightsCheckpoint, output: Path, base: Path | None = None) -> None:
    """Write the run folder `output`.

    Args:
        checkpoint: of a LoRA run.
        output: must not exist.
        base: where the base of the adapter is; None: where it was when the adapter was trained.

    Raises:
        CheckpointError: the checkpoint has no adapter, or its base is missing or another one.
        ModelError: the output exists, or the disk is too small.
    """
    with checkpoint.kept():
        state = checkpoint.merged_weights(base)
        if state is None:
            raise CheckpointError(f"{checkpoint.path} holds a whole model: there is nothing to merge")
        with new_folder(output, sum(value.nbytes for value in state.values())) as partial:
            config = _merged_config(checkpoint, output)
            folder = partial / config.config.checkpoint.folder
            folder.mkdir(parents=True)
            write_atomically(partial / RESOLVED_NAME, resolved_toml(config))
            job = SaveJob(
                checkpoint_path(folder, checkpoint.step),
                checkpoint.step,
                kind="model",
                reason=f"merged from {checkpoint.run_folder.name}",
                world_size=1,
                write_companions=lambda: _write_companions(checkpoint, folder, config),
            )
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # intended
                dcp.save(state, storage_writer=CommittingWriter(job), no_dist=True)


def _merged_config(checkpoint: WeightsCheckpoint, output: Path) -> LoadedConfig:
    """The run's configuration without its adapter, in the new folder."""
    loaded = load_config(["--job.config_file", str(checkpoint.run_folder / RESOLVED_NAME)])
    config = replace(loaded.config, lora=LoRAConfig(), job=replace(loaded.config.job, dump_folder=str(output)))
    return replace(loaded, config=config)


def _write_companions(checkpoint: WeightsCheckpoint, folder: Path, config: LoadedConfig) -> tuple[FileRecord, ...]:
    merged, found, end = checkpoint_path(folder, checkpoint.step), checkpoint.provenance, phase_end(checkpoint.path)
    assert found is not None, "a checkpoint with an adapter has a record"
    note = f"base {found.base_fingerprint} merged with a LoRA adapter ({found.lora})"
    initial = f"{note}; {found.initial}" if found.initial else note
    config_text = resolved_toml(config)
    whole = replace(found, lora="", base="", base_fingerprint="", rotary=HALVES, initial=initial, config=config_text)
    whole.write(merged)
    if end is not None:
        write_step(merged, checkpoint.step, end.phases)
    return companion_records(merged)
