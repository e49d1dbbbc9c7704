"""One step of one recipe, compiled for an architecture, in a process of its own that pretends to have a GPU.

In: a file with a `StepRequest`. Out: a file with what was compiled, or the error that stopped it. Model, layout,
activation checkpointing, chunked loss and optimizer are the run's own, built by the code that builds a run, on a fake
process group of the recipe's size and on fake CUDA tensors: forward, loss, backward, clipping and optimizer step, then
the same again. FSDP's hooks run around each compiled layer, as in a run. Documents' masks are made from positions as
the packer gives them; making them is not compiled here, which a run does once and takes two minutes of these cores.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

NUM_STEPS = 2


@dataclass(frozen=True)
class StepRequest:
    """What is compiled."""

    words: tuple[str, ...]
    """Of a configuration: a recipe and overrides."""
    architecture: str
    world_size: int
    num_layers: int
    max_base_rows: int
    """Text rows of the vocabulary at most; 0: all that the recipe has."""
    overrides: tuple[str, ...] = ()
    """Factories of TorchTitan that replace parts of the model."""


def main(request_file: Path, out: Path) -> None:
    request = StepRequest(**json.loads(request_file.read_text(encoding="utf-8")))
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": str(request.world_size), "NGPU": str(request.world_size)}
    os.environ |= ranks
    out.write_text(json.dumps(compile_step(request)), encoding="utf-8")


def compile_step(request: StepRequest) -> dict[str, Any]:
    """Compile the step.

    Returns:
        The recorder's graphs and kernels, counters of Dynamo, sizes, and `error`, empty if the steps ended.
    """
    from titan_speech.utils.logging import silence_library_warnings

    silence_library_warnings()
    from benchmarks.deviceless.pretended_gpu import ARCHITECTURES, pretend

    architecture = ARCHITECTURES[request.architecture]
    pretend(architecture)
    from benchmarks.deviceless.kernels import record_compilations

    recorder = record_compilations(architecture.shared_bytes)
    sizes: dict[str, Any] = {}
    error = ""
    try:
        _steps(request, recorder, sizes)
    except Exception as caught:  # the finding
        error = f"{type(caught).__name__}: {caught}"
        sizes["traceback"] = traceback.format_exc()[-6000:]
    from torch._dynamo.utils import counters

    kept = {name: dict(counters[name]) for name in ("graph_break", "stats", "unimplemented") if counters[name]}
    return {"request": asdict(request), **recorder.to_json(), "counters": kept, "sizes": sizes, "error": error}


def _steps(request: StepRequest, recorder: Any, sizes: dict[str, Any]) -> None:
    import torchtitan.models.common.attention as attention
    from torchtitan.config.override import OverrideConfig, apply_overrides
    from torchtitan.distributed import utils as dist_utils

    from benchmarks.deviceless.cuda_step import CudaStep
    from titan_speech.estimate.fake_inputs import fake_inputs
    from titan_speech.estimate.offline import run_shape, run_vocabulary
    from titan_speech.estimate.step_trace import TraceJob
    from titan_speech.estimate.trace_process import _build_meshes
    from titan_speech.preflight.config_checks import load_config
    from titan_speech.tokenization.vocabulary import Vocabulary

    attention._compiled_create_block_mask = attention.create_block_mask
    dist_utils.init_fake_mode(request.world_size, rank=0)
    config = load_config(list(request.words), world_size=request.world_size).config
    config = replace(
        config,
        model=replace(config.model, initial=""),
        checkpoint=replace(config.checkpoint, enable=False, initial_load_path="", create_seed_checkpoint=False),
        training=replace(config.training, cuda_graphs=False),  # captures what was compiled, and changes no kernel
    )
    (shape, _), vocabulary = run_shape(config), run_vocabulary(config).vocabulary
    shape = replace(shape, num_layers=request.num_layers)
    if request.max_base_rows:
        vocabulary = Vocabulary(num_base=min(vocabulary.num_base, request.max_base_rows), bos_id=0, eos_id=1)
    with tempfile.TemporaryDirectory(prefix="titan-speech-compile-") as folder:
        tree = fake_inputs(config, vocabulary, shape, request.world_size, Path(folder))
        if config.preference.is_on:  # fake data are no pairs, which changes no kernel
            tree.loss = _preference_loss(tree.loss, config)
        job = TraceJob(config, shape, vocabulary, request.world_size, accumulates=False, fused_kernels=False)
        step = CudaStep(tree, job, _build_meshes(tree, request.world_size), recorder)
        if request.overrides:  # now that each part knows how it is sharded
            apply_overrides(OverrideConfig(imports=list(request.overrides)), step.model_config)
        sizes |= {
            "num_rows": vocabulary.num_rows,
            "packs": config.training.local_batch_packs,
            "seq_len": config.training.seq_len,
            "recomputation": config.activation_checkpoint.kind,
            "float8": config.float8.recipe,
            "family": shape.family,
            "dim": shape.dim,
            "is_compiled": config.compile.enable,
        }
        step.run(NUM_STEPS)
        head = step.head
        sizes |= {
            "num_converted": step.num_converted,
            "head": {
                "num_chunks": config.loss.num_chunks,
                "num_launches": head.num_launches,
                "num_products": head.num_products,
                "moved_bytes": head.moved_bytes,
                "peak_bytes": head.peak_bytes,
            },
        }


def _preference_loss(plain: Any, config: Any) -> Any:
    """The loss of pairs with the settings of the cross-entropy that fake data got."""
    from titan_speech.training.preference_loss import AnswerCrossEntropy, PreferenceLoss

    shared = {one.name: getattr(plain.loss_fn, one.name) for one in fields(plain.loss_fn) if one.init}
    answers = AnswerCrossEntropy.Config(**shared, seq_len=config.training.seq_len)
    return PreferenceLoss.Config(num_chunks=plain.num_chunks, loss_fn=answers, settings=config.preference)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
