"""A receiver of webhooks on loopback: it keeps what is posted, or hangs."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Receiver:
    """Texts of the messages so far, and where to post."""

    def __init__(self, url: str, texts: list[str]) -> None:
        self.url, self.texts = url, texts


@contextmanager
def receiver(hangs: threading.Event | None = None) -> Iterator[Receiver]:
    """A running receiver; with `hangs` it answers only when that is set."""
    texts: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            texts.append(json.loads(body)["text"])
            if hangs is not None:
                hangs.wait()
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield Receiver(f"http://127.0.0.1:{server.server_port}/services/T0/B0/secret", texts)
    finally:
        if hangs is not None:
            hangs.set()
        server.shutdown()
        server.server_close()
