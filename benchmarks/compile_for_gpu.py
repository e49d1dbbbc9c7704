"""Compile recipes for a GPU that is not here: `python -m benchmarks.compile_for_gpu [RECIPE ...] [--arch sm_90]`.

In: recipes (all of train_configs/ that differ, if none is named), an architecture. Out: a table, and
benchmarks/results/compile_for_gpu.json or --json: of one layer, the head's loss and the optimizer of each recipe, in
bf16 and in float8, all kernels, registers, shared memory and calls that leave the compiler. The exit code is 1 if a
step breaks a rule of deviceless/findings.py. Nothing is executed, so nothing here is a time. A recipe takes half a
minute of one core. It needs gcc and a torch built with CUDA. `--levers` compiles one recipe with each change of
deviceless/levers.py; `--missing` keeps what the file already has.

    python -m benchmarks.compile_for_gpu train_configs/pt_s1_llama3_1b.toml --precision bf16
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.deviceless.child import StepRequest
from benchmarks.deviceless.child_process import run_child
from benchmarks.deviceless.findings import judge, summarize
from benchmarks.deviceless.levers import LEVERS, RECIPE, Lever
from benchmarks.deviceless.results import LEVER_RESULTS, RESULTS, read_steps, terminal_table, write_steps
from benchmarks.machine import ROOT
from benchmarks.suite import tell
from titan_speech.estimate.offline import run_shape, run_vocabulary
from titan_speech.preflight.config_checks import load_config

PRECISIONS = {"bf16": (), "float8": ("--float8.recipe", "rowwise")}
GPUS = 32
"""Of the layouts: a recipe of whole replicas names so many."""
CHILD = "benchmarks.deviceless.child"


@dataclass(frozen=True)
class Case:
    """A recipe in a precision, perhaps changed; `like` are recipes whose step is the same."""

    recipe: str
    precision: str
    like: tuple[str, ...] = ()
    lever: Lever | None = None

    @property
    def name(self) -> str:
        return f"{Path(self.recipe).stem} {self.precision}" + (f": {self.lever.name}" if self.lever else "")

    def request(self, architecture: str, world_size: int, num_layers: int = 1, max_base_rows: int = 0) -> StepRequest:
        """What its process compiles."""
        lever = self.lever or Lever("")
        words = ("--job.config_file", self.recipe, *PRECISIONS[self.precision], *lever.words)
        return StepRequest(words, architecture, world_size, num_layers, max_base_rows, lever.overrides)


def compile_case(request: StepRequest, entry: str = CHILD) -> dict[str, Any]:
    """Compile one step in a process of its own.

    Args:
        request: what is compiled.
        entry: module that does it; a test plants defects with one of its own.

    Returns:
        The record (deviceless/child.py).

    Raises:
        RuntimeError: the process ended without a record.
    """
    return run_child(entry, asdict(request))


def cases_of(recipes: Sequence[str], precisions: Sequence[str], world_size: int) -> list[Case]:
    """The cases to compile; recipes that compile to the same step are one case."""
    by_step: dict[str, list[str]] = {}
    for recipe in recipes:
        by_step.setdefault(_step_of(recipe, world_size), []).append(recipe)
    return [
        Case(first, precision, tuple(Path(one).stem for one in others))
        for first, *others in by_step.values()
        for precision in precisions
        if precision == "bf16" or not Path(first).stem.startswith("lora")  # adapters and what they adapt stay in bf16
    ]


def _step_of(recipe: str, world_size: int) -> str:
    """What decides the kernels of a recipe."""
    config = load_config(["--job.config_file", recipe], world_size=world_size).config
    shape, rows = run_shape(config)[0], run_vocabulary(config).vocabulary.num_rows
    training = config.training
    return repr(
        (
            *(replace(shape, num_layers=1, max_positions=0), rows, training.seq_len, training.local_batch_packs),
            *(
                training.mixed_precision_param,
                config.activation_checkpoint,
                config.loss,
                config.parallelism,
                config.lora,
                config.preference.is_on,
            ),
        )
    )


def all_recipes() -> list[str]:
    """The recipes that are compiled: all of train_configs/ but those of `left_out`."""
    return [path for path, reason in _recipes().items() if not reason]


def left_out() -> dict[str, str]:
    """Recipes that are not compiled, and why."""
    return {path: reason for path, reason in _recipes().items() if reason}


def _recipes() -> dict[str, str]:
    """All recipes, each with the reason to leave it out, empty if there is none."""
    found = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "train_configs").glob("*.toml"))
    configs = {path: load_config(["--job.config_file", path], world_size=GPUS).config for path in found}
    return {
        path: "it is for a CPU: a debug model in fp32, not compiled"
        if one.model.flavor.startswith("debug") and not one.compile.enable
        else ""
        for path, one in configs.items()
    }


def run(cases: Sequence[Case], args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for case in cases:
        tell(f"compiling {case.name} for {args.arch}")
        request = case.request(args.arch, args.gpus, args.layers, args.rows)
        record = compile_case(replace(request, words=(*request.words, *args.set)))
        findings = [str(finding) for finding in judge(record)]
        for finding in findings:
            tell(f"  {finding}")
        yield {
            "name": case.name,
            "like": list(case.like),
            "findings": findings,
            "summary": asdict(summarize(record)),
            **{name: record[name] for name in ("request", "sizes", "counters", "graphs", "kernels", "error")},
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="*", help="configurations (default: all recipes that are compiled and differ)")
    parser.add_argument("--arch", choices=("sm_90", "sm_100"), default="sm_90", help="architecture (default: sm_90)")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=list(PRECISIONS), help="default: both")
    parser.add_argument("--gpus", type=int, default=GPUS, help="world size of the layout (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=1, help="layers of the model (default: 1; all compile alike)")
    parser.add_argument("--rows", type=int, default=0, help="at most so many text rows (default: all of the recipe)")
    parser.add_argument(
        "--set", nargs=argparse.REMAINDER, default=[], help="overrides, as `--key value`; the last option"
    )
    parser.add_argument(
        "--json", type=Path, help=f"file to write (default: {RESULTS.relative_to(ROOT)} for all recipes)"
    )
    parser.add_argument("--levers", action="store_true", help=f"{RECIPE} with each change, in place of recipes")
    parser.add_argument("--missing", action="store_true", help="keep the steps of the JSON and compile the others")
    args = parser.parse_args()
    if args.levers:
        cases = [Case(RECIPE, "bf16", lever=lever) for lever in LEVERS]
    else:
        cases = cases_of(args.recipe or all_recipes(), args.precision, args.gpus)
    out = args.json or (LEVER_RESULTS if args.levers else None if args.recipe else RESULTS)
    results = _results(cases, args, out)
    if results is None:
        return 2
    print("\n".join(terminal_table(results)))
    return 1 if any(result["findings"] for result in results) else 0


def _results(cases: Sequence[Case], args: argparse.Namespace, out: Path | None) -> list[dict[str, Any]] | None:
    """Steps of all cases, in their order, written after each; None if a process ended without a record."""
    order = [case.name for case in cases]
    known = {step["name"]: step for step in (read_steps(out) if args.missing and out else [])}
    try:
        for result in run([case for case in cases if case.name not in known], args):
            known[result["name"]] = result
            if out is not None:
                write_steps(out, args.arch, [known[name] for name in order if name in known])
    except RuntimeError as error:
        print(f"benchmarks.compile_for_gpu: {error}", file=sys.stderr)
        return None
    return [known[name] for name in order]


if __name__ == "__main__":
    sys.exit(main())
