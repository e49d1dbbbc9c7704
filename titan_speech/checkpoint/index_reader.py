"""DCP's index, read as data: in which file each tensor of a checkpoint is.

In: a checkpoint's `.metadata`, from wherever it came.
Out: DCP's `Metadata`, or a `CheckpointError`. The file is a pickle, and a pickle may name any function and have it
called when it is loaded. Here it can name only what DCP and `drop_optimizer_state` write (`_known`), and even those
names stand for records that do nothing, never for the classes themselves; DCP's classes are made of their content, and
each field of it is checked. 1,200 tensors in 64 parts each take 2.1 s of one core, unpickling as DCP does it 1.2 s.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeGuard, TypeVar

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from titan_speech.errors import CheckpointError
from titan_speech.utils.json_text import read_small_file
from titan_speech.utils.safe_path import UnsafePathError, relative_path

MAX_INDEX_BYTES = 1 << 30
"""Twice what 1,000 tensors with their moments on 1,024 ranks take."""

T = TypeVar("T")
K = TypeVar("K")

_DTYPES = {
    *("float64", "float32", "float16", "bfloat16", "complex128", "complex64", "complex32", "bool"),
    *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "float4_e2m1fn_x2"),
    *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"),
}
_MEMORY_FORMATS = {
    "TORCH_CONTIGUOUS_FORMAT": torch.contiguous_format,
    "TORCH_CHANNELS_LAST": torch.channels_last,
    "TORCH_PRESERVE_FORMAT": torch.preserve_format,
}
"""By DCP's names, in the order of DCP's numbers."""


def read_index(path: Path) -> Metadata:
    """The index at `path` (a `.metadata`) as DCP has it; nothing in it is run.

    Raises:
        OSError: it cannot be read.
        CheckpointError: it is too large, a pipe or a device, is not a pickle of DCP, names what has no place in one,
            holds values that cannot be (a file outside the checkpoint, a negative size), or is of another torch.
    """
    try:
        data = read_small_file(path, MAX_INDEX_BYTES)
    except ValueError as error:
        _refuse(path, str(error), error)
    try:
        return _metadata(_Reader(data).load())
    except _UnknownTypeError as error:
        raise CheckpointError(f"the index {path} is of tensors that this torch does not know: {error}") from error
    except (_RefusedError, UnsafePathError) as error:
        _refuse(path, str(error), error)
    except Exception as error:  # a pickle that is damaged, or made to mislead, can raise anything
        _refuse(path, f"it cannot be read as one ({type(error).__name__}: {str(error)[:200]})", error)


def indexed_files(path: Path) -> frozenset[str]:
    """Files that the index at `path` places tensors in, relative to the checkpoint.

    Raises:
        OSError, CheckpointError: as `read_index`.
    """
    return frozenset(place.relative_path for place in read_index(path).storage_data.values())


def _refuse(path: Path, found: str, cause: BaseException | None = None) -> NoReturn:
    raise CheckpointError(
        f"the index {path} was refused: {found}. The index of a checkpoint says where tensors are and nothing else, so "
        "this one is damaged or was made to do harm. Nothing in it was run. Take another checkpoint; if this one came "
        "from somebody else, do not load it with other tools either"
    ) from cause


class _RefusedError(Exception):
    """The index contains something that does not belong in one."""


class _UnknownTypeError(Exception):
    """The index is of a type or a layout of tensors that torch does not have."""


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


def _metadata(read: object) -> Metadata:
    fields = _fields(read, "Metadata", "state_dict_metadata", "planner_data", "storage_data", "storage_meta", "version")
    return Metadata(
        state_dict_metadata=_dict(fields.get("state_dict_metadata"), _text, _entry),
        planner_data=_optional(fields.get("planner_data"), lambda value: _dict(value, _text, _nested)),
        storage_data=_dict(fields.get("storage_data"), _key, _place),
        storage_meta=_optional(fields.get("storage_meta"), _storage_meta),
        version=_optional(fields.get("version"), _text),
    )


def _entry(read: object) -> TensorStorageMetadata | BytesStorageMetadata:
    if _is(read, "BytesStorageMetadata"):
        return BytesStorageMetadata()
    fields = _fields(read, "TensorStorageMetadata", "properties", "size", "chunks")
    properties = fields.get("properties")
    state = properties.state if _is(properties, "TensorProperties") else None
    if type(state) is not tuple or len(state) != 5:
        raise _unexpected(properties, "properties of a tensor")
    dtype, layout, requires_grad, memory_format, pin_memory = state
    return TensorStorageMetadata(
        properties=TensorProperties(
            dtype=_of_torch(_text(_only_argument(dtype, "_DType")), torch.dtype),
            layout=_of_torch(_text(_only_argument(layout, "_get_layout")).removeprefix("torch."), torch.layout),
            requires_grad=_flag(requires_grad),
            memory_format=_memory_format(memory_format),
            pin_memory=_flag(pin_memory),
        ),
        size=_size(fields.get("size")),
        chunks=[_chunk(chunk) for chunk in _list(fields.get("chunks"))],
    )


def _of_torch(name: str, kind: type) -> Any:
    found = vars(torch).get(name)
    if not isinstance(found, kind):
        raise _UnknownTypeError(f"{name!r} is not a {kind.__name__}")
    return found


def _chunk(read: object) -> ChunkStorageMetadata:
    fields = _fields(read, "ChunkStorageMetadata", "offsets", "sizes")
    return ChunkStorageMetadata(_size(fields.get("offsets")), _size(fields.get("sizes")))


def _key(read: object) -> MetadataIndex:
    fields = _fields(read, "MetadataIndex", "fqn", "offset", "index")
    hint = _optional(fields.get("index"), _count)
    return MetadataIndex(_text(fields.get("fqn")), _optional(fields.get("offset"), _size), hint)


def _place(read: object) -> _StorageInfo:
    fields = _fields(read, "_StorageInfo", "relative_path", "offset", "length", "transform_descriptors")
    transforms = _optional(fields.get("transform_descriptors"), _texts)
    where = relative_path(fields.get("relative_path"))
    return _StorageInfo(where, _count(fields.get("offset")), _count(fields.get("length")), transforms)


def _storage_meta(read: object) -> StorageMeta:
    fields = _fields(read, "StorageMeta", "checkpoint_id", "save_id", "load_id", "modules")
    path = fields.get("checkpoint_id")
    return StorageMeta(
        checkpoint_id=Path(*_texts(path.args)) if _is(path, *_PATHS) else _optional(path, _text),
        save_id=_optional(fields.get("save_id"), _text),
        load_id=_optional(fields.get("load_id"), _text),
        modules=list(_texts(fields.get("modules", []))),
    )


def _memory_format(read: object) -> torch.memory_format:
    """A memory format; Python writes it as getattr(class, name) or class(number), by version."""
    number_class = _STAND_INS["torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING"]
    if _is(read, "getattr") and len(read.args) == 2 and read.args[0] is number_class:
        name = _text(read.args[1])
        if name in _MEMORY_FORMATS:
            return _MEMORY_FORMATS[name]
    elif _is(read, "_MEM_FORMAT_ENCODING"):
        number = _count(_only_argument(read, "_MEM_FORMAT_ENCODING"))
        if number < len(_MEMORY_FORMATS):
            return list(_MEMORY_FORMATS.values())[number]
    raise _unexpected(read, "a memory format")


def _size(read: object) -> torch.Size:
    return torch.Size([_count(number) for number in _list(_only_argument(read, "Size"))])


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
