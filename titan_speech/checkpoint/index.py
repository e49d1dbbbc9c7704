"""DCP's index, read as data: in which file each tensor of a checkpoint is.

In: a checkpoint's `.metadata`, from wherever it came.
Out: an `Index` of plain values, or a `CheckpointError`. The file is a pickle, and a pickle may name any function and
have it called when it is loaded. Here it can name only what DCP and `drop_optimizer_state` write (`_known`), and even
those names stand for records that do nothing, never for the classes themselves; their content is checked field by
field, without torch. 1,200 tensors in 64 parts each take 2.7 s of one core, unpickling as DCP does it 1.4 s.
`dcp_index.py` makes DCP's own classes of it.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, NoReturn, TypeGuard, TypeVar

from titan_speech.errors import CheckpointError
from titan_speech.utils.json_text import read_small_file
from titan_speech.utils.safe_path import UnsafePathError, relative_path

DCP_SUFFIX = ".distcp"
"""Of every file of tensors that DCP writes."""

MAX_INDEX_BYTES = 1 << 30
"""Twice what 1,000 tensors with their moments on 1,024 ranks take."""

T = TypeVar("T")
K = TypeVar("K")

_DTYPES = {
    *("float64", "float32", "float16", "bfloat16", "complex128", "complex64", "complex32", "bool"),
    *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "float4_e2m1fn_x2"),
    *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"),
}
MEMORY_FORMATS = ("TORCH_CONTIGUOUS_FORMAT", "TORCH_CHANNELS_LAST", "TORCH_PRESERVE_FORMAT")
"""DCP's names for them, by their numbers."""


@dataclass(frozen=True)
class Chunk:
    """A part of a tensor."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class TensorEntry:
    """What is known of a tensor without reading it; types by torch's names."""

    dtype: str
    layout: str
    requires_grad: bool
    memory_format: int
    pin_memory: bool
    size: tuple[int, ...]
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True)
class Key:
    """Which piece is meant."""

    name: str
    offset: tuple[int, ...] | None
    hint: int | None


@dataclass(frozen=True)
class Place:
    """The file and the range of one piece of a tensor."""

    relative_path: str
    offset: int
    length: int
    transforms: tuple[str, ...] | None


@dataclass(frozen=True)
class SavedAs:
    """What a save recorded about itself."""

    checkpoint_id: str | None
    is_path: bool
    save_id: str | None
    load_id: str | None
    modules: tuple[str, ...]


@dataclass(frozen=True)
class Index:
    """The content of an index."""

    entries: dict[str, TensorEntry | None]
    """None: not a tensor but a value, stored in a file as a pickle of its own."""

    nested: dict[str, tuple[str | int, ...]] | None
    """The path of each name in the state that was saved."""

    places: dict[Key, Place]
    saved_as: SavedAs | None
    version: str | None


def load_index(path: Path) -> Index:
    """Read and check the index at `path`; nothing in it is run.

    Raises:
        OSError: it cannot be read.
        CheckpointError: it is too large, a pipe or a device, is no pickle of DCP, names what has no place in one, or
            holds values that cannot be (a file outside the checkpoint, a negative size).
    """
    try:
        data = read_small_file(path, MAX_INDEX_BYTES)
    except ValueError as error:
        _refuse(path, str(error), error)
    try:
        return _index(_Reader(data).load())
    except (_RefusedError, UnsafePathError) as error:
        _refuse(path, str(error), error)
    except Exception as error:  # a pickle that is damaged, or made to mislead, can raise anything
        _refuse(path, f"it cannot be read as one ({type(error).__name__}: {str(error)[:200]})", error)


def indexed_files(path: Path) -> frozenset[str]:
    """Files that the index at `path` places tensors in, relative to the checkpoint.

    Raises:
        OSError, CheckpointError: as `load_index`.
    """
    return frozenset(place.relative_path for place in load_index(path).places.values())


def _refuse(path: Path, found: str, cause: BaseException | None = None) -> NoReturn:
    raise CheckpointError(
        f"the index {path} was refused: {found}. The index of a checkpoint says where tensors are and nothing else, so "
        "this one is damaged or was made to do harm. Nothing in it was run. Take another checkpoint; if this one came "
        "from somebody else, do not load it with other tools either"
    ) from cause


class _RefusedError(Exception):
    """The index contains something that does not belong in one."""


class _Record:
    """Stands for an instance of a class of DCP: its arguments and its state, without the class.

    A pickle sets attributes by `__setstate__` where there is one, so it can change neither these classes nor DCP's.
    """

    __slots__ = ("args", "state")
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> _Record:
        record = object.__new__(cls)
        record.args, record.state = args, {}
        return record

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _DType(_Record):
    """Stands for a type of torch; its argument is the name."""


_PATHS = ("PosixPath", "WindowsPath")
_KNOWN = {
    "torch.distributed.checkpoint.metadata": (
        "Metadata",
        "TensorStorageMetadata",
        "BytesStorageMetadata",
        "TensorProperties",
        "ChunkStorageMetadata",
        "MetadataIndex",
        "StorageMeta",
        "_MEM_FORMAT_ENCODING",
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch": ("Size",),
    "torch.serialization": ("_get_layout",),
    "builtins": ("getattr",),  # a record too: 3.11.2 and others write an enum as getattr(class, name)
    "pathlib": _PATHS,
    "pathlib._local": _PATHS,
}
_STAND_INS = {
    (module, name): type(name, (_Record,), {"__slots__": ()}) for module, names in _KNOWN.items() for name in names
}
"""For each name a class of that name, whose instances are records."""


def _known(module: str, name: str) -> object:
    """The stand-in for a name in an index.

    Raises:
        _RefusedError: DCP has no use for it there.
    """
    if module == "torch" and name in _DTYPES:
        return _DType(name)
    found = dict if (module, name) == ("collections", "OrderedDict") else _STAND_INS.get((module, name))
    if found is None:
        shown = f"{module}.{name}"
        raise _RefusedError(f"it names {ascii(shown)[1:-1][:200]}")
    return found


class _Reader(pickle.Unpickler):
    """An unpickler that knows only the names of `_known`."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        return _known(module_name, global_name)


def _index(read: object) -> Index:
    fields = _fields(read, "Metadata", "state_dict_metadata", "planner_data", "storage_data", "storage_meta", "version")
    return Index(
        entries=_dict(fields.get("state_dict_metadata"), _text, _entry),
        nested=_optional(fields.get("planner_data"), lambda value: _dict(value, _text, _nested)),
        places=_dict(fields.get("storage_data"), _key, _place),
        saved_as=_optional(fields.get("storage_meta"), _saved_as),
        version=_optional(fields.get("version"), _text),
    )


def _entry(read: object) -> TensorEntry | None:
    if _is(read, "BytesStorageMetadata"):
        return None
    fields = _fields(read, "TensorStorageMetadata", "properties", "size", "chunks")
    properties = fields.get("properties")
    state = properties.state if _is(properties, "TensorProperties") else None
    if type(state) is not tuple or len(state) != 5:
        raise _unexpected(properties, "properties of a tensor")
    dtype, layout, requires_grad, memory_format, pin_memory = state
    return TensorEntry(
        dtype=_text(_only_argument(dtype, "_DType")),
        layout=_text(_only_argument(layout, "_get_layout")),
        requires_grad=_flag(requires_grad),
        memory_format=_memory_format(memory_format),
        pin_memory=_flag(pin_memory),
        size=_size(fields.get("size")),
        chunks=tuple(_chunk(chunk) for chunk in _list(fields.get("chunks"))),
    )


def _chunk(read: object) -> Chunk:
    fields = _fields(read, "ChunkStorageMetadata", "offsets", "sizes")
    return Chunk(_size(fields.get("offsets")), _size(fields.get("sizes")))


def _key(read: object) -> Key:
    fields = _fields(read, "MetadataIndex", "fqn", "offset", "index")
    hint = _optional(fields.get("index"), _count)
    return Key(_text(fields.get("fqn")), _optional(fields.get("offset"), _size), hint)


def _place(read: object) -> Place:
    fields = _fields(read, "_StorageInfo", "relative_path", "offset", "length", "transform_descriptors")
    transforms = _optional(fields.get("transform_descriptors"), _texts)
    where = relative_path(fields.get("relative_path"))
    return Place(where, _count(fields.get("offset")), _count(fields.get("length")), transforms)


def _saved_as(read: object) -> SavedAs:
    fields = _fields(read, "StorageMeta", "checkpoint_id", "save_id", "load_id", "modules")
    checkpoint_id = fields.get("checkpoint_id")
    is_path = _is(checkpoint_id, *_PATHS)
    return SavedAs(
        checkpoint_id=str(PurePath(*_texts(checkpoint_id.args))) if is_path else _optional(checkpoint_id, _text),
        is_path=is_path,
        save_id=_optional(fields.get("save_id"), _text),
        load_id=_optional(fields.get("load_id"), _text),
        modules=_texts(fields.get("modules", [])),
    )


def _memory_format(read: object) -> int:
    """The number of a memory format; Python writes it as getattr(class, name) or class(number), by version."""
    number_class = _STAND_INS["torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING"]
    if _is(read, "getattr") and len(read.args) == 2 and read.args[0] is number_class:
        name = _text(read.args[1])
        if name in MEMORY_FORMATS:
            return MEMORY_FORMATS.index(name)
    elif _is(read, "_MEM_FORMAT_ENCODING"):
        number = _count(_only_argument(read, "_MEM_FORMAT_ENCODING"))
        if number < len(MEMORY_FORMATS):
            return number
    raise _unexpected(read, "a memory format")


def _size(read: object) -> tuple[int, ...]:
    return tuple(_count(number) for number in _list(_only_argument(read, "Size")))


def _nested(read: object) -> tuple[str | int, ...]:
    return tuple(part if type(part) is int else _text(part) for part in _list(read))


def _is(read: object, *names: str) -> TypeGuard[_Record]:
    """Whether a value stands for an instance of a class with one of these names."""
    return isinstance(read, _Record) and type(read).__name__ in names


def _fields(read: object, kind: str, *names: str) -> dict[str, Any]:
    """The state of a record; fields that a save left out have the defaults of DCP's class."""
    if not _is(read, kind):
        raise _unexpected(read, kind)
    if type(read.state) is not dict or not read.state.keys() <= set(names):
        raise _unexpected(read.state, f"fields of {kind} ({', '.join(names)})")
    return read.state


def _only_argument(read: object, kind: str) -> Any:
    if not _is(read, kind) or len(read.args) != 1:
        raise _unexpected(read, kind)
    return read.args[0]


def _dict(read: object, key: Callable[[Any], K], value: Callable[[Any], T]) -> dict[K, T]:
    if type(read) is not dict:
        raise _unexpected(read, "a dict")
    return {key(one): value(other) for one, other in read.items()}


def _list(read: object) -> list[Any] | tuple[Any, ...]:
    if type(read) is not list and type(read) is not tuple:
        raise _unexpected(read, "a list")
    return read


def _texts(read: object) -> tuple[str, ...]:
    return tuple(_text(one) for one in _list(read))


def _text(read: object) -> str:
    if type(read) is not str:
        raise _unexpected(read, "text")
    return read


def _count(read: object) -> int:
    if type(read) is not int or not 0 <= read < 1 << 63:
        raise _unexpected(read, "a whole number from 0")
    return read


def _flag(read: object) -> bool:
    if type(read) is not bool:
        raise _unexpected(read, "True or False")
    return read


def _optional(read: Any, check: Callable[[Any], T]) -> T | None:
    return None if read is None else check(read)


def _unexpected(read: object, expected: str) -> _RefusedError:
    found = repr(read) if type(read) in (int, bool) else type(read).__name__
    return _RefusedError(f"it has {found} where {expected} is expected")
