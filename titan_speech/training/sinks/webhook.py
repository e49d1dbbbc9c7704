"""Messages for people: a run ended, was stopped, flagged or rolled back, posted as Slack takes them ({"text": ...}).

In: messages; the URL is a secret, so it comes from the environment (TITAN_SPEECH_WEBHOOK) and is stored nowhere. Out:
one POST per message, from a thread, tried once: a receiver that hangs holds nobody, and no message comes twice. The end
of a run waits at most ten seconds for what is not sent. A process that is killed sends nothing. What is sent leaves the
machine, so credentials are removed from it as from a log.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from titan_speech.errors import ConfigError
from titan_speech.training.sinks.sink import Message, Sink
from titan_speech.utils.printable import printable

WEBHOOK_VARIABLE = "TITAN_SPEECH_WEBHOOK"
POST_SEC = 5.0
CLOSE_SEC = 10.0
MAX_TEXT = 3_000
"""Characters; Slack cuts at 4,000."""

logger = logging.getLogger(__name__)


class WebhookSink(Sink):
    """Posts messages from a thread."""

    def __init__(self, url: str, run_name: str) -> None:
        if urlsplit(url).scheme not in ("http", "https"):
            raise ConfigError(f"{WEBHOOK_VARIABLE} is no http or https URL")  # which is a secret: it is not shown
        self._url, self._run_name = url, run_name
        self._waiting: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)
        self._thread.start()
        self._has_warned = False

    def message(self, message: Message) -> None:
        self._waiting.put(message)

    def close(self) -> None:
        self._waiting.put(None)
        self._thread.join(CLOSE_SEC)

    def _run(self) -> None:
        while (message := self._waiting.get()) is not None:
            text = f"{self._run_name}: {message.event.replace('_', ' ')} at step {message.step:,}. {message.text}"
            try:
                self._post(json.dumps({"text": printable(text)[:MAX_TEXT]}).encode())
            except Exception as error:
                if not self._has_warned:
                    self._has_warned = True
                    name = urlsplit(self._url).hostname
                    logger.warning(
                        f"the webhook at {name} did not take a message ({type(error).__name__}). Training continues; "
                        f"further failures are not reported. Check {WEBHOOK_VARIABLE}."
                    )

    def _post(self, data: bytes) -> None:
        request = Request(self._url, data, {"Content-Type": "application/json"})  # noqa: S310  (http, https)
        with urlopen(request, timeout=POST_SEC) as answer:  # noqa: S310
            answer.read(1024)
