"""`titan-speech report`: the page of one run or several, alone or against a reference.

In: run folders. Out: one HTML file that needs no network; with --serve the same page on this machine, live; with
--save-reference the curves of these runs as a reference; with --trace the spans of one run for Perfetto. Exit code 1
if a run leaves the band of a reference.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from titan_speech.cli.arguments import local_path, natural
from titan_speech.cli.command import Argument, Command
from titan_speech.errors import DataError
from titan_speech.exit_codes import EXIT_DONE, EXIT_FOUND_WRONG
from titan_speech.utils.text_table import counted

if TYPE_CHECKING:
    from titan_speech.report.reference import RecipeReference
    from titan_speech.report.run import Run

DEFAULT_OUTPUT = "report.html"


def report(args: argparse.Namespace) -> int:
    """Write or serve the page."""
    from titan_speech.report.page import SECTIONS, page
    from titan_speech.report.reference import open_reference
    from titan_speech.report.run import open_runs
    from titan_speech.report.sections.comparison import comparison

    if args.trace:
        return _write_trace(args)
    output = Path(args.output) if args.output else args.runs[0] / DEFAULT_OUTPUT
    if not args.serve and output.is_dir():
        raise DataError(f"--output {output} is a folder; give the name of a file in it")
    reference = open_reference(args.against) if args.against else None
    runs, sections = open_runs(args.runs), list(SECTIONS)
    if reference is not None:
        sections.insert(1, comparison(reference))
    if args.save_reference:
        _save_reference(args, runs)
    if args.serve:
        from titan_speech.report.serve import serve

        with serve(runs, args.host, args.port, sections) as server:
            host, port = server.server_address[:2]
            print(f"http://{host}:{port}/ shows {', '.join(run.name for run in runs)}; Ctrl-C ends it", flush=True)
            server.serve_forever()
    _write(output, page(runs, sections))
    print(f"page: {output}")
    return EXIT_DONE if reference is None or _is_within(runs, reference) else EXIT_FOUND_WRONG


def _write_trace(args: argparse.Namespace) -> int:
    from titan_speech.report.trace import trace

    if len(args.runs) > 1:
        raise DataError(f"--trace is of one run, found {len(args.runs)}; give one run folder")
    path = Path(args.trace)
    _write(path, "".join(trace(args.runs[0])))
    print(f"trace: {path} (open it at https://ui.perfetto.dev, which reads it in the browser, or in chrome://tracing)")
    return EXIT_DONE


def _save_reference(args: argparse.Namespace, runs: list[Run]) -> None:
    from titan_speech.report.reference import reference_of, to_json

    path = Path(args.save_reference)
    about = args.about or f"{counted(len(runs), 'run')}: {', '.join(run.name for run in runs)}"
    _write(path, to_json(reference_of(runs, path.stem, about)))
    print(f"reference: {path}")


def _is_within(runs: list[Run], reference: RecipeReference) -> bool:
    """Print where runs leave their band; whether none does."""
    from titan_speech.report.reference import compare

    is_within = True
    for run in runs:
        found = compare(run, reference)
        left = [one for one in found if one.left_at is not None]
        for one in left:
            print(
                f"{run.name}: {one.metric} leaves the band of {reference.name} at step {one.left_at:,}: "
                f"{one.value:.4g}, expected {one.low:.4g} to {one.high:.4g}"
            )
        if not left:
            print(f"{run.name}: {len(found)} metrics within the bands of {reference.name}")
        is_within = is_within and not left and bool(found)
    return is_within


def _write(path: Path, content: str) -> None:
    from titan_speech.utils.files import write_atomically

    try:
        write_atomically(path, content)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error}; give another path") from error


COMMANDS = (
    Command(
        None,
        "report",
        "Write what happened in a run, or in several, as one HTML page; --serve shows it while the run trains.",
        "titan-speech report outputs/demo --output report.html",
        report,
        (
            Argument("runs", "run folders; several are drawn together", type=local_path, nargs="+", metavar="RUN"),
            Argument("--output", f"HTML file to write (default: {DEFAULT_OUTPUT} in the first run folder)"),
            Argument("--serve", "serve the page and keep it up to date instead of writing a file", action="store_true"),
            Argument("--host", "address to serve at, without a password (default: 127.0.0.1)", default="127.0.0.1"),
            Argument("--port", "port to serve at; 0: any free one (default: 8700)", type=natural, default=8700),
            Argument(
                "--against",
                "reference to compare with: a name of docs/evaluation.md (demo, overfit, tour-s1, ...) or a file; exit "
                "code 1 if a run leaves its band",
                metavar="REFERENCE",
            ),
            Argument(
                "--trace",
                "write a trace of one run instead: what every rank did from when to when, for Perfetto",
                metavar="FILE",
            ),
            Argument("--save-reference", "also write the curves of these runs as a reference", metavar="FILE"),
            Argument("--about", "with --save-reference: what was run, on what"),
        ),
    ),
)
