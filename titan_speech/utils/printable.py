"""Text that may be printed: without credentials, and without characters that speak to the terminal.

In: any text, also of names and ids that somebody else chose. Out: the same text in which

- known shapes of secrets (tokens of clouds, hubs and git servers, private keys, `user:password@` and `token@` in a URL)
  and the values of environment variables whose names say that they are secret become `<secret removed>`. A bare
  hexadecimal string is kept, since fingerprints and git revisions look the same;
- control characters are written as escapes (`\\x1b`): an id could otherwise clear the screen, rewrite lines that were
  printed before, or reorder text. Line ends and tabs stay, and so do the joiners that Indic scripts need.

Every error message of the command line and every log record passes here; results on stdout do not yet.
"""

from __future__ import annotations

import logging
import os
import re
from contextlib import suppress

REMOVED = "<secret removed>"

_SHAPES = (
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
    re.compile(r"\bhf_[A-Za-z0-9]{16,}"),
    re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    re.compile(r"\b(?:ghp|gho|ghs|ghu)_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}"),
    re.compile(r"\bAIza[\w-]{30,}|\bya29\.[\w-]{16,}"),
    re.compile(r"\bsk-[A-Za-z0-9_-]{16,}"),
    re.compile(r"\bxox[abprs]-[A-Za-z0-9-]{10,}"),
    re.compile(r"\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{5,}"),
    re.compile(r"(?<=://)[^/\s@]+(?=@)"),
    re.compile(r"(?i)(?<=[?&])(?:sig|[\w-]*(?:signature|credential|token|password|secret|api_?key)[\w-]*)=[^&\s\"']+"),
    re.compile(r"(?i)(?<=\bpassword=)[^&\s\"']+"),
)
_SECRET_VARIABLE = re.compile(r"(?i)(?:key|token|secret|password|credential)")
_MIN_SECRET_LENGTH = 12  # shorter values of such variables are switches and counts
_COLOR = re.compile(r"\x1b\[[0-9;]*m")
_KEPT = "\n\t\u200c\u200d"
"""Line ends, tabs, and the zero-width joiners of Indic scripts."""


def printable(text: str) -> str:
    """`text` without credentials, with control characters escaped."""
    return escape_controls(redact(text))


def redact(text: str) -> str:
    """`text` without anything that looks like a credential."""
    secrets = [value for name, value in os.environ.items() if _SECRET_VARIABLE.search(name)]
    for value in sorted(secrets, key=len, reverse=True):
        if len(value) >= _MIN_SECRET_LENGTH:
            text = text.replace(value, REMOVED)
    for shape in _SHAPES:
        text = shape.sub(REMOVED, text)
    return text


def escape_controls(text: str) -> str:
    """`text` with every character that does not print written as an escape."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter in _KEPT or letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def has_controls(text: str) -> bool:
    """Whether a name from outside has characters that do not print, line ends and tabs included."""
    return not text.isprintable() and any(not (c.isprintable() or c in "\u200c\u200d") for c in text)


def make_log_records_printable() -> None:
    """Have every log record of this process printable before a handler sees it; colors of a terminal stay."""
    make = logging.getLogRecordFactory()
    if getattr(make, "is_printable", False):
        return

    def factory(*args: object, **options: object) -> logging.LogRecord:
        record = make(*args, **options)
        with suppress(TypeError, ValueError):  # arguments that do not fit their message are reported by logging itself
            message = redact(record.getMessage())
            pieces = _COLOR.split(message)  # TorchTitan colors its lines
            colors = [*_COLOR.findall(message), ""]
            record.msg = "".join(
                f"{escape_controls(piece)}{color}" for piece, color in zip(pieces, colors, strict=True)
            )
            record.args = ()
        return record

    factory.is_printable = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(factory)
