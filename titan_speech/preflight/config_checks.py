"""Checks of a configuration, and `load_config`, which every command loads its configuration with.

In: a converted configuration and what is known of it (`CheckContext`). Out: problems. Each check yields `Finding`s that
name the keys they read; a finding whose keys include one that already has a problem is left out, so that a misspelt key
is reported once and not again through what its default contradicts. A caller that knows more (the folders of this
machine) passes further checks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TypeAlias

from titan_speech.config.fields import check_bounds
from titan_speech.config.load import CheckContext, LoadedConfig, read_config
from titan_speech.config.problem import DEFAULT, ConfigProblem, Finding, nearest_name
from titan_speech.config.schema import SpeechConfig
from titan_speech.config.schema_training import INITIAL_FLAVOR
from titan_speech.config.store_names import check_store_names
from titan_speech.model.backbones import FLAVORS
from titan_speech.preflight.compatibility import check_compatibility
from titan_speech.preflight.data_checks import check_data, check_storage
from titan_speech.preflight.lora_checks import check_lora
from titan_speech.preflight.parallel_degrees import check_divisibility, check_world_size
from titan_speech.preflight.preference_checks import check_preference

Check: TypeAlias = Callable[[SpeechConfig], Iterable[Finding]]


def load_config(argv: Sequence[str], *, world_size: int | None = None, checks: Sequence[Check] = ()) -> LoadedConfig:
    """Read, merge, override, convert and check a configuration.

    Args:
        argv: words of a command line, with `--job.config_file FILE` among them.
        world_size: number of processes, where it is known; the parallel degrees are then checked against it.
        checks: further checks, such as that of the folders on this machine.

    Raises:
        ConfigError: with every problem, each with its file and line.
    """
    return read_config(argv, lambda config, context: check(config, context, checks), world_size)


def check(config: SpeechConfig, context: CheckContext, more: Sequence[Check] = ()) -> list[ConfigProblem]:
    """Every problem that the built-in checks and `more` find."""
    found = [finding for one in (*_CHECKS, *more) for finding in one(config)]
    if context.world_size is not None:
        found += check_world_size(config.parallelism, context.world_size)
    return [_to_problem(finding, context) for finding in found if not _follows_from(finding, context.suspects)]


def _follows_from(finding: Finding, suspects: Collection[str]) -> bool:
    """Whether one of the finding's keys has a problem already, which may be the only reason for it."""

    def related(key: str, suspect: str) -> bool:
        return f"{key}.".startswith(f"{suspect}.") or f"{suspect}.".startswith(f"{key}.")

    return any(related(key, suspect) for key in finding.keys for suspect in suspects)


def _to_problem(finding: Finding, context: CheckContext) -> ConfigProblem:
    """The finding at the place of the first of its keys that was written somewhere."""
    origins = [context.origins.get(key, DEFAULT) for key in finding.keys]
    origin = next((origin for origin in origins if not origin.is_default), context.file)
    found = f"{finding.found} (the default)" if origins[0].is_default else finding.found
    return ConfigProblem(origin, finding.keys[0], found, finding.expected, finding.nearest)


def check_batch(config: SpeechConfig) -> Iterator[Finding]:
    tokens, length = config.training.global_batch_tokens, config.training.seq_len
    if length >= 1 and tokens >= 1 and tokens % length:
        near = max(1, round(tokens / length)) * length
        keys = ("training.global_batch_tokens", "training.seq_len")
        yield Finding(keys, str(tokens), f"a multiple of training.seq_len = {length}, such as {near}")


def check_schedule(config: SpeechConfig) -> Iterator[Finding]:
    schedule, lr = config.lr_scheduler, config.optimizer.lr
    if schedule.decay != "constant" and schedule.end_lr > lr:
        keys = ("lr_scheduler.end_lr", "optimizer.lr")
        yield Finding(keys, f"{schedule.end_lr:g}", f"at most optimizer.lr = {lr:g}")
    if schedule.decay == "constant" and schedule.decay_ratio != 1:
        keys = ("lr_scheduler.decay_ratio", "lr_scheduler.decay")
        found = f'{schedule.decay_ratio:g} with decay = "constant"'
        yield Finding(keys, found, "cosine, linear or sqrt: a constant rate has no decay", 'decay = "linear"')


def check_cadence(config: SpeechConfig) -> Iterator[Finding]:
    """Rules are in the order of their steps; only the last one has no `until`."""
    rules = config.checkpoint.cadence
    if not rules:
        yield Finding(("checkpoint.cadence",), "no rule", "at least one, such as [{every = 1_000}]")
    before = 0
    for index, rule in enumerate(rules):
        key, is_last = f"checkpoint.cadence.{index}", index == len(rules) - 1
        if is_last != (rule.until is None):
            found = "no until" if rule.until is None else f"until = {rule.until} in the last rule"
            yield Finding((f"{key}.until",), found, "until in every rule but the last")
        elif rule.until is not None and rule.until <= before:
            yield Finding((f"{key}.until",), str(rule.until), f"more than the rule before it, {before}")
        before = rule.until or before


def check_flavor(config: SpeechConfig) -> Iterator[Finding]:
    family, flavor = config.model.family, config.model.flavor
    known = (*FLAVORS[family], INITIAL_FLAVOR)
    if flavor not in known:
        expected = f"one of {', '.join(known)} for {family}"
        yield Finding(("model.flavor", "model.family"), f'"{flavor}"', expected, nearest_name(flavor, known))
    if flavor == INITIAL_FLAVOR and not config.model.initial:
        keys = ("model.flavor", "model.initial")
        yield Finding(keys, f'"{INITIAL_FLAVOR}" without model.initial', "model.initial, the folder that has the sizes")


def check_initial_weights(config: SpeechConfig) -> Iterator[Finding]:
    """model.initial and stage.from may both be set (the stage's weights are loaded), initial_load_path stands alone."""
    stage = config.stage
    for key, path in (("model.initial", config.model.initial), ("stage.from", stage.from_)):
        if path and config.checkpoint.initial_load_path:
            keys = (key, "checkpoint.initial_load_path")
            yield Finding(keys, "two sources of initial weights", "one of the two keys")
        if path and not config.checkpoint.enable:
            expected = "true: the checkpointer also loads these weights"
            yield Finding(("checkpoint.enable", key), f"false with {key}", expected, "true")
    if stage.optimizer and not stage.from_:
        expected = "stage.from, the stage whose optimizer state is loaded"
        yield Finding(("stage.optimizer", "stage.from"), "true without stage.from", expected)
    if stage.branch:
        yield from _check_branch(config)


def _check_branch(config: SpeechConfig) -> Iterator[Finding]:
    """A branch takes everything from the run it continues."""
    if not config.stage.from_:
        expected = "stage.from, a checkpoint of the stable run (.../step-N)"
        yield Finding(("stage.branch", "stage.from"), "true without stage.from", expected)
    if not config.stage.continue_data:
        expected = "true: a branch continues the data order; another mix is a data.phase of its own"
        yield Finding(("stage.continue_data", "stage.branch"), "false with stage.branch", expected, "true")
    if config.data.continue_from:
        expected = "no data.continue_from: a branch continues the data of stage.from"
        yield Finding(("data.continue_from", "stage.branch"), f'"{config.data.continue_from}"', expected)


def check_health(config: SpeechConfig) -> Iterator[Finding]:
    if config.health.on_spike == "rollback" and not config.checkpoint.enable:
        keys = ("health.on_spike", "checkpoint.enable")
        yield Finding(keys, '"rollback" without checkpoints', "checkpoint.enable = true, or warn", '"warn"')
    if config.health.max_breaches and not config.checkpoint.enable:
        keys = ("health.max_breaches", "checkpoint.enable")
        yield Finding(keys, f"{config.health.max_breaches} without checkpoints", "checkpoint.enable = true, or 0", "0")


def check_profiler(config: SpeechConfig) -> Iterator[Finding]:
    """The second trace begins after a warmup step behind the first one, and ends before the run."""
    profiler = config.profiler
    if profiler.steady_steps > 0 and profiler.steady_from <= profiler.first_steps:
        keys = ("profiler.steady_from", "profiler.first_steps")
        yield Finding(keys, str(profiler.steady_from), f"more than profiler.first_steps = {profiler.first_steps}")
    steps = -(-config.training.target_tokens // max(config.training.global_batch_tokens, 1))
    if profiler.enable and profiler.steady_steps > 0 and profiler.steady_from + profiler.steady_steps > steps:
        keys = ("profiler.steady_from", "profiler.steady_steps", "training.target_tokens")
        latest = f"at most {steps - profiler.steady_steps}, so that its {profiler.steady_steps} steps"
        expected = f"{latest} are within the run's {steps}; or profiler.steady_steps = 0 for no second trace"
        yield Finding(keys, str(profiler.steady_from), expected)


def check_metrics(config: SpeechConfig) -> Iterator[Finding]:
    address = config.metrics.prometheus
    host, _, port = address.rpartition(":")
    if address and not (host and port.isascii() and port.isdecimal() and 0 < int(port) <= 65_535):
        yield Finding(("metrics.prometheus",), f'"{address}"', "host:port, or empty", '"127.0.0.1:9464"')


def check_generation(config: SpeechConfig) -> Iterator[Finding]:
    """Voices are heard in sound. No rank of a context-parallel group has a whole prompt, none of a pipeline the whole
    model."""
    every, wanted = config.generation_check.every_steps, config.generation_check
    if wanted.voice and not wanted.codec:
        keys = ("generation_check.voice", "generation_check.codec")
        found = f'"{wanted.voice}" without generation_check.codec: voices are compared in the sound of samples'
        yield Finding(keys, found, "the codec of the stores in generation_check.codec, or no voice")
    bound = next((name for name in ("stop", "stop_below") if getattr(wanted, name)), None)
    if every and bound and not config.data.held_out:
        keys = (f"generation_check.{bound}", "data.held_out")
        found = "a bound without data.held_out, whose prompts are checked: nothing would ever stop the run"
        yield Finding(keys, found, "a held-out set (titan-speech store held-out) in data.held_out, or no bound")
    if not every or not config.data.held_out:
        return
    for name in ("context_parallel_degree", "pipeline_parallel_degree"):
        degree = getattr(config.parallelism, name)
        if degree > 1:
            keys = ("generation_check.every_steps", f"parallelism.{name}")
            found = f"{every} with parallelism.{name} = {degree}, where no rank can generate alone"
            expected = (
                "0, and titan-speech evaluate run RUN --watch, which generates at every checkpoint while the run trains"
            )
            yield Finding(keys, found, expected, "0")


_CHECKS: tuple[Check, ...] = (
    check_bounds,
    check_batch,
    check_schedule,
    check_divisibility,
    check_cadence,
    check_health,
    check_profiler,
    check_metrics,
    check_generation,
    check_flavor,
    check_initial_weights,
    check_compatibility,
    check_lora,
    check_preference,
    check_data,
    check_storage,
    check_store_names,
)
