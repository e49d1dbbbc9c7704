"""Two small libraries that stand for the CUDA driver, for processes that trace and compile without a GPU.

In: the folder of torch's libraries, a folder to write to. Out: the environment of such a process. It needs gcc and nm,
takes about a second, and is done once per folder.

`libnogpu.so` is preloaded: autograd asks c10 for the number of devices whenever a gradient is of a CUDA tensor, and
must be told of one, but not before torch is imported, since torch would then start it. `libcuda.so.1` has every symbol
that torch's libraries want of the driver, each of which succeeds and does nothing: a context is never active.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_COUNT = """
static int count = 0;
void nogpu_set(int devices) { count = devices; }
signed char _ZN3c104cuda12device_countEv(void) { return (signed char)count; }
"""
_STATE = "int cuDevicePrimaryCtxGetState(int d, unsigned *flags, int *active) { *flags = 0; *active = 0; return 0; }"


def build_stubs(folder: Path) -> dict[str, str]:
    """Build both libraries into `folder`, unless they are there.

    Returns:
        The environment variables of a process that uses them.

    Raises:
        RuntimeError: gcc or nm is missing or fails.
    """
    count, driver = folder / "libnogpu.so", folder / "libcuda.so.1"
    if not (count.exists() and driver.exists()):
        folder.mkdir(parents=True, exist_ok=True)
        names = [name for name in _wanted() if name != "cuDevicePrimaryCtxGetState"]
        _compile(_COUNT, count)
        _compile("\n".join([_STATE, *(f"int {name}(void) {{ return 0; }}" for name in names)]), driver)
    paths = [str(folder), os.environ.get("LD_LIBRARY_PATH", "")]
    return {"LD_PRELOAD": str(count), "LD_LIBRARY_PATH": ":".join(path for path in paths if path)}


def _wanted() -> list[str]:
    """Symbols of the driver that torch's libraries leave open."""
    from importlib.util import find_spec

    found = find_spec("torch")
    assert found is not None
    assert found.origin is not None
    library = Path(found.origin).parent / "lib" / "libcaffe2_nvrtc.so"
    if not library.exists():
        raise RuntimeError(f"{library} is missing: this torch was built without CUDA, so it can compile for no GPU")
    listed = _run("nm", "-D", "--undefined-only", str(library))
    symbols = (line.split()[-1].partition("@")[0] for line in listed.splitlines() if line.strip())
    return sorted({symbol for symbol in symbols if symbol.startswith("cu")})


def _compile(source: str, library: Path) -> None:
    partial = library.with_name(f"{library.name}.{os.getpid()}")
    _run(
        "gcc", "-shared", "-fPIC", "-w", f"-Wl,-soname,{library.name}", "-x", "c", "-", "-o", str(partial), text=source
    )
    partial.replace(library)


def _run(*words: str, text: str | None = None) -> str:
    try:
        done = subprocess.run(words, input=text, capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise RuntimeError(f"{words[0]} is not installed; it is needed to stand for the CUDA driver") from error
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"{' '.join(words[:4])} failed: {error.stderr.strip()[-500:]}") from error
    return done.stdout
