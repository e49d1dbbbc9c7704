"""Text that may be printed: without credentials, and without characters that speak to the terminal.

In: any text, also of names and ids that somebody else chose. Out: the same text in which

- known shapes of secrets (tokens of clouds, hubs and git servers, private keys, `user:password@` and `token@` in a URL)
  and the values of environment variables whose names say that they are secret become `<secret removed>`. A bare
  hexadecimal string is kept, since fingerprints and git revisions look the same;
- control characters are written as JSON's escapes (`\\u001b`, so JSON stays JSON): an id could otherwise clear the
  screen, rewrite lines that were printed before, or reorder text. Line ends and tabs stay, and so do the joiners that
  Indic scripts need; in a name that is one cell or one line among others, line ends are escaped too (`one_line`), and
  lines of a message after its first are indented (`message`).

Everything the commands and a run print passes here: error messages, log records, results on stdout (`printable_stdout`)
and messages of jobs on stderr. A file of 20 MB takes 0.1 s.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterable
from contextlib import redirect_stdout, suppress
from typing import Any, TextIO, cast

REMOVED = "<secret removed>"

# Repetitions that something must follow are bounded: a name of others must not make a search quadratic.
_IN_ADDRESSES = (  # before all others, which would remove half of `key:secret@` and hide the rest from these
    re.compile(r"(?<=://)[^/\s]+(?=@)"),  # up to the last @: a password may hold one
    re.compile(r"(?<=://)[^/\s:@]{1,256}:(?!\d{1,5}/)[^\s@]{1,256}(?=@)"),  # keys of AWS hold slashes
    re.compile(r"(?<![\w.+-])[\w.+-]{1,64}:[^\s/@:]{1,256}(?=@[\w.-])"),  # an address without its https://
)
_SHAPES = (
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
    re.compile(r"\bhf_[A-Za-z0-9]{16,}"),
    re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    re.compile(r"\b(?:ghp|gho|ghs|ghu|ghr)_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bgl[a-z]{2,6}-[\w-]{20,}"),
    re.compile(r"\bAIza[\w-]{30,}|\bya29\.[\w-]{16,}|\bGOCSPX-[\w-]{20,}"),
    re.compile(r"\bsk-[A-Za-z0-9_-]{16,}"),
    re.compile(r"\bxox[abprs]-[A-Za-z0-9-]{10,}"),
    re.compile(r"\beyJ[\w-]{10,1000}\.[\w-]{10,10000}+\.[\w-]{5,}"),
    re.compile(r"(?<=\bBearer )[\w.~+/=-]{16,}"),
    re.compile(
        r"(?i)(?<=[?&])(?:sig|[\w-]{0,64}(?:signature|credential|token|password|secret|api_?key)[\w-]{0,64})=[^&\s\"']+"
    ),
    re.compile(r"(?i)(?<=\bpassword=)[^&\s\"']+"),
    re.compile(  # in prose where a value has a digit; "password: expected text" speaks of none
        r"(?i)\bpass(?:word|wd|phrase)[\"']?\s{0,3}[:=]\s{0,3}"
        r"(?:[\"'][^\"'\n]{1,256}[\"']|(?=[^\s\"',;]{0,63}\d)[^\s\"',;]{6,256})"
    ),
    re.compile(r"(?i)\b(?:aws_)?(?:secret_access_key|secret_key|session_token)[\"']?\s{0,3}[=:]\s{0,3}[^\s&]{8,}"),
    re.compile(r"(?<=//hooks\.slack\.com/)services/[\w/-]+"),
)
_SECRET_VARIABLE = re.compile(r"(?i)(?:key|token|secret|password|credential|webhook)")
_MIN_SECRET_LENGTH = 12  # shorter values of such variables are switches and counts
_COLOR = re.compile(r"\x1b\[(?:(?:[012];)?3[1-79]|[012]?|38;2;180;60;0|38;2;54;234;195)m")
"""Weights and colors of text, as this package and TorchTitan write them: none that hides text, as black or inverse."""
_JOINERS = "\u200c\u200d"
"""The zero-width joiners of Indic scripts."""
_LINE_START = re.compile(r"\n(?=[^ \n])")
_KEPT = f"\n\t{_JOINERS}"
_NO_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """`text` without credentials, with control characters escaped."""
    return escape_controls(redact(text))


def message(text: str) -> str:
    """As `printable`, for a message of any number of lines: those after the first are indented, so that a line end in
    a name cannot begin what looks like another message."""
    return _LINE_START.sub("\n  ", printable(text))


def redact(text: str) -> str:
    """`text` without anything that looks like a credential."""
    for shape in _IN_ADDRESSES:
        text = shape.sub(REMOVED, text)
    secrets = [value for name, value in os.environ.items() if _SECRET_VARIABLE.search(name)]
    for value in sorted(secrets, key=len, reverse=True):
        if len(value) >= _MIN_SECRET_LENGTH:
            text = text.replace(value, REMOVED)
    for shape in _SHAPES:
        text = shape.sub(REMOVED, text)
    return text


def escape_controls(text: str) -> str:
    """`text` with every character that does not print written as an escape."""
    return _escape(text, _KEPT)


def one_line(text: str) -> str:
    """As `escape_controls`, with line ends and tabs escaped too: a name cannot begin a line of its own."""
    return _escape(text, _JOINERS)


def joined_lines(lines: Iterable[str]) -> str:
    """The lines of a result; each stays one line, whatever names it holds."""
    return "\n".join(map(one_line, lines))


def escape_on_page(text: str) -> str:
    """`text` of an HTML page, with the controls of terminals and of direction written as escapes; spaces of other
    widths and soft hyphens, which a browser lays out, stay."""
    return _NO_TEXT.sub(lambda found: _json_escape(found[0]), text)


def _escape(text: str, kept: str) -> str:
    if text.isprintable():
        return text
    return text.translate({ord(c): _json_escape(c) for c in set(text) if not c.isprintable() and c not in kept})


def _json_escape(letter: str) -> str:
    units = letter.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def has_controls(text: str) -> bool:
    """Whether a name from outside has characters that do not print, line ends and tabs included."""
    return not text.isprintable() and any(not (c.isprintable() or c in _JOINERS) for c in text)


class _PrintableStream:
    """A text stream that escapes what is written to it, colors apart; everything else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(_escape_between_colors(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def printable_stream(stream: TextIO) -> TextIO:
    """The stream, with everything written to it escaped."""
    return cast(TextIO, _PrintableStream(stream))


def unescaped_stream(stream: TextIO) -> TextIO:
    """The stream itself, for what moves the cursor (the bar of a run) and passes its texts through `printable`."""
    return stream._stream if isinstance(stream, _PrintableStream) else stream


def printable_stdout() -> redirect_stdout:
    """A context in which everything printed to stdout is escaped."""
    return redirect_stdout(printable_stream(sys.stdout))


def _escape_between_colors(text: str) -> str:
    pieces = _COLOR.split(text)
    colors = [*_COLOR.findall(text), ""]
    return "".join(f"{escape_controls(piece)}{color}" for piece, color in zip(pieces, colors, strict=True))


def make_log_records_printable() -> None:
    """Have every log record of this process printable before a handler sees it; colors of a terminal stay."""
    make = logging.getLogRecordFactory()
    if getattr(make, "is_printable", False):
        return

    def factory(*args: object, **options: object) -> logging.LogRecord:
        record = make(*args, **options)
        with suppress(TypeError, ValueError):  # arguments that do not fit their message are reported by logging itself
            text = _escape_between_colors(redact(record.getMessage()))  # TorchTitan colors its lines
            record.msg = _LINE_START.sub("\n  ", text)
            record.args = ()
        return record

    factory.is_printable = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(factory)
