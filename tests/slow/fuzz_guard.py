"""What must hold while hostile input is read, and how it is noticed.

In: a function that reads the files of a case. Out: a finding, or None.

- Nothing is written, renamed or removed outside the case's folder, and the secret beside it is not opened: an audit
  hook of the interpreter sees every such call of Python code, also inside libraries; the files beside the folder are
  compared afterwards, for what C code does.
- No program is started, no connection is made, no pickle names a class.
- The only exceptions are those of titan_speech.errors, and argparse's exit.
- Memory stays below `MEMORY_BOUND_BYTES` above what the process had (its address space is limited), and a case takes
  less than `CASE_SEC` of processor time.
- What is printed has no control characters.
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from titan_speech.errors import TitanSpeechError
from titan_speech.utils.printable import has_controls

MEMORY_BOUND_BYTES = 1 << 30
CASE_SEC = 20
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = frozenset(
    "os.rename os.remove os.rmdir os.mkdir os.link os.symlink os.truncate os.chmod os.chown shutil.rmtree".split()  # noqa: SIM905
)
_STARTS = frozenset(
    ["subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "socket.connect", "pickle.find_class"]
)


@dataclass(frozen=True)
class Finding:
    """What went wrong in a case; equal `kind`s are one fault."""

    kind: str
    detail: str


class SlowCaseError(BaseException):
    """A case took more than `CASE_SEC`; no `except Exception` may catch it."""


class Guard:
    """Watches this process; there is one, because an audit hook is never removed."""

    def __init__(self) -> None:
        self._folder, self._seen = "", list[str]()
        sys.addaudithook(self._audit)
        signal.signal(signal.SIGPROF, _too_slow)

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if not self._folder:
            return
        if event == "open":
            path, _, flags = args
            if isinstance(path, str | bytes | os.PathLike):
                self._check_open(os.fsdecode(path), flags or 0)
        elif event in _CHANGES:
            numbers = [arg for arg in args if isinstance(arg, int)]
            folder = f"/proc/self/fd/{numbers[-1]}" if numbers and numbers[-1] >= 0 and event != "os.chmod" else ""
            for path in args[:2]:
                if isinstance(path, str | bytes | os.PathLike):
                    self._check_inside(event, os.path.join(folder, os.fsdecode(path)))
        elif event in _STARTS:
            self._seen.append(f"{event} {args!r:.200}")

    def _check_open(self, path: str, flags: int) -> None:
        if flags & _WRITES and path != os.devnull:
            self._check_inside("write", path)
        elif path.endswith("/outside/victim"):
            self._seen.append(f"read of {path}")

    def _check_inside(self, event: str, path: str) -> None:
        real = os.path.join(os.path.realpath(os.path.dirname(path) or "."), os.path.basename(path))
        if not (real + "/").startswith(self._folder + "/"):
            self._seen.append(f"{event} {path}")

    def run(self, sandbox: Path, case: Callable[[], object]) -> Finding | None:
        """Run one case whose files are in `sandbox`/case."""
        before = _everything(sandbox / "outside")
        out, err = io.StringIO(), io.StringIO()
        self._seen.clear()
        self._folder = os.path.realpath(sandbox / "case")
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _limits():
                case()
            found = None
        except (TitanSpeechError, SystemExit) as error:
            if isinstance(error, TitanSpeechError) and error.__cause__ is None and "MemoryError" in str(error):
                found = Finding("memory", str(error))
            else:
                found = None
        except SlowCaseError:
            found = Finding(f"slow at {_place()}", traceback.format_exc())
        except BaseException as error:
            found = Finding(f"{type(error).__name__} at {_place()}", traceback.format_exc()[-4000:])
        finally:
            self._folder = ""
        if self._seen:
            return Finding(f"forbidden: {self._seen[0]:.120}", "\n".join(self._seen[:20]))
        if _everything(sandbox / "outside") != before:
            return Finding("files outside changed", repr(sorted(_everything(sandbox / "outside"))))
        printed = out.getvalue() + err.getvalue()
        if found is None and has_controls(printed.replace("\n", "").replace("\t", "")):
            stream = "stdout" if has_controls(out.getvalue().replace("\n", "").replace("\t", "")) else "stderr"
            return Finding(f"control characters on {stream}", repr(printed[-3000:]))
        return found


def limit_memory() -> None:
    """From here on, this process may take `MEMORY_BOUND_BYTES` of address space more."""
    status = Path("/proc/self/status").read_text()
    now = next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmSize"))
    bound = now + MEMORY_BOUND_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))


@contextlib.contextmanager
def _limits() -> Iterator[None]:
    signal.setitimer(signal.ITIMER_PROF, CASE_SEC)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _too_slow(*_: object) -> None:
    raise SlowCaseError


def _place() -> str:
    """The deepest line of the package in the traceback: faults of one line are one finding."""
    frames = traceback.extract_tb(sys.exc_info()[2])
    own = [frame for frame in frames if "titan_speech/" in frame.filename]
    last = own[-1] if own else frames[-1]
    return f"{last.filename.rpartition('titan_speech/')[2]}:{last.lineno}"


def _everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
