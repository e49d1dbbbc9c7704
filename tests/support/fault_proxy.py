"""A TCP proxy in front of the S3 server that does what networks do, and counts what passes.

Faults are numbers of times: each is taken by the next request or the next long piece of an answer, whatever connection
it comes on.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

LONG_BYTES = 4096  # answers with a body; headers alone are shorter
FOREVER = 1 << 30
_BUSY = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass
class FaultProxy:
    """Listens on `port`; set its fields while it runs."""

    server_port: int
    port: int = 0
    num_reset: int = 0
    """Connections to end at once."""
    num_busy: int = 0
    """Requests to answer with 503."""
    num_cut: int = 0
    """Answers to end in the middle."""
    num_flipped: int = 0
    """Answers in which to change a byte."""
    num_dropped: int = 0
    """Requests with a body to end in the middle of it."""
    num_stalled: int = 0
    """Answers that stop coming."""
    pause_sec: float = 0.0
    """Wait before each 64 kB."""
    num_bytes: int = 0
    """Bytes of all answers."""
    num_sent_bytes: int = 0
    """Bytes of all requests."""
    num_faults: int = 0
    """Faults that happened."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, fault: str) -> bool:
        with self._lock:
            left = getattr(self, fault)
            if left:
                setattr(self, fault, left - 1)
                self.num_faults += 1
            return left > 0

    def count(self, num_bytes: int) -> None:
        with self._lock:
            self.num_bytes += num_bytes

    def count_sent(self, num_bytes: int) -> None:
        with self._lock:
            self.num_sent_bytes += num_bytes


@contextmanager
def fault_proxy(server_port: int) -> Iterator[FaultProxy]:
    proxy = FaultProxy(server_port)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy.port = listener.getsockname()[1]
        threading.Thread(target=_accept, args=(proxy, listener), daemon=True).start()
        yield proxy


def _accept(proxy: FaultProxy, listener: socket.socket) -> None:
    with suppress(OSError):
        while True:
            client, _ = listener.accept()
            if proxy.take("num_reset"):
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", proxy.server_port))
            for pump in (_pump_requests, _pump_answers):
                threading.Thread(target=_run, args=(pump, proxy, client, server), daemon=True).start()


def _run(pump, proxy: FaultProxy, client: socket.socket, server: socket.socket) -> None:
    with suppress(OSError):
        pump(proxy, client, server)
    for end in (client, server):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def _pump_requests(proxy: FaultProxy, client: socket.socket, server: socket.socket) -> None:
    while data := client.recv(1 << 16):
        if data.startswith((b"GET", b"PUT")) and proxy.take("num_busy"):
            client.sendall(_BUSY)
            return
        proxy.count_sent(len(data))
        if len(data) > LONG_BYTES and proxy.take("num_dropped"):
            server.sendall(data[: len(data) // 2])
            return
        server.sendall(data)


def _pump_answers(proxy: FaultProxy, client: socket.socket, server: socket.socket) -> None:
    while data := server.recv(1 << 16):
        proxy.count(len(data))
        time.sleep(proxy.pause_sec)
        if len(data) > LONG_BYTES:
            if proxy.take("num_cut"):
                client.sendall(data[: len(data) // 2])
                return
            if proxy.take("num_stalled"):
                time.sleep(3600)
            if proxy.take("num_flipped"):
                data = data[:-1] + bytes([data[-1] ^ 1])
        client.sendall(data)
