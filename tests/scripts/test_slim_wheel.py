"""Wheels without what training never opens: pip installs them, and their libraries load."""

from __future__ import annotations

import _ctypes
import base64
import csv
import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from scripts.slim_wheel import is_left_out, slim_wheel

LIBRARY = Path(_ctypes.__file__)


def wheel_of(folder: Path, files: dict[str, bytes]) -> Path:
    """A wheel named small with these files."""
    about = "small-1.0.dist-info"
    files = files | {
        f"{about}/METADATA": b"Metadata-Version: 2.1\nName: small\nVersion: 1.0\n",
        f"{about}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [f"{name},sha256={digest(content)},{len(content)}" for name, content in files.items()]
    path = folder / "small-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o755 << 16
            archive.writestr(entry, content)
        archive.writestr(f"{about}/RECORD", "\n".join([*record, f"{about}/RECORD,,"]) + "\n")
    return path


def digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def test_a_slim_wheel_installs_and_its_library_loads(tmp_path: Path) -> None:
    files = {
        "small/__init__.py": b"VALUE = 3\n",
        f"small/{LIBRARY.name}": LIBRARY.read_bytes(),
        "triton/profiler/__init__.py": b"",
        "triton/backends/nvidia/bin/ptxas-blackwell": b"of another architecture",
    }
    wheel = wheel_of(tmp_path, files)
    slim_wheel(wheel, 90)
    with zipfile.ZipFile(wheel) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
        assert {one.compress_type for one in archive.infolist()} == {zipfile.ZIP_STORED}
        assert {one.external_attr >> 16 for one in archive.infolist() if not one.filename.endswith("RECORD")} == {0o755}
    assert not [name for name in contents if name.startswith("triton")]
    rows = list(csv.reader(contents["small-1.0.dist-info/RECORD"].decode().splitlines()))
    assert {name for name, _, _ in rows} == contents.keys()
    for name, sum_, size in rows:
        assert not size or (sum_, int(size)) == (f"sha256={digest(contents[name])}", len(contents[name]))
    target = tmp_path / "installed"
    install = ["pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run([sys.executable, "-m", *install], check=True)
    code = f"import ctypes, small; ctypes.CDLL({str(target / 'small' / LIBRARY.name)!r}); print(small.VALUE)"
    done = subprocess.run([sys.executable, "-c", code], cwd=target, capture_output=True, text=True, check=True)
    assert done.stdout == "3\n"


@pytest.mark.parametrize(
    ("name", "arch", "expected"),
    [
        ("triton/backends/nvidia/bin/ptxas-blackwell", 90, True),
        ("triton/backends/nvidia/bin/ptxas-blackwell", 100, False),
        ("triton/backends/nvidia/bin/ptxas", 90, False),
        ("triton/backends/nvidia/lib/libdevice.10.bc", 90, False),
        ("triton/backends/nvidia/lib/cupti/libcupti.so", 90, True),
        ("triton/backends/amd/compiler.py", 90, False),
        ("torch/bin/torch_shm_manager", 90, False),
        ("torch/testing/_internal/common_utils.py", 90, False),
        ("pandas/tests/io/test_json.py", 90, True),
        ("numpy/_core/tests/test_nep50.py", 90, True),
        ("botocore/data/ec2/2016-11-15/service-2.json.gz", 90, True),
        ("botocore/data/s3/2006-03-01/service-2.json.gz", 90, False),
        ("botocore/data/endpoints.json", 90, False),
        ("torch/lib/libtorch_cuda.so", 90, False),
    ],
)
def test_only_what_training_never_opens_is_left_out(name: str, arch: int, expected: bool) -> None:
    assert is_left_out(name, arch) == expected
