"""Files of what the ranks of one machine print.

In: a folder of one launch, and the environments of the ranks that torch's agent starts. Out: where each rank prints.
The first rank of the machine prints to the terminal, also the bar that a file cannot show; the others print into files,
since eight ranks would say everything eight times:

    RUN/logs/20261130-001333/agent.log, rank-1-stderr.log, rank-1-stdout.log; restart-1/rank-1-stderr.log ...

They are named when their rank fails; what stays empty is removed.
"""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs

from titan_speech.utils.logging import LogFile

AGENT_LOG, ERROR_ENDING = "agent.log", "-error.json"


class RankLogs(LogsSpecs):
    """Files of what the ranks of this machine print; its first rank prints to the terminal. A context of one launch."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.folder, self._num_starts = folder, 0
        self._files: dict[int, Path] = {}
        """The file of the stderr of each rank of the current start, except the first rank of the machine."""
        self._error_files: dict[int, Path] = {}

    def __enter__(self) -> RankLogs:
        self._handler = LogFile(self.folder / AGENT_LOG, encoding="utf-8")
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logger = logging.getLogger("torch.distributed.elastic")
        logger.addHandler(self._handler)
        logger.propagate = False
        return self

    def __exit__(self, *_: object) -> None:
        """Remove what says nothing: error files, which were printed, and files and folders that are empty."""
        self._handler.close()
        logging.getLogger("torch.distributed.elastic").removeHandler(self._handler)
        for file in self.folder.rglob("*.*"):
            if file.name.endswith(ERROR_ENDING) or (file.is_file() and not file.stat().st_size):
                file.unlink()
        with suppress(OSError):  # a folder that is not empty stays
            for folder in (*self.folder.glob("restart-*"), self.folder, self.folder.parent, self.folder.parent.parent):
                folder.rmdir()

    def remove(self) -> None:
        """Leave nothing of a run that was refused."""
        for file in self.folder.rglob("*.*"):
            file.unlink()

    @property
    def root_log_dir(self) -> str:
        return str(self.folder)

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """The files of one start; torch's agent calls it, and sets the environment that is changed here."""
        folder = self.folder / f"restart-{self._num_starts}" if self._num_starts else self.folder
        folder.mkdir(parents=True, exist_ok=True)
        self._num_starts += 1
        self._files, self._error_files = {}, {}
        for local_rank, env in envs.items():
            rank = int(env["RANK"])
            self._error_files[rank] = folder / f"rank-{rank}{ERROR_ENDING}"
            env["TORCHELASTIC_ERROR_FILE"] = str(self._error_files[rank])
            if local_rank:
                self._files[rank] = folder / f"rank-{rank}-stderr.log"
        ranks = {local_rank: int(env["RANK"]) for local_rank, env in envs.items()}
        stderrs = {local: str(self._files.get(rank, "")) for local, rank in ranks.items()}
        stdouts = {local: name.replace("stderr", "stdout") for local, name in stderrs.items()}
        errors = {local: str(self._error_files[rank]) for local, rank in ranks.items()}
        return LogsDest(stdouts, stderrs, error_files=errors)

    def last_words(self, rank: int) -> str:
        """What a rank that failed has written of it, and where the rest is."""
        message = ""
        with suppress(OSError, ValueError, LookupError):
            record = json.loads(self._error_files[rank].read_text(encoding="utf-8"))
            message = f": {record['message']['message']}"
        return message + (self._place_of_output(self._files[rank]) if rank in self._files else "")

    @staticmethod
    def _place_of_output(stderr: Path) -> str:
        """Which of the files of a rank holds something; those that are empty will be removed."""
        for file in (stderr, stderr.with_name(stderr.name.replace("stderr", "stdout"))):
            with suppress(OSError):
                if file.stat().st_size:
                    return f"; its output is in {file}"
        return "; it had printed nothing"

    def hang_report(self) -> list[str]:
        """The report of a hang, where a rank that prints into a file wrote it."""
        for file in self._files.values():
            with suppress(OSError):
                lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
                for i, line in enumerate(lines):
                    if line.startswith("titan_speech: the run "):
                        return [line, *takewhile(lambda one: one.startswith("  "), lines[i + 1 :])]
        return []
