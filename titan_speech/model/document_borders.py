"""Borders of packed documents as cumulative lengths of one fixed shape, for attention kernels of variable length.

In: positions of a batch of packs, which restart at 0 with every document. Out: int32 offsets of documents in the
flattened batch, padded with its length: the shape depends on the capacity alone, so that a captured graph can be given
other packs. TorchTitan's own offsets have as many entries as there are documents, and are made with a host sync.

A document has at least one token, so a pack of L tokens holds at most L; the packer's shortest document gives a better
bound. Padded entries are documents of no tokens at the end, which such kernels skip.

Shapes: B packs, L tokens of a pack, C capacity.
"""

from __future__ import annotations

import torch


def max_documents(seq_len: int, shortest: int) -> int:
    """Most pieces of documents that a pack holds: whole ones, one cut at each end, and the padding.

    Args:
        seq_len: tokens of a pack.
        shortest: tokens of the shortest document of the plan.
    """
    return min(seq_len, seq_len // shortest + 3)


def padded_cu_seqlens(positions_BL: torch.Tensor, capacity: int) -> torch.Tensor:
    """Offsets of the documents of a batch, shape [C + 1]; the last are B * L.

    Without a host sync: more documents than the capacity fail on the device.

    Args:
        positions_BL: position of each token in its document.
        capacity: most documents of the batch.
    """
    total = positions_BL.numel()
    starts_BL = positions_BL == 0
    starts_BL[:, 0] = True  # a pack never continues the one before it
    starts_P = starts_BL.flatten()
    number_P = starts_P.cumsum(0) - 1
    torch._assert_async(number_P[-1] < capacity, f"a batch has more documents than its capacity of {capacity}")
    places_P = torch.where(starts_P, number_P, capacity).clamp(max=capacity)
    offsets_P = torch.where(starts_P, torch.arange(total, device=positions_BL.device), total)
    cu_seqlens = torch.full((capacity + 1,), total, dtype=torch.int64, device=positions_BL.device)
    return cu_seqlens.scatter_reduce(0, places_P, offsets_P, "amin").to(torch.int32)
