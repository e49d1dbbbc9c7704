"""Labels that carry the stream they came from.

In: next-token ids and the index of the pack's stream. Out: int64 labels `id | stream << 32`; and the way back, for
numpy arrays and torch tensors alike. Where nothing is trained, the label is -100.

The group rides inside the labels because nothing else passes chunked losses, context parallelism, pipelines and CUDA
graphs untouched. It costs no bytes: TorchTitan's labels are int64, and ids need 18 of the 64 bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch  # planning and reading do without: 400 MB of libraries

IGNORE_INDEX = -100
STREAM_SHIFT = 32
ID_MASK = (1 << STREAM_SHIFT) - 1

Array = TypeVar("Array", NDArray[np.int64], "torch.Tensor")


def encode_labels(ids: NDArray[np.integer], stream: int | NDArray[np.int64]) -> NDArray[np.int64]:
    """Labels of trained tokens: each with its stream, of all or of each row."""
    labels = ids.astype(np.int64)
    if np.any(stream):
        labels |= stream << STREAM_SHIFT
    return labels


def split_labels(labels: Array) -> tuple[Array, Array]:
    """Ids (-100 where not trained) and streams (0 where not trained) of encoded labels, of any shape."""
    trained = labels >= 0
    ids = (labels & ID_MASK) * trained + IGNORE_INDEX * ~trained
    return ids, (labels >> STREAM_SHIFT) * trained
