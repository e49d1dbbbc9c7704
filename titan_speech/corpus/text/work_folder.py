"""OUTPUT.work: where a preparation lies until it is whole.

In: the output and what the job is. Out: a folder that one process holds, new or of the same job begun before. What is
left of another job is refused as soon as it holds a finished unit; a folder without any is not worth keeping, so input
that is refused at once leaves nothing.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from titan_speech.errors import DataError
from titan_speech.progress import say_to_stderr


class WorkFolder:
    """Context manager; gone at the end unless a finished unit is worth continuing from."""

    def __init__(self, output: Path, content: Mapping[str, object]) -> None:
        self.output, self.path = output, output.with_name(f"{output.name}.work")
        self._content = json.loads(json.dumps(content))

    def __enter__(self) -> WorkFolder:
        if self.output.exists():
            raise DataError(f"{self.output} exists already; choose another --output or delete it")
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.path / "lock", os.O_CREAT | os.O_RDWR, 0o644)
        try:
            self._take()
        except DataError:
            os.close(self._lock)
            raise
        return self

    def _take(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError(f"another process prepares {self.output} ({error}); wait for it or stop it") from error
        file = self.path / "job.json"
        before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        differing = [name for name in self._content if before.get(name) != self._content[name]]
        if differing and self._has_finished_units():
            raise DataError(
                f"{self.path} holds an unfinished preparation with other {', '.join(differing)}; repeat it as it was "
                "begun, or delete that folder"
            )
        for left in self.path.glob("*.tmp-*"):
            left.unlink()
        file.write_text(json.dumps(self._content, ensure_ascii=False), encoding="utf-8")

    def _has_finished_units(self) -> bool:
        return any(path.name != "job.json" and ".tmp-" not in path.name for path in self.path.glob("*.json"))

    def publish(self, folder: Path) -> None:
        """Moves a folder of this one to the output; all else goes."""
        try:
            os.rename(folder, self.output)
        except OSError as error:
            raise DataError(f"{self.output} appeared meanwhile ({error}); it was left as it is") from error
        shutil.rmtree(self.path)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._has_finished_units():
            shutil.rmtree(self.path, ignore_errors=True)
        elif error is not None:
            say_to_stderr(f"{self.path} keeps the units that are done; the same command goes on with the others")
        os.close(self._lock)
