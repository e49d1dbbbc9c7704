"""The start of rank 0 in a world of any size, until its first batch, in one process; JSON on stdout.

    python -m benchmarks.simulated_rank WORLD_SIZE

In: a world size. Out: processor seconds from the start of the process to the first batch, how many of them torch's
meshes and sharding took, and the bytes of the checkpoint state other than weights (data, step, health). The process
group is TorchTitan's fake one: a rank of that world with its own part of the sharded debug model, which exchanges
nothing, so any other rank would read the decisions of rank 0 from uninitialized memory. The batch of a step is 1,024
packs at any size.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

PACKS, SEQ_LEN, WEIGHT = 1024, 128, 0.01
P = ParamSpec("P")
R = TypeVar("R")


class Timed:
    """Processor seconds inside some functions."""

    cpu_sec = 0.0

    def around(self, function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def timed(*args: P.args, **keywords: P.kwargs) -> R:
            began = time.process_time()
            try:
                return function(*args, **keywords)
            finally:
                self.cpu_sec += time.process_time() - began

        return timed


def figures(world_size: int) -> dict[str, float]:
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": str(world_size), "NGPU": str(world_size)}
    from titan_speech.utils import cpu
    from titan_speech.utils.logging import silence_library_warnings

    silence_library_warnings()
    cpu.prepare()
    import torch
    from torchtitan.config.configs import CommConfig
    from torchtitan.distributed.parallel_dims import ParallelDims
    from torchtitan.protocols.module import Module

    from titan_speech.config.schema import SpeechConfig
    from titan_speech.config.schema_operations import CheckpointConfig
    from titan_speech.config.schema_training import TrainingConfig
    from titan_speech.estimate.fake_inputs import fake_inputs
    from titan_speech.estimate.offline import offline_config, run_vocabulary
    from titan_speech.model.backbones import published_shape

    config = SpeechConfig(
        training=TrainingConfig(
            seq_len=SEQ_LEN,
            global_batch_tokens=PACKS * SEQ_LEN,
            target_tokens=100 * PACKS * SEQ_LEN,
            local_batch_packs=1,
        ),
        checkpoint=CheckpointConfig(enable=False),
    )
    with tempfile.TemporaryDirectory(prefix="titan-speech-benchmark-") as folder:
        config, _ = offline_config(config)
        vocabulary = run_vocabulary(config).vocabulary
        shape = published_shape("llama3", "debug")
        layout = Timed()
        ParallelDims.build_mesh = layout.around(ParallelDims.build_mesh)
        tree = fake_inputs(config, vocabulary, shape, world_size, Path(folder))
        tree.comm = CommConfig(mode="fake_backend")
        assert tree.model_spec is not None
        tree.model_spec.parallelize_fn = layout.around(tree.model_spec.parallelize_fn)
        for _, module, _, _ in tree.model_spec.model.traverse(Module.Config, recurse=True):
            if module.param_init is not None:  # a rank draws its part on GPUs; the whole that a CPU draws has none here
                module.param_init = dict.fromkeys(module.param_init, partial(torch.nn.init.constant_, val=WEIGHT))
        trainer = tree.build()
        next(iter(trainer.dataloader))
        found = {"start_cpu_sec": time.process_time(), "layout_cpu_sec": layout.cpu_sec}
        state = {"data": trainer.dataloader.state_dict(), "trainer": trainer.state_dict()}
        trainer.close()
    return {**found, "state_bytes": len(json.dumps(state))}


if __name__ == "__main__":
    found = figures(int(sys.argv[1]))
    print(json.dumps({"found": found}), flush=True)
