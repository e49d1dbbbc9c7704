"""Speech from an exported model folder, decoded by vLLM in a process of its own.

In: utterances, a folder written by `titan-speech model export`, and the interpreter of an environment that has vLLM.
Out: codes of each utterance, as from synthesize.py: the same prompts, only codes and the stop token, random numbers of
each utterance's own, though not those of transformers. It pays where prompts are many: on a busy CPU, vLLM
took 47 s to load a model of 10 M parameters and then gave 521 codes per second of eight prompts.

Finished utterances are lines of a journal. What an earlier start has finished is read from it and not decoded again.
"""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from titan_speech.errors import ModelError, VocabularyError
from titan_speech.generate import vllm_process
from titan_speech.generate.sampling import Decoding, Generated
from titan_speech.generate.synthesize import SpeechPrompts, Utterance, mixed_seed
from titan_speech.hf.model_folder import HFFolder
from titan_speech.utils.json_text import parse_json, read_small_file
from titan_speech.utils.printable import one_line

logger = logging.getLogger(__name__)

STALL_SEC = 1800.0
"""Without a finished utterance, loading included."""
_POLL_SEC = 0.5
_HAS_VLLM = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"


@dataclass(frozen=True)
class VLLMSpeech:
    """A model folder that vLLM runs."""

    prompts: SpeechPrompts
    folder: Path
    python: Path | None = None
    """Interpreter that has vLLM; None: this one."""

    @classmethod
    def read(cls, folder: Path, python: Path | None = None) -> VLLMSpeech:
        """Read what prompts are made of; the weights are read by vLLM's process.

        Raises:
            ModelError: as `SpeechPrompts.read`.
        """
        return cls(SpeechPrompts.read(folder), folder, python)

    def synthesize(
        self,
        utterances: Sequence[Utterance],
        decoding: Decoding,
        journal: Path,
        report: Callable[[int], None] = lambda count: None,
    ) -> tuple[list[Generated], int, float]:
        """Decode the codes of each utterance.

        Args:
            utterances: what is synthesized.
            decoding: sampling parameters; its seed is added to that of each utterance.
            journal: file of finished utterances, of these and no others; is made, and continued.
            report: called with how many more utterances are finished.

        Returns:
            What was generated; how many codes this start generated, and in how many seconds without loading.

        Raises:
            ModelError: a text is empty, or vLLM cannot be started, fails, stalls or generates other tokens.
        """
        prefixes = [self.prompts.prefix(utterance) for utterance in utterances]
        found = self._finished(journal, len(utterances))
        report(len(found))
        missing = [number for number in range(len(utterances)) if number not in found]
        if missing:
            asked = [
                {
                    "number": number,
                    "ids": prefixes[number].tolist(),
                    "seed": mixed_seed(decoding.seed, utterances[number].seed),
                }
                for number in missing
            ]
            self._run(self._request(asked, decoding), journal, report)
            found = self._finished(journal, len(utterances))
            if unfinished := [number for number in missing if number not in found]:
                raise ModelError(f"vLLM ended without {len(unfinished)} of {len(missing)} utterances")
        new = [found[number] for number in missing]
        return (
            [found[number][0] for number in range(len(utterances))],
            sum(len(one.codes_F) for one, _ in new),
            max((sec for _, sec in new), default=0.0),
        )

    def _request(self, asked: list[dict[str, Any]], decoding: Decoding) -> dict[str, Any]:
        vocabulary = self.prompts.grammar.vocabulary
        return {
            "model": str(self.folder.absolute()),
            "dtype": str(HFFolder.open(self.folder).dtype).removeprefix("torch."),
            "prompts": asked,
            "sampling": {
                "temperature": decoding.temperature,
                "top_k": decoding.top_k,
                "min_codes": decoding.min_codes,
                "max_codes": decoding.max_codes,
                "code_ids": [vocabulary.first_code_id, vocabulary.first_special_id],
                "stop_id": self.prompts.stop_id,
            },
        }

    def _run(self, request: dict[str, Any], journal: Path, report: Callable[[int], None]) -> None:
        """Run the process to its end."""
        journal.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="titan-speech-") as temporary:
            asked, log = Path(temporary, "request.json"), Path(temporary, "log.txt")
            asked.write_text(json.dumps(request), encoding="utf-8")
            # A copy: Python puts the folder of a script first, and the names of this package hide those of its library.
            script = shutil.copy(vllm_process.__file__, temporary)
            command = [str(self.python or sys.executable), script, str(asked), str(journal.absolute())]
            with log.open("wb") as file:
                try:
                    process = subprocess.Popen(  # noqa: S603  (an interpreter that the user named, and a file of ours)
                        command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=temporary
                    )
                except OSError as error:
                    raise _not_started(command[0], error) from error
            try:
                self._wait(process, journal, report)
            finally:
                process.kill()
                process.wait()
            if process.returncode != 0:
                lines = log.read_text(errors="replace").splitlines()
                last = next((line for line in reversed(lines) if line.strip()), "it printed nothing")
                raise ModelError(
                    f"vLLM failed on {self.folder} (exit code {process.returncode}): {one_line(last)}. What is "
                    "finished is kept for the next start"
                )

    def _wait(self, process: subprocess.Popen[bytes], journal: Path, report: Callable[[int], None]) -> None:
        num_lines, changed = _num_lines(journal), time.monotonic()
        while process.poll() is None:
            time.sleep(_POLL_SEC)
            now = _num_lines(journal)
            if now > num_lines:
                report(now - num_lines)
                num_lines, changed = now, time.monotonic()
            elif time.monotonic() - changed > STALL_SEC:
                raise ModelError(f"vLLM finished no utterance within {STALL_SEC:g} s; was stopped")

    def _finished(self, journal: Path, count: int) -> dict[int, tuple[Generated, float]]:
        """Utterances of the journal by number, with the seconds that they were finished after; a line that is cut, or
        was not written by this process, is left out."""
        if not journal.is_file():
            return {}
        found: dict[int, tuple[Generated, float]] = {}
        for line in read_small_file(journal, 1 << 30).decode(errors="replace").splitlines():
            try:
                row = parse_json(line)
                number, sec = int(row["number"]), float(row["sec"])
                ids = np.array(row["ids"], np.int64)
                if 0 <= number < count and ids.ndim == 1:
                    found[number] = self.prompts.generated(ids), sec
            except (ValueError, KeyError, TypeError, OverflowError, VocabularyError):
                continue
        return found


def _not_started(python: str, error: Exception) -> ModelError:
    return ModelError(f"{python} cannot be started: {error}; --python names the interpreter")


def _num_lines(journal: Path) -> int:
    return sum(1 for line in journal.read_bytes().splitlines() if line) if journal.is_file() else 0


def require_vllm(python: Path | None) -> None:
    """Raise a ModelError where an interpreter cannot be started or has no vLLM."""
    command = [str(python or sys.executable), "-c", _HAS_VLLM]
    try:
        done = subprocess.run(command, capture_output=True, timeout=60)  # noqa: S603  (an interpreter that the user named)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _not_started(command[0], error) from error
    if done.returncode != 0:
        raise ModelError(
            f"{command[0]} has no vLLM; install it there, or name the interpreter of another environment by --python"
        )
