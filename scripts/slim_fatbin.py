"""Leave code of one GPU architecture in the CUDA libraries of a wheel: `python scripts/slim_fatbin.py WHEEL 90`.

In: torch's wheel, an architecture (90 for Hopper, 100 for Blackwell). Out: the wheel, rewritten in place. In the
`.nv_fatbin` section of each library the code of other architectures becomes zeros, which compress to nothing; headers
stay, so the driver still walks the list and finds what is its own. Code in PTX that the architecture can compile is
kept where it has no code of its own. The wheel's RECORD gets the new sums, so that pip installs it.
"""

from __future__ import annotations

import base64
import hashlib
import mmap
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
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


def section(library: Path) -> tuple[int, int] | None:
    """Offset and size of `.nv_fatbin` in a library; None if it has none."""
    listed = subprocess.run(["readelf", "-S", "-W", str(library)], capture_output=True, text=True, check=False).stdout
    found = re.search(r"\.nv_fatbin\s+PROGBITS\s+[0-9a-f]+\s+([0-9a-f]+)\s+([0-9a-f]+)", listed)
    return (int(found[1], 16), int(found[2], 16)) if found else None


def slim_wheel(wheel: Path, arch: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        for library in sorted(Path(folder).rglob("*.so*")):
            place = section(library) if library.is_file() else None
            if place is not None:
                with library.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
                    kept, zeroed = slim(data, *place, arch)
                print(f"{library.name}: kept {kept / 2**20:.1f} MiB, zeroed {zeroed / 2**20:.1f} MiB")
        _write_record(Path(folder))
        partial = wheel.with_suffix(".partial")
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            for path in sorted(Path(folder).rglob("*")):
                if path.is_file():
                    archive.write(path, path.relative_to(folder).as_posix())
        shutil.move(partial, wheel)


def _write_record(folder: Path) -> None:
    [record] = folder.glob("*.dist-info/RECORD")
    lines = []
    for line in record.read_text(encoding="utf-8").splitlines():
        name = line.rsplit(",", 2)[0]
        path = folder / name.strip('"')
        if path == record or not path.is_file():
            lines.append(line)
            continue
        digest = hashlib.sha256(path.read_bytes()).digest()
        text = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        lines.append(f"{name},sha256={text},{path.stat().st_size}")
    record.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    slim_wheel(Path(sys.argv[1]), int(sys.argv[2]))
