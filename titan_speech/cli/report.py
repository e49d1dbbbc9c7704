"""`titan-speech report`: the page of one run or several.

In: run folders. Out: one HTML file that needs no network; with --serve the same page on this machine, live.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from titan_speech.cli.arguments import local_path, natural
from titan_speech.cli.command import Argument, Command
from titan_speech.errors import DataError

DEFAULT_OUTPUT = "report.html"


def report(args: argparse.Namespace) -> None:
    """Write or serve the page."""
    from titan_speech.report.page import page
    from titan_speech.report.run import open_runs
    from titan_speech.utils.files import write_atomically

    output = Path(args.output) if args.output else args.runs[0] / DEFAULT_OUTPUT
    if not args.serve and output.is_dir():
        raise DataError(f"--output {output} is a folder; give the name of a file in it")
    runs = open_runs(args.runs)
    if args.serve:
        from titan_speech.report.serve import serve

        with serve(runs, args.host, args.port) as server:
            host, port = server.server_address[:2]
            print(f"http://{host}:{port}/ shows {', '.join(run.name for run in runs)}; Ctrl-C ends it", flush=True)
            server.serve_forever()
        return
    try:
        write_atomically(output, page(runs))
    except OSError as error:
        raise DataError(f"{output} cannot be written: {error}; give another --output") from error
    print(f"page: {output}")


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
        ),
    ),
)
