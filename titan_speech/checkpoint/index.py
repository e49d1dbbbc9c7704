"""Which files DCP's index places tensors in.

In: a checkpoint's `.metadata`. Out: their names. The index is a pickle, which can run anything when it is loaded: here
only its strings are looked at, without torch.
"""

from __future__ import annotations

import pickletools
from pathlib import Path

SUFFIX = ".distcp"
"""Of every file of tensors that DCP writes."""


def indexed_files(path: Path) -> frozenset[str]:
    """Names relative to the checkpoint.

    Raises:
        OSError: the index cannot be read.
        ValueError: it is no pickle.
    """
    strings = (argument for _, argument, _ in pickletools.genops(path.read_bytes()) if isinstance(argument, str))
    return frozenset(text for text in strings if text.endswith(SUFFIX))
