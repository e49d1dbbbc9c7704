"""Leave code of one GPU architecture in a CUDA library.

In: a library, an architecture (90 for Hopper, 100 for Blackwell). Out: the library, changed in place. In its sections
with GPU code the code of other architectures becomes zeros, which compress to nothing; headers stay, so the
driver still walks the list and finds what is its own. Code in PTX that the architecture can compile is kept where it
has no code of its own.
"""

from __future__ import annotations

import mmap
import re
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAGIC = b"\x50\xed\x55\xba"
PTX, MACHINE_CODE = 1, 2


@dataclass(frozen=True)
class Entry:
    """Code of one architecture."""

    kind: int
    arch: int
    offset: int
    size: int


def regions(data: mmap.mmap | bytearray, begin: int, size: int) -> Iterator[list[Entry]]:
    """The entries of each container in a section."""
    position, end = begin, begin + size
    while position + 16 <= end:
        if data[position : position + 4] != MAGIC:
            position += 8
            continue
        _, _, header, length = struct.unpack_from("<IHHQ", data, position)
        entry, stop = position + header, min(position + header + length, end)
        found = []
        while entry + 32 <= stop:
            kind, _, entry_header = struct.unpack_from("<HHI", data, entry)
            (payload,) = struct.unpack_from("<Q", data, entry + 8)
            (arch,) = struct.unpack_from("<I", data, entry + 28)
            if entry_header == 0 or entry + entry_header + payload > stop:
                raise ValueError(f"the fat binary at {position} is cut short or of an unknown form")
            found.append(Entry(kind, arch, entry + entry_header, payload))
            entry += entry_header + payload
        yield found
        position = max(stop, position + 8)


def dropped(entries: list[Entry], arch: int) -> list[Entry]:
    """What an architecture does not need."""
    has_own = any(one.kind == MACHINE_CODE and one.arch == arch for one in entries)
    return [
        one
        for one in entries
        if not (one.kind == MACHINE_CODE and one.arch == arch)
        and not (one.kind == PTX and one.arch <= arch and not has_own)
    ]


def slim(data: mmap.mmap | bytearray, begin: int, size: int, arch: int) -> tuple[int, int]:
    """Zero other architectures in place.

    Returns:
        Bytes kept and zeroed.
    """
    kept = zeroed = 0
    for entries in regions(data, begin, size):
        gone = dropped(entries, arch)
        for one in gone:
            data[one.offset : one.offset + one.size] = bytes(one.size)
        zeroed += sum(one.size for one in gone)
        kept += sum(one.size for one in entries) - sum(one.size for one in gone)
    return kept, zeroed


SECTIONS = (".nv_fatbin", "__nv_relfatbin")
"""With code, and with code that was linked into the former (NCCL); both have containers of the same form."""


def sections(library: Path) -> Iterator[tuple[int, int]]:
    """Offset and size of each section with GPU code in a library."""
    listed = subprocess.run(["readelf", "-S", "-W", str(library)], capture_output=True, text=True, check=False).stdout
    for name in SECTIONS:
        found = re.search(rf" {re.escape(name)}\s+PROGBITS\s+[0-9a-f]+\s+([0-9a-f]+)\s+([0-9a-f]+)", listed)
        if found:
            yield int(found[1], 16), int(found[2], 16)


def slim_library(library: Path, arch: int) -> tuple[int, int]:
    """Zero other architectures in a library; one without GPU code stays as it is.

    Returns:
        Bytes of GPU code that were kept and zeroed.
    """
    kept = zeroed = 0
    for place in sections(library):
        with library.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
            counts = slim(data, *place, arch)
        kept, zeroed = kept + counts[0], zeroed + counts[1]
    return kept, zeroed
