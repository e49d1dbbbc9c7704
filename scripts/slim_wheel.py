"""Make wheels small for a machine with GPUs of one architecture: `python scripts/slim_wheel.py 90 WHEEL...`.

In: an architecture (90 for Hopper, 100 for Blackwell), wheels. Out: the wheels, rewritten in place: without files that
training never opens (`LEFT_OUT`), libraries without symbols for debuggers and without GPU code of other architectures,
and not compressed, since the archive around them (offline_bundle.sh) compresses better. Triton 3.8 takes 62 MiB there
in place of 236. RECORD lists what is left with its new sums, so that pip installs it.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.slim_fatbin import slim_library

LEFT_OUT = (
    r"triton/backends/nvidia/lib/cupti.*/.*",  # of Triton's profiler; torch has its own
    r"triton/_C/libproton\.so|triton/profiler/.*|triton/instrumentation/.*|triton/plugins/.*",
    r"triton/backends/amd/(include|lib)/.*",
    r"torch/bin/protoc.*|torch/test/.*",
    r"(numpy|pandas|pyarrow|networkx|sympy|mpmath)/(.*/)?tests/.*",
    r"pyarrow/(include|src)/.*",
    r"botocore/data/(?!s3/|s3control/|sts/|sso/|sso-oidc/|signin/)[^/]+/.*",  # services that storage does not call
    r".*\.(a|pdb)",
)
"""Paths in wheels that nothing imports or opens in training."""
BLACKWELL_ONLY = r"triton/backends/nvidia/bin/ptxas-blackwell"


def is_left_out(name: str, arch: int) -> bool:
    """Whether a file of a wheel is not needed on an architecture."""
    patterns = LEFT_OUT if arch >= 100 else (*LEFT_OUT, BLACKWELL_ONLY)
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def slim_wheel(wheel: Path, arch: int) -> None:
    """Rewrite a wheel.

    Raises:
        subprocess.CalledProcessError: a library that `strip` cannot read.
    """
    with tempfile.TemporaryDirectory(dir=wheel.parent) as scratch:
        folder = Path(scratch)
        with zipfile.ZipFile(wheel) as archive:
            before = sum(one.file_size for one in archive.infolist())
            names = [one for one in archive.namelist() if not one.endswith("/") and not is_left_out(one, arch)]
            modes = {name: archive.getinfo(name).external_attr for name in names}
            archive.extractall(folder, names)
        kept = zeroed = 0
        for name in names:
            path = folder / name
            if _is_library_of_a_cpu(path):
                subprocess.run(["strip", "--strip-unneeded", str(path)], check=True)
                counts = slim_library(path, arch)
                kept, zeroed = kept + counts[0], zeroed + counts[1]
        _write_record(folder, set(names))
        partial = wheel.with_suffix(".partial")
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            for name in names:
                entry = zipfile.ZipInfo(name)
                entry.external_attr = modes[name]  # pip makes programs executable that are so in the wheel
                archive.writestr(entry, (folder / name).read_bytes())
        after = partial.stat().st_size
        shutil.move(partial, wheel)
    gpu = f"; GPU code: kept {kept / 2**20:.0f} MiB, zeroed {zeroed / 2**20:.0f} MiB" if kept + zeroed else ""
    print(f"{wheel.name}: {before / 2**20:.0f} MiB of files, now {after / 2**20:.0f} MiB{gpu}")


def _is_library_of_a_cpu(path: Path) -> bool:
    """Whether a file is a library or program for x86-64 or Arm; code for GPUs has the same format."""
    with path.open("rb") as file:
        head = file.read(20)
    return head[:4] == b"\x7fELF" and int.from_bytes(head[18:20], "little") in (62, 183)


def _write_record(folder: Path, names: set[str]) -> None:
    """Sums of what is left."""
    [record] = folder.glob("*.dist-info/RECORD")
    lines = []
    for line in record.read_text(encoding="utf-8").splitlines():
        name, _, size = line.rsplit(",", 2)
        path = folder / name.strip('"')
        if name.strip('"') not in names:
            continue
        if path == record or not size:
            lines.append(line)
            continue
        digest = hashlib.sha256(path.read_bytes()).digest()
        text = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        lines.append(f"{name},sha256={text},{path.stat().st_size}")
    record.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    for argument in sys.argv[2:]:
        slim_wheel(Path(argument), int(sys.argv[1]))
