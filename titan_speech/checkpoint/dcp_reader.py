"""DCP's readers, for checkpoints that may come from somebody else.

In: a checkpoint and a state to load.
Out: the state, loaded, or a `CheckpointError`; nothing the checkpoint holds is run. DCP unpickles two things: its index
(`index_reader.py` reads it) and each value that is not a tensor (`PlainLoadPlanner`: torch's weights-only reader, then
numbers, texts and lists of them only). Tensors DCP reads weights-only itself.

A reader reads its index once, however often it loads.
"""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem

from titan_speech.checkpoint.index_reader import read_index
from titan_speech.errors import CheckpointError, TitanSpeechError

_PLAIN = (type(None), bool, int, float, str, bytes)


def load_into(state: dict[str, Any], reader: SafeFileSystemReader, *, no_dist: bool = False) -> None:
    """`dcp.load` of what `state` names, in place.

    Raises:
        CheckpointError: the checkpoint holds what is not loaded.
        CheckpointException: as `dcp.load`.
    """
    if no_dist:
        with suppress(OSError):
            reader.read_metadata()  # one that is refused here is not logged by torch with its stack first
    try:
        dcp.load(state, storage_reader=reader, planner=PlainLoadPlanner(), no_dist=no_dist)
    except CheckpointException as error:
        causes = (cause for cause, _ in error.failures.values())
        refusal = reader.refusal or next((one for one in causes if isinstance(one, TitanSpeechError)), None)
        if refusal is None:
            raise
        raise refusal from error


class SafeFileSystemReader(FileSystemReader):
    """DCP's reader, but for how it reads the index: that of rank 0, or a rank's own."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.refusal: CheckpointError | None = None
        """Why the index was refused; DCP would try another and report only why that one failed."""
        self._read: dict[Path, Metadata] = {}

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        if self.refusal is not None:
            raise self.refusal
        path = Path(self._get_metadata_path(kwargs.get("rank")))
        try:
            metadata = self._read.setdefault(path, self._read.get(path) or read_index(path))
        except CheckpointError as error:
            self.refusal = error
            raise
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class PlainLoadPlanner(DefaultLoadPlanner):
    """DCP's planner, but for values that are not tensors: only plain ones are taken."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        name = read_item.storage_index.fqn
        try:
            loaded = torch.load(value, map_location="cpu", weights_only=True)
            odd = _odd(loaded)
        except Exception as error:  # a pickle that is damaged, or made to mislead, can raise anything
            raise _refused(name, _found(value, error)) from error
        if odd:
            raise _refused(name, odd)
        again = io.BytesIO()  # DCP would unpickle what the checkpoint has: it gets what was found in it
        torch.save(loaded, again)
        again.seek(0)
        super().load_bytes(read_item, again)


def _refused(name: str, found: str) -> CheckpointError:
    return CheckpointError(
        f"the value {name!r} of the checkpoint was refused: it holds {found}. A checkpoint has only tensors, "
        "numbers, texts and lists of these, so it is damaged or was made to do harm. Nothing in it was run. Take "
        "another checkpoint; if this one came from somebody else, do not load it with other tools either"
    )


def _found(value: io.BytesIO, error: Exception) -> str:
    """Names in a pickle that was refused."""
    try:
        value.seek(0)
        names = torch.serialization.get_unsafe_globals_in_checkpoint(value)
    except Exception:  # no archive of torch
        names = []
    if not names:
        return f"what torch cannot read as data ({type(error).__name__})"
    return f"the names {ascii(', '.join(sorted(names)))[1:-1][:200]}"


def _odd(loaded: object) -> str:
    """The first type in a value that is not a plain one; empty if all are plain."""
    if type(loaded) in (list, tuple, set):
        return next((odd for one in loaded if (odd := _odd(one))), "")  # pyright: ignore[reportGeneralTypeIssues]
    if type(loaded) is dict:
        return next((odd for one in loaded.items() if (odd := _odd(one))), "")
    return "" if type(loaded) in _PLAIN else f"{type(loaded).__module__}.{type(loaded).__qualname__}"
