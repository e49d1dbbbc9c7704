"""A real browser for tests: Chromium without a window, driven over its debugging pipe."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WAIT_SEC = 60


class Page:
    """One tab."""

    def __init__(self, to_browser: int, from_browser: int, downloads: Path) -> None:
        self._to, self._from, self.downloads = to_browser, from_browser, downloads
        self._number, self._rest, self._session = 0, b"", ""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._call("Page.enable")
        self._call("Runtime.enable")

    def open(self, address: str) -> None:
        """Load a page and wait for it."""
        self._call("Page.navigate", url=address)
        deadline = time.monotonic() + WAIT_SEC
        while self.run("document.readyState") != "complete" or self.run("location.href") == "about:blank":
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def run(self, expression: str) -> Any:
        """The value of an expression; a promise is waited for."""
        found = self._call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def download(self) -> Path:
        """The file that the page saved."""
        deadline = time.monotonic() + WAIT_SEC
        while True:
            done = [path for path in self.downloads.glob("*") if path.suffix != ".crdownload" and path.stat().st_size]
            if done:
                return done[0]
            assert time.monotonic() < deadline, "nothing was saved"
            time.sleep(0.05)

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            read = os.read(self._from, 1 << 16)
            assert read, "the browser has ended"
            self._rest += read
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)


@contextmanager
def browser(profile: Path, downloads: Path) -> Iterator[Page]:
    """A tab that saves files into `downloads`."""
    downloads.mkdir(parents=True, exist_ok=True)
    for_browser, to_browser = os.pipe()
    from_browser, by_browser = os.pipe()
    command = ["chromium", "--headless", "--no-sandbox", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
    command += ["--autoplay-policy=no-user-gesture-required", "--disable-gpu"]
    shell = ["bash", "-c", f'exec "$@" 3<&{for_browser} 4>&{by_browser}', "bash", *command]
    process = subprocess.Popen(
        shell, pass_fds=(for_browser, by_browser), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(for_browser)
    os.close(by_browser)
    try:
        page = Page(to_browser, from_browser, downloads)
        page._call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
        yield page
    finally:
        process.kill()
        process.wait()
        os.close(to_browser)
        os.close(from_browser)
