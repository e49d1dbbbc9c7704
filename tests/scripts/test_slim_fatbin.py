"""CUDA libraries cut to one architecture: on containers as NVIDIA's compilers write them."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from scripts.slim_fatbin import MACHINE_CODE, PTX, SECTIONS, regions, slim, slim_library


def container(*entries: tuple[int, int, bytes]) -> bytes:
    """A fat binary of (kind, architecture, code)."""
    body = b""
    for kind, arch, code in entries:
        header = bytearray(64)
        struct.pack_into("<HHI", header, 0, kind, 1, 64)
        struct.pack_into("<Q", header, 8, len(code))
        struct.pack_into("<I", header, 28, arch)
        body += bytes(header) + code
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


A, B, C, D = (letter * 32 for letter in (b"a", b"b", b"c", b"d"))


def test_code_of_other_architectures_becomes_zeros_and_the_layout_stays() -> None:
    data = bytearray(bytes(8) + container((MACHINE_CODE, 80, A), (MACHINE_CODE, 90, B), (PTX, 90, C)))
    before = len(data)
    assert slim(data, 0, len(data), 90) == (32, 64)
    assert len(data) == before
    assert (A in data, B in data, C in data) == (False, True, False)
    assert [[one.arch for one in entries] for entries in regions(data, 0, len(data))] == [[80, 90, 90]]


def test_ptx_is_kept_where_the_architecture_has_no_code() -> None:
    data = bytearray(container((MACHINE_CODE, 80, A), (PTX, 80, B), (PTX, 100, C)) + container((MACHINE_CODE, 90, D)))
    slim(data, 0, len(data), 90)
    assert (A in data, B in data, C in data, D in data) == (False, True, False, True)


def test_a_container_that_is_cut_short_is_refused() -> None:
    data = bytearray(container((MACHINE_CODE, 80, A)))
    struct.pack_into("<Q", data, 16 + 8, 1 << 40)
    with pytest.raises(ValueError, match="cut short"):
        slim(data, 0, len(data), 90)


def test_both_sections_of_a_library_are_cut(tmp_path: Path) -> None:
    (tmp_path / "code").write_bytes(container((MACHINE_CODE, 80, A), (MACHINE_CODE, 90, B)))
    source = "".join(f'.section {name},"a",@progbits\n.incbin "{tmp_path}/code"\n' for name in SECTIONS)
    (tmp_path / "code.s").write_text(source)
    library = tmp_path / "libcode.so"
    subprocess.run(["gcc", "-shared", "-nostdlib", "-o", str(library), str(tmp_path / "code.s")], check=True)
    assert slim_library(library, 90) == (64, 64)
    assert (library.read_bytes().count(A), library.read_bytes().count(B)) == (0, 2)
    assert slim_library(tmp_path / "code", 90) == (0, 0), "no library"
