"""Start a process that pretends to have a GPU, and read what it found.

In: a module with `main(request_file, out)`, a request. Out: what it wrote. The process gets the environment of
stubs.py, and ends with its answer; a request and an answer are JSON files in a scratch folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.deviceless.stubs import build_stubs
from benchmarks.machine import ROOT

STUBS = ROOT / "outputs/benchmarks/stubs"


def run_child(module: str, request: Mapping[str, Any]) -> Any:
    """Run `python -m module REQUEST OUT`.

    Returns:
        What it wrote to OUT.

    Raises:
        RuntimeError: the process ended without an answer.
    """
    with tempfile.TemporaryDirectory(prefix="titan-speech-compile-") as folder:
        asked, out = Path(folder) / "request.json", Path(folder) / "record.json"
        asked.write_text(json.dumps(request), encoding="utf-8")
        inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        done = subprocess.run(
            [sys.executable, "-m", module, str(asked), str(out)],
            env={**inherited, **build_stubs(STUBS), "TORCHINDUCTOR_AUTOGRAD_CACHE": "0"},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if not out.exists():
            raise RuntimeError(f"{module} ended with {done.returncode}: {done.stderr.strip()[-1500:]}")
        return json.loads(out.read_text(encoding="utf-8"))
