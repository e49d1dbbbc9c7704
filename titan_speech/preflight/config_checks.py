"""When checkpoints are saved, before a run begins.

In: the configuration. Out: findings for a cadence whose rules do not follow each other up to the end of the run.

Whether the degrees of parallelism come out at a number of processes, and the nearest that do.

In: the [parallelism] table, processes. Out: at most one finding, which blames a degree that somebody raised and names
processes or a degree that fit.

Ranges and contradictions, found before anything is started.

In: a converted configuration and what is known of it (`Context`). Out: problems. Each check yields `Finding`s
that name the keys they read; a finding whose keys include one that already has a problem is left out, so that
a misspelt key is told once and not again through what its default contradicts.

Rooms that know more (the model's flavors, what a store holds) hand in their own `Check`s and yield the same
`Finding`s.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TypeAlias

from titan_speech.config.budget import ranks_of_one_replica
from titan_speech.config.fields import check_bounds
from titan_speech.config.load import Context, LoadedConfig, read_config
from titan_speech.config.problem import DEFAULT, Finding, Problem, nearest_name
from titan_speech.config.schema import SpeechConfig
from titan_speech.config.schema_parallelism import ParallelismConfig
from titan_speech.config.schema_training import INITIAL_FLAVOR
from titan_speech.config.stores import check_stores
from titan_speech.model.backbones import FLAVORS
from titan_speech.preflight.compatibility import check_support
from titan_speech.preflight.data_checks import check_data, check_storage
from titan_speech.preflight.parallel_degrees import check_sizes


def check_cadence(config: SpeechConfig) -> Iterator[Finding]:
    """Rules follow each other; the last one covers all that is left."""
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


_DEGREES = (
    "parallelism.data_parallel_replicate_degree",
    "parallelism.data_parallel_shard_degree",
    "parallelism.tensor_parallel_degree",
    "parallelism.context_parallel_degree",
    "parallelism.pipeline_parallel_degree",
)


def check_world_size(parallelism: ParallelismConfig, world_size: int) -> Iterator[Finding]:
    """The degrees must multiply to the world size; with a shard degree of -1 the others must divide it."""
    replicate, shard = parallelism.data_parallel_replicate_degree, parallelism.data_parallel_shard_degree
    others = replicate * ranks_of_one_replica(parallelism)
    if min(others, abs(shard)) < 1:
        return  # a range problem already
    keys = tuple(sorted(_DEGREES, key=lambda key: abs(getattr(parallelism, key.partition(".")[2])) == 1))
    if shard == -1 and world_size % others:
        found = f"a product of replicate, tensor, context and pipeline degrees of {others}"
        yield Finding(keys, found, f"a divisor of the world size {world_size}", _nearest_worlds(others, world_size))
    elif shard > 0 and others * shard != world_size:
        found, expected = f"a product of all degrees of {others * shard}", f"the world size {world_size}"
        yield Finding(keys, found, expected, _nearest_degree(parallelism, world_size))


def _nearest_worlds(others: int, world_size: int) -> str:
    below = world_size // others * others
    sizes = [str(size) for size in (below, below + others) if size]
    return f"a world size of {' or '.join(sizes)}"


def _nearest_degree(parallelism: ParallelismConfig, world_size: int) -> str | None:
    """More replicas where there are some, else all ranks that are left."""
    replicate, shard = parallelism.data_parallel_replicate_degree, parallelism.data_parallel_shard_degree
    inner = ranks_of_one_replica(parallelism)
    if replicate > 1 and world_size % (inner * shard) == 0:
        return f"{_DEGREES[0]} = {world_size // (inner * shard)}"
    return f"{_DEGREES[1]} = -1" if world_size % (inner * replicate) == 0 else None


Check: TypeAlias = Callable[[SpeechConfig], Iterable[Finding]]


def load_config(argv: Sequence[str], *, world_size: int | None = None, checks: Sequence[Check] = ()) -> LoadedConfig:
    """Read, merge, override, convert and check a configuration.

    Args:
        argv: words of a command line, with `--job.config_file FILE` among them.
        world_size: number of processes, where it is known; the parallel degrees are then checked against it.
        checks: further checks, of packages that know more.

    Raises:
        ConfigError: with every problem, each with its file and line.
    """
    return read_config(argv, lambda config, context: check(config, context, checks), world_size)


def check(config: SpeechConfig, context: Context, more: Sequence[Check] = ()) -> list[Problem]:
    """Every problem that the built-in and the given checks find."""
    found = [finding for one in (*_CHECKS, *more) for finding in one(config)]
    if context.world_size is not None:
        found += check_world_size(config.parallelism, context.world_size)
    return [_located(finding, context) for finding in found if not _is_follow_up(finding, context.suspects)]


def _is_follow_up(finding: Finding, suspects: Collection[str]) -> bool:
    def related(key: str, suspect: str) -> bool:
        return f"{key}.".startswith(f"{suspect}.") or f"{suspect}.".startswith(f"{key}.")

    return any(related(key, suspect) for key in finding.keys for suspect in suspects)


def _located(finding: Finding, context: Context) -> Problem:
    """Placed at the first of its keys that somebody wrote."""
    origins = [context.origins.get(key, DEFAULT) for key in finding.keys]
    origin = next((origin for origin in origins if not origin.is_default), context.file)
    found = f"{finding.found} (the default)" if origins[0].is_default else finding.found
    return Problem(origin, finding.keys[0], found, finding.expected, finding.nearest)


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


def check_flavor(config: SpeechConfig) -> Iterator[Finding]:
    family, flavor = config.model.family, config.model.flavor
    known = (*FLAVORS[family], INITIAL_FLAVOR)
    if flavor not in known:
        expected = f"one of {', '.join(known)} for {family}"
        yield Finding(("model.flavor", "model.family"), f'"{flavor}"', expected, nearest_name(flavor, known))
    if flavor == INITIAL_FLAVOR and not config.model.initial:
        keys = ("model.flavor", "model.initial")
        yield Finding(keys, f'"{INITIAL_FLAVOR}" without model.initial', "model.initial, the folder to take sizes from")
    if config.model.initial and config.checkpoint.initial_load_path:
        keys = ("model.initial", "checkpoint.initial_load_path")
        yield Finding(keys, "two places to start from", "one of the two keys")
    yield from _check_stage(config)
    if config.model.initial and not config.checkpoint.enable:
        keys = ("checkpoint.enable", "model.initial")
        yield Finding(keys, "false with model.initial", "true: weights are loaded by what saves them", "true")


def _check_stage(config: SpeechConfig) -> Iterator[Finding]:
    stage = config.stage
    if stage.from_ and config.checkpoint.initial_load_path:
        keys = ("stage.from", "checkpoint.initial_load_path")
        yield Finding(keys, "two places to start from", "one of the two keys")
    if stage.from_ and not config.checkpoint.enable:
        keys = ("checkpoint.enable", "stage.from")
        yield Finding(keys, "false with stage.from", "true: weights are loaded by what saves them", "true")
    if stage.optimizer and not stage.from_:
        yield Finding(("stage.optimizer", "stage.from"), "true without stage.from", "stage.from, whose optimizer it is")


def check_health(config: SpeechConfig) -> Iterator[Finding]:
    if config.health.on_spike == "rollback" and not config.checkpoint.enable:
        keys = ("health.on_spike", "checkpoint.enable")
        yield Finding(keys, '"rollback" without checkpoints', "checkpoint.enable = true, or warn", '"warn"')


def check_profiler(config: SpeechConfig) -> Iterator[Finding]:
    """The second window warms up for a step, which the first must leave free, and ends before the run."""
    table = config.profiler
    if table.steady_steps > 0 and table.steady_from <= table.first_steps:
        keys = ("profiler.steady_from", "profiler.first_steps")
        yield Finding(keys, str(table.steady_from), f"more than profiler.first_steps = {table.first_steps}")
    steps = -(-config.training.target_tokens // max(config.training.global_batch_tokens, 1))
    if table.enable and table.steady_steps > 0 and table.steady_from + table.steady_steps > steps:
        keys = ("profiler.steady_from", "profiler.steady_steps", "training.target_tokens")
        room = (
            f"at most {steps - table.steady_steps}, so that its {table.steady_steps} steps lie within the run's {steps}"
        )
        yield Finding(keys, str(table.steady_from), f"{room}; or profiler.steady_steps = 0 for no second trace")


_CHECKS: tuple[Check, ...] = (
    check_bounds,
    check_batch,
    check_schedule,
    check_sizes,
    check_cadence,
    check_health,
    check_profiler,
    check_flavor,
    check_support,
    check_data,
    check_storage,
    check_stores,
)
