"""The training entry that counts, for each step, what waits for the device and what waits for other ranks.

Out: RUN/counts.json, {step: {name: number}}: `item`, `tolist` and `cpu` of tensors, reads of a scalar by other means
(float, bool, int), and collectives by name. A step is all from its batches to the boundary after it.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

if not torch.cuda.is_available():
    from titan_speech.utils import cpu

    cpu.prepare()

from titan_speech.train import main
from titan_speech.trainer import SpeechTrainer

COUNTS: dict[int, Counter[str]] = {}
NOW = [0]


class CountOps(TorchDispatchMode):
    """Counts reads of scalars and collectives."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        namespace, _, name = func.name().partition("::")
        if namespace in ("c10d", "_c10d_functional") or name.startswith("_local_scalar_dense"):
            COUNTS[NOW[0]][name] += 1
        return func(*args, **(kwargs or {}))


def counted_method(name: str) -> Callable[..., Any]:
    plain = getattr(torch.Tensor, name)

    def method(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if NOW[0] in COUNTS:
            COUNTS[NOW[0]][name] += 1
        return plain(self, *args, **kwargs)

    return method


def counted(plain: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: SpeechTrainer, *args: Any) -> Any:
        NOW[0] = self.step
        COUNTS.setdefault(self.step, Counter())
        with CountOps():
            return plain(self, *args)

    return method


def close(self: SpeechTrainer) -> None:
    path = Path(self.config.dump_folder) / "counts.json"
    path.write_text(json.dumps({step: dict(sorted(counts.items())) for step, counts in COUNTS.items()}))
    plain_close(self)


plain_close = SpeechTrainer.close
for method in ("item", "tolist", "cpu"):
    setattr(torch.Tensor, method, counted_method(method))
SpeechTrainer.train_step = counted(SpeechTrainer.train_step)  # type: ignore[method-assign]
SpeechTrainer._between_steps = counted(SpeechTrainer._between_steps)  # type: ignore[method-assign]
SpeechTrainer.close = close  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(main())
