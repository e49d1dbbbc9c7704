"""All checks in order, within the time there is; what cannot be checked is named with its reason.

In: the words of a configuration. Out: an `Outcome` per check, each handed on as soon as it is known. A check whose
input failed is skipped. The checks that train share what the others leave of the time: the overfit gets half of it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from titan_speech.config.budget import Budget, smallest_world_size
from titan_speech.config.schema import SpeechConfig
from titan_speech.doctor.outcome import Outcome, Verdict
from titan_speech.errors import TitanSpeechError
from titan_speech.utils.text_table import counted

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


def examine(request: Request) -> Iterator[Outcome]:
    """Check after check."""
    deadline = time.monotonic() + request.within_sec

    def left() -> float:
        return deadline - time.monotonic()

    loaded: list[SpeechConfig] = []
    outcome = _timed("configuration", lambda: _configuration(request, loaded))
    yield outcome
    if not loaded:
        yield from (Outcome(name, Verdict.SKIPPED, "", "the configuration comes first") for name in CHECKS[1:])
        return
    config = loaded[0]

    from titan_speech.doctor import checks

    stores = _ask(request, "stores", left, lambda: checks.stores(config))
    yield stores
    if stores.verdict is Verdict.FAIL:
        yield from (Outcome(name, Verdict.SKIPPED, "", "the stores come first") for name in CHECKS[2:])
        return
    yield _ask(request, "audit", left, lambda: checks.audit(config))
    predicted: list[float | None] = [None]

    def estimate() -> Outcome:
        found, predicted[0] = checks.estimate(config, request.name, _world_size(request, config), request.gpu)
        return found

    yield _ask(request, "estimate", left, estimate)
    with tempfile.TemporaryDirectory(prefix="titan-speech-doctor-") as folder:
        yield from _small_run(request, config, Path(folder), left)
        yield _ask(
            request, "throughput", left, lambda: _throughput(request, config, Path(folder), predicted[0], left())
        )


def _configuration(request: Request, loaded: list[SpeechConfig]) -> Outcome:
    from titan_speech.preflight.config_checks import load_config
    from titan_speech.preflight.machine_checks import check_folders_exist

    config = load_config(request.words, world_size=request.world_size, checks=(check_folders_exist,)).config
    loaded.append(config)
    budget = Budget.from_config(config)
    model = f"{config.model.family} {config.model.flavor}"
    text = f"{counted(budget.num_steps, 'step')} of {budget.tokens_per_step:,} tokens, {model}"
    return Outcome("configuration", Verdict.PASS, text)


def _world_size(request: Request, config: SpeechConfig) -> int:
    return request.world_size or max(request.num_gpus, smallest_world_size(config.parallelism))


def _small_run(request: Request, config: SpeechConfig, folder: Path, left: Callable[[], float]) -> Iterator[Outcome]:
    """Overfit, resume and generate, of which each needs the one before."""
    from titan_speech.doctor import small_run

    prepared: list[small_run.SmallRun] = []

    def overfit() -> Outcome:
        prepared.append(small_run.prepare(config, folder))
        return small_run.overfit(prepared[0], OVERFIT_SHARE * left())

    first = _ask(request, "overfit", left, overfit)
    yield first
    names = ("save and resume", "generation")
    if not (prepared and small_run.has_checkpoint(prepared[0])):
        yield from (Outcome(name, Verdict.SKIPPED, "", "the overfit has no checkpoint") for name in names)
        return
    yield _ask(request, names[0], left, lambda: small_run.resume(prepared[0], RESUME_SHARE * left()))
    yield _ask(request, names[1], left, lambda: small_run.generate(prepared[0]))


def _throughput(
    request: Request, config: SpeechConfig, folder: Path, predicted: float | None, within_sec: float
) -> Outcome:
    from titan_speech.doctor.throughput import throughput, why_not

    reason = why_not(config, request.num_gpus)
    least, num_processes = smallest_world_size(config.parallelism), max(request.num_gpus, 1)
    if not reason and num_processes % least:
        reason = f"the layout needs a multiple of {least} ranks, this machine has {num_processes}"
    if reason:
        return Outcome("throughput", Verdict.SKIPPED, "", reason)
    known = predicted if request.num_gpus else None
    return throughput(request.words, config, num_processes, folder / "ten-steps", known, within_sec - 10)


def _ask(request: Request, name: str, left: Callable[[], float], check: Callable[[], Outcome]) -> Outcome:
    """A check, unless it is not wanted or there is no time for it."""
    if name in request.skip:
        return Outcome(name, Verdict.SKIPPED, "", "as asked")
    if left() < MIN_SEC:
        return Outcome(name, Verdict.SKIPPED, "", "no time left; give more --minutes")
    return _timed(name, check)


def _timed(name: str, check: Callable[[], Outcome]) -> Outcome:
    began = time.monotonic()
    try:
        found = check()
    except TitanSpeechError as error:
        first, _, rest = str(error).partition("\n")
        found = Outcome(name, Verdict.FAIL, first[:120], str(error) if rest or len(first) > 120 else first)
    return replace(found, sec=time.monotonic() - began)
