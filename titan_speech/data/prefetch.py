"""Reading ahead in a thread.

In: an iterator. Out: an iterator over the same items, of which up to `num_items` are made before they are asked for.
An exception of the source is raised where its item would have come. A thread, since worker processes copy every batch
through shared memory: two of them read a third of what the thread does (loader.py).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
_POLL_SEC = 0.1


class _End:
    """The source has no more items."""


@dataclass(frozen=True)
class _Failure:
    error: BaseException


class Prefetcher(Generic[Item]):
    """Iterator over `source`, read in a daemon thread until `close`."""

    def __init__(self, source: Iterator[Item], num_items: int) -> None:
        self._source = source
        self._queue: queue.Queue[Item | _End | _Failure] = queue.Queue(maxsize=num_items)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="data-prefetch", daemon=True)
        self._thread.start()

    def _fill(self) -> None:
        try:
            for item in self._source:
                if not self._put(item):
                    return
            self._put(_End())
        except BaseException as error:  # raised again in the consumer, whatever it is
            self._put(_Failure(error))

    def _put(self, item: Item | _End | _Failure) -> bool:
        """Waits for room; False once closed."""
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=_POLL_SEC)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        if self._closed.is_set():
            raise StopIteration
        item = self._queue.get()
        if isinstance(item, _End):
            self.close()
            raise StopIteration
        if isinstance(item, _Failure):
            self.close()
            raise item.error
        return item

    def close(self) -> None:
        """Stops the thread and drops what it had read."""
        self._closed.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()
