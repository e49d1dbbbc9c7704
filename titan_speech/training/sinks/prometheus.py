"""The endpoint of a node for Prometheus: the last metrics of the run, and the ledger of the node's ranks.

In: metrics at log steps (on the node of rank 0), the ledger files of this node's ranks, read at each scrape. Out:
http://HOST:PORT/metrics in Prometheus' text format. It is served by a thread of the first rank of the node; training
does nothing for it but keep the last metrics. The format is a few lines of code, so no client library is needed. There
is no access control: bind it to loopback, or to a network that only the monitoring reaches.
"""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from titan_speech.ledger.follow import RankFollower
from titan_speech.ledger.records import ledger_file
from titan_speech.training.sinks.names import ENDPOINT_METRICS, PROMETHEUS_PREFIX, EndpointMetric, MetricName, find
from titan_speech.training.sinks.sink import Message, Sink
from titan_speech.utils.printable import one_line, printable

logger = logging.getLogger(__name__)

Labels = tuple[tuple[str, str], ...]

_ENDPOINT_METRIC = {metric.exported: metric for metric in ENDPOINT_METRICS}


class PrometheusSink(Sink):
    """Serves this node's metrics until the process ends."""

    def __init__(self, address: str, run_folder: Path, ranks: range) -> None:
        """
        Args:
            address: host:port to listen at, checked before the run; port 0 takes a free one.
            run_folder: of the run.
            ranks: of this node.
        """
        self._run = run_folder.name
        self._metrics: Mapping[str, float] = {}
        self._num_flagged = 0
        self._followers = {rank: RankFollower(ledger_file(run_folder, rank)) for rank in ranks}
        self._scraping = threading.Lock()
        host, _, port = address.rpartition(":")
        self._server = _Server((host.strip("[]"), int(port)), self._handler())
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, name="prometheus", daemon=True).start()

    def log(self, step: int, metrics: Mapping[str, float], *, is_repeat: bool = False) -> None:
        self._metrics = {**self._metrics, **metrics}

    def message(self, message: Message) -> None:
        self._num_flagged += message.event == "flagged"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def text(self) -> str:
        """All metrics in the text format."""
        families: dict[MetricName | EndpointMetric, list[str]] = {}
        for metric, labels, value in (*self._run_samples(), *self._rank_samples()):
            name = PROMETHEUS_PREFIX + metric.exported
            families.setdefault(metric, []).append(f"{name}{_braces((('run', self._run), *labels))} {_number(value)}")
        return "".join(_head(metric) + "\n".join(lines) + "\n" for metric, lines in families.items())

    def _run_samples(self) -> Iterator[tuple[MetricName | EndpointMetric, Labels, float]]:
        for name, value in self._metrics.items():
            found = find(name)
            if found is not None:
                yield *found, value
        yield _ENDPOINT_METRIC["flagged"], (), self._num_flagged

    def _rank_samples(self) -> Iterator[tuple[EndpointMetric, Labels, float]]:
        with self._scraping:
            for rank, follower in self._followers.items():
                if not follower.update():
                    continue
                of_rank = (("rank", str(rank)),)
                yield _ENDPOINT_METRIC["step"], of_rank, follower.last_step
                yield _ENDPOINT_METRIC["world_size"], of_rank, follower.world_size
                yield _ENDPOINT_METRIC["ledger_age_seconds"], of_rank, time.time() - follower.until_sec
                for name, seconds in follower.seconds.items():
                    yield _ENDPOINT_METRIC["seconds_total"], (*of_rank, ("class", name)), seconds

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        sink = self

        class MetricsHandler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                if self.path.partition("?")[0] != "/metrics":
                    self.send_error(404)
                    return
                body = sink.text().encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """A scrape is not logged."""

        return MetricsHandler


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A scraper that disconnected is not logged; other errors are one line of the log, without a traceback."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            logger.warning("a scrape was not answered: %s", one_line(repr(error)))


def _head(metric: MetricName | EndpointMetric) -> str:
    name, kind = PROMETHEUS_PREFIX + metric.exported, "counter" if metric.is_counter else "gauge"
    return f"# HELP {name} {metric.what}\n# TYPE {name} {kind}\n"


def _braces(labels: Labels) -> str:
    escapes = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
    return "{" + ",".join(f'{name}="{printable(value).translate(escapes)}"' for name, value in labels) + "}"


def _number(value: float) -> str:
    if math.isfinite(value):
        return repr(float(value))
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
