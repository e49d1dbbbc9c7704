"""All checks in order, within the time there is; what cannot be checked is named with its reason.

In: the words of a configuration. Out: a `DoctorOutcome` per check, as soon as it is known. A check whose input failed
is skipped. The checks that train share what the others leave of the time: the overfit gets half of it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from titan_speech.config.budget import Budget, smallest_world_size
from titan_speech.config.schema import SpeechConfig
from titan_speech.doctor.outcome import DoctorOutcome, Verdict
from titan_speech.errors import TitanSpeechError
from titan_speech.utils.text_table import counted

if TYPE_CHECKING:
    from titan_speech.doctor.small_run import SmallRun

OVERFIT_SHARE, RESUME_SHARE = 0.55, 0.45
"""Of the time that is left when they begin."""
MIN_SEC = 40.0
"""A process that trains takes half of it to start."""


@dataclass(frozen=True)
class Request:
    """What is examined."""

    words: Sequence[str]
    """Of the configuration, as `load_config` takes them."""
    name: str
    world_size: int | None
    """GPUs of the run; None: those of this machine, or the fewest that fit the layout."""
    num_gpus: int
    """Of this machine."""
    gpu: str
    """Device of the estimate."""
    within_sec: float
    skip: frozenset[str] = frozenset()


CHECKS = ("configuration", "stores", "audit", "estimate", "overfit", "save and resume", "generation", "throughput")


def examine(request: Request) -> Iterator[DoctorOutcome]:
    """Check after check."""
    with tempfile.TemporaryDirectory(prefix="titan-speech-doctor-") as folder:
        yield from _Examination(request, time.monotonic() + request.within_sec, Path(folder)).outcomes()


@dataclass
class _Examination:
    """The checks of one request, with what later ones need of earlier ones."""

    request: Request
    deadline_sec: float
    """Monotonic."""
    folder: Path
    config: SpeechConfig | None = None
    predicted: float | None = None
    """Tokens per second and GPU."""
    small: SmallRun | None = None

    @property
    def left_sec(self) -> float:
        return self.deadline_sec - time.monotonic()

    def outcomes(self) -> Iterator[DoctorOutcome]:
        yield _timed("configuration", self._configuration)
        config = self.config
        if config is None:
            yield from _skipped(CHECKS[1:], "the configuration comes first")
            return
        from titan_speech.doctor import checks, small_run

        stores = self._ask("stores", lambda: checks.stores(config))
        yield stores
        if stores.verdict is Verdict.FAIL:
            yield from _skipped(CHECKS[2:], "the stores come first")
            return
        yield self._ask("audit", lambda: checks.audit(config))
        yield self._ask("estimate", lambda: self._estimate(config))
        yield self._ask("overfit", lambda: self._overfit(config))
        small = self.small
        if small is not None and small_run.has_checkpoint(small):
            yield self._ask("save and resume", lambda: small_run.resume(small, RESUME_SHARE * self.left_sec))
            yield self._ask("generation", lambda: small_run.generate(small))
        else:
            yield from _skipped(("save and resume", "generation"), "the overfit has no checkpoint")
        yield self._ask("throughput", lambda: self._throughput(config))

    def _ask(self, name: str, check: Callable[[], DoctorOutcome]) -> DoctorOutcome:
        """A check, unless it is not wanted or there is no time for it."""
        if name in self.request.skip:
            return DoctorOutcome(name, Verdict.SKIPPED, "", "as asked")
        if self.left_sec < MIN_SEC:
            return DoctorOutcome(name, Verdict.SKIPPED, "", "no time left; give more --minutes")
        return _timed(name, check)

    def _configuration(self) -> DoctorOutcome:
        from titan_speech.preflight.config_checks import load_config
        from titan_speech.preflight.machine_checks import check_folders_exist

        request = self.request
        config = load_config(request.words, world_size=request.world_size, checks=(check_folders_exist,)).config
        self.config, budget = config, Budget.from_config(config)
        model = f"{config.model.family} {config.model.flavor}"
        text = f"{counted(budget.num_steps, 'step')} of {budget.tokens_per_step:,} tokens, {model}"
        return DoctorOutcome("configuration", Verdict.PASS, text)

    def _estimate(self, config: SpeechConfig) -> DoctorOutcome:
        from titan_speech.doctor.checks import estimate

        request = self.request
        world_size = request.world_size or max(request.num_gpus, smallest_world_size(config.parallelism))
        found, self.predicted = estimate(config, request.name, world_size, request.gpu)
        return found

    def _overfit(self, config: SpeechConfig) -> DoctorOutcome:
        from titan_speech.doctor.small_run import overfit, prepare

        self.small = prepare(config, self.folder)
        return overfit(self.small, OVERFIT_SHARE * self.left_sec)

    def _throughput(self, config: SpeechConfig) -> DoctorOutcome:
        from titan_speech.doctor.throughput import throughput, why_not

        num_gpus = self.request.num_gpus
        reason = why_not(config, num_gpus)
        least, num_processes = smallest_world_size(config.parallelism), max(num_gpus, 1)
        if not reason and num_processes % least:
            reason = f"the layout needs a multiple of {least} ranks, this machine has {num_processes}"
        if reason:
            return DoctorOutcome("throughput", Verdict.SKIPPED, "", reason)
        known = self.predicted if num_gpus else None
        folder = self.folder / "ten-steps"
        return throughput(self.request.words, config, num_processes, folder, known, self.left_sec - 10)


def _skipped(names: Sequence[str], reason: str) -> Iterator[DoctorOutcome]:
    yield from (DoctorOutcome(name, Verdict.SKIPPED, "", reason) for name in names)


def _timed(name: str, check: Callable[[], DoctorOutcome]) -> DoctorOutcome:
    began = time.monotonic()
    try:
        found = check()
    except TitanSpeechError as error:
        first, _, rest = str(error).partition("\n")
        found = DoctorOutcome(name, Verdict.FAIL, first[:120], str(error) if rest or len(first) > 120 else first)
    return replace(found, sec=time.monotonic() - began)
