"""The page of runs that still train, on a port of this machine.

In: runs, a host and a port. Out: an HTTP server that answers `GET /` with the page of now, until it is interrupted. The
page asks again every few seconds and replaces itself where something is new. A run folder is only read. Lines of
metrics.jsonl are parsed once, and a page is rendered again only after a file of a run has changed.

There is no password: the default is loopback. A request whose Host header names another machine is refused, so that no
web page can read it through a name of its own (DNS rebinding).
"""

from __future__ import annotations

import gzip
import hashlib
import ipaddress
import logging
import sys
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from titan_speech.align.job_files import BREACHES_NAME, PARITY_NAME, ROLLOUTS_NAME
from titan_speech.errors import DataError
from titan_speech.evaluate.result import RESULTS_DIR
from titan_speech.model.exported_files import EVALUATION_FOLDER
from titan_speech.report.page import SECTIONS, SectionOf, page
from titan_speech.report.run import METRICS_NAME, Run
from titan_speech.utils.printable import one_line

logger = logging.getLogger(__name__)

REFRESH_SEC = 5.0
TIMEOUT_SEC = 10.0


class LivePage:
    """The newest page, rendered when a file of a run has changed."""

    def __init__(self, runs: Sequence[Run], sections: Sequence[SectionOf]) -> None:
        self._runs, self._sections = list(runs), sections
        self._lock = threading.Lock()
        self._state: tuple[object, ...] = ()
        self._content = b""
        self.tag = ""

    def get(self) -> tuple[str, bytes]:
        """Its tag and the page, compressed."""
        with self._lock:
            state = tuple(one for run in self._runs for one in _state_of(run))
            if state != self._state or not self._content:
                self._runs = [run.refreshed() for run in self._runs]
                self._content = gzip.compress(page(self._runs, self._sections, refresh_sec=REFRESH_SEC).encode(), 1)
                self._state, self.tag = state, f'"{hashlib.sha256(repr(state).encode()).hexdigest()[:32]}"'
            return self.tag, self._content


def _state_of(run: Run) -> Iterator[object]:
    """Changes with whatever a page shows of the run."""
    yield run.state
    for path in (run.folder / METRICS_NAME, *_watched(run.folder)):
        try:
            found = path.stat()
            yield path.name, found.st_size, found.st_mtime_ns
        except OSError:
            yield path.name


def _watched(folder: Path) -> Iterator[Path]:
    yield from (folder / name for name in ("checkpoint", "generation", "health", "config.toml", "ledger/rank-0.jsonl"))
    yield from (folder / EVALUATION_FOLDER / RESULTS_DIR, folder / PARITY_NAME, folder / BREACHES_NAME)
    yield folder / ROLLOUTS_NAME
    yield from sorted((folder / "logs").glob("rank-*.log"))[:64]


def serve(runs: Sequence[Run], host: str, port: int, sections: Sequence[SectionOf] = SECTIONS) -> ThreadingHTTPServer:
    """A server of the page; `serve_forever` runs it.

    Args:
        runs: opened runs.
        host: address to listen at.
        port: 0: any free one.
        sections: of the page.

    Raises:
        DataError: the address or the port cannot be used.
    """
    live = LivePage(runs, sections)
    names = {host, "localhost"} if _is_loopback(host) else set()

    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "titan_speech", ""
        timeout = TIMEOUT_SEC

        def do_GET(self) -> None:
            name = self.headers.get("Host", "").rsplit(":", 1)[0].strip("[]")
            if names and name not in names and not _is_loopback(name):
                self.send_error(403, "this page is for its own machine")
                return
            if self.path.split("?")[0] != "/":
                self.send_error(404)
                return
            tag, content = live.get()
            is_known = self.headers.get("If-None-Match") == tag
            self.send_response(304 if is_known else 200)
            self.send_header("ETag", tag)
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Referrer-Policy", "no-referrer")
            if not is_known:
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Encoding", "gzip")
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if not is_known:
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Requests are not logged."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A browser that disconnected is not logged; other errors are one line of the log."""
            error = sys.exc_info()[1]
            if not isinstance(error, OSError):
                logger.warning("a request was not answered: %s", one_line(repr(error)))

    try:
        return Server((host, port), Handler)
    except (OSError, OverflowError) as error:
        raise DataError(f"{host}:{port} cannot be used: {error}; give another --port or --host") from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
