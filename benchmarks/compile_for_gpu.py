"""Compile recipes for a GPU that is not here: `python -m benchmarks.compile_for_gpu [RECIPE ...] [--arch sm_90]`.

In: recipes (all of train_configs/ that differ, if none is named), an architecture. Out: a table, and
benchmarks/results/compile_for_gpu.json or --json: of one layer, the head's loss and the optimizer of each recipe, in
bf16 and in float8, all kernels, registers, shared memory and calls that leave the compiler. The exit code is 1 if a
step breaks a rule of deviceless/findings.py. Nothing is executed, so nothing here is a time. A recipe takes half a
minute of one core. It needs gcc and a torch built with CUDA.

    python -m benchmarks.compile_for_gpu train_configs/pt_s1_llama3_1b.toml --precision bf16
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.deviceless.child import StepRequest
from benchmarks.deviceless.findings import judge, summarize
from benchmarks.deviceless.stubs import build_stubs
from benchmarks.machine import ROOT, git_revision, versions
from benchmarks.suite import tell
from titan_speech.estimate.offline import run_shape, run_vocabulary
from titan_speech.preflight.config_checks import load_config
from titan_speech.utils.files import write_atomically
from titan_speech.utils.text_table import table_lines

PRECISIONS = {"bf16": (), "float8": ("--float8.recipe", "rowwise")}
RESULTS = ROOT / "benchmarks/results/compile_for_gpu.json"
STUBS = ROOT / "outputs/benchmarks/stubs"
GPUS = 32
"""Of the layouts: a recipe of whole replicas names so many."""
CHILD = "benchmarks.deviceless.child"


@dataclass(frozen=True)
class Case:
    """A recipe in a precision; `like` are recipes whose step is the same."""

    recipe: str
    precision: str
    like: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{Path(self.recipe).stem} {self.precision}"


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
    with tempfile.TemporaryDirectory(prefix="titan-speech-compile-") as folder:
        asked, out = Path(folder) / "request.json", Path(folder) / "record.json"
        asked.write_text(json.dumps(asdict(request)), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", entry, str(asked), str(out)],
            env={**os.environ, **build_stubs(STUBS), "TORCHINDUCTOR_AUTOGRAD_CACHE": "0"},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if not out.exists():
            raise RuntimeError(f"{entry} ended with {done.returncode}: {done.stderr.strip()[-1500:]}")
        return json.loads(out.read_text(encoding="utf-8"))


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
            ),
        )
    )


def all_recipes() -> list[str]:
    """The recipes that are compiled, but those of the debug model, whose widths are of no GPU, and of tensor parallel
    layouts, whose collectives inside a compiled layer do not run on fake tensors."""
    found = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "train_configs").glob("*.toml"))
    configs = {path: load_config(["--job.config_file", path], world_size=GPUS).config for path in found}
    return [
        path
        for path, one in configs.items()
        if one.compile.enable
        and not one.model.flavor.startswith("debug")
        and one.parallelism.tensor_parallel_degree == 1
    ]


def table(results: Sequence[dict[str, Any]]) -> list[str]:
    head = ("step", "graphs", "kernels", "registers", "shared", "spilled", "layer", "loss", "calls outside", "verdict")
    rows = []
    for result in results:
        one = result["summary"]
        outside = ", ".join(f"{times} {name}" for name, times in sorted(one["extern"].items()))
        verdict = "sound" if not result["findings"] else f"{len(result['findings'])} findings"
        rows.append(
            (
                result["name"],
                *(f"{one[key]:,}" for key in ("num_graphs", "num_kernels", "max_registers", "max_shared_bytes")),
                f"{one['max_spilled_bytes']:,}",
                *(f"{one[key] / 1e9:.2f} GB" for key in ("layer_bytes", "loss_bytes")),
                outside,
                verdict,
            )
        )
    return table_lines([head, *rows], "<>>>>>>><<")


def run(cases: Sequence[Case], args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for case in cases:
        tell(f"compiling {case.name} for {args.arch}")
        words = ("--job.config_file", case.recipe, *PRECISIONS[case.precision], *args.set)
        request = StepRequest(words, args.arch, args.gpus, args.layers, args.rows)
        record = compile_case(request)
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


def _write(out: Path, architecture: str, results: Sequence[dict[str, Any]]) -> None:
    """All results so far."""
    about = {"architecture": architecture, "git_revision": git_revision(), "versions": versions()}
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, json.dumps({**about, "steps": results}, indent=1) + "\n")


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
    args = parser.parse_args()
    cases = cases_of(args.recipe or all_recipes(), args.precision, args.gpus)
    out = args.json or (None if args.recipe else RESULTS)
    results: list[dict[str, Any]] = []
    try:
        for result in run(cases, args):
            results.append(result)
            if out is not None:
                _write(out, args.arch, results)
    except RuntimeError as error:
        print(f"benchmarks.compile_for_gpu: {error}", file=sys.stderr)
        return 2
    print("\n".join(table(results)))
    return 1 if any(result["findings"] for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
