"""A training run as it was before the rotary embedding was real: TorchTitan's complex form, and records that say so."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from torchtitan.models.common import ComplexRoPE

from titan_speech.checkpoint import manager
from titan_speech.checkpoint.provenance import Provenance
from titan_speech.model import spec
from titan_speech.model.backbones import PAIRS
from titan_speech.train import main

spec._FAMILIES["llama3"] = replace(spec._FAMILIES["llama3"], rope=ComplexRoPE)  # pyright: ignore[reportArgumentType]
manager.has_rotary_pairs = lambda checkpoint, family: False  # its model has the order that its checkpoints have
write = Provenance.write


def write_pairs(self: Provenance, checkpoint: Path) -> None:
    write(replace(self, rotary=PAIRS), checkpoint)


Provenance.write = write_pairs  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(main())
