"""Keep secrets out of everything that is printed or saved.

In: any text that a person may have typed into a TOML file or on the command line. Out: the same text with
what looks like a credential replaced by `<secret removed>`.

Trade-off: known shapes (cloud, hub and git tokens, `user:password@` in a URL) and the values of environment
variables whose names say they are secret are removed; a bare hexadecimal string is kept, since fingerprints
and git revisions look the same.
"""

from __future__ import annotations

import os
import re

REMOVED = "<secret removed>"

_SHAPES = (
    re.compile(r"\bhf_[A-Za-z0-9]{16,}"),
    re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    re.compile(r"\b(?:ghp|gho|ghs|ghu)_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}"),
    re.compile(r"\bsk-[A-Za-z0-9_-]{16,}"),
    re.compile(r"\bxox[abprs]-[A-Za-z0-9-]{10,}"),
    re.compile(r"\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{5,}"),
    re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"),
    re.compile(r"(?i)(?<=[?&])[\w-]*(?:signature|credential|security-token|password|api_?key)[\w-]*=[^&\s\"']+"),
)
_SECRET_VARIABLE = re.compile(r"(?i)(?:key|token|secret|password|credential)")
_LEAST_SECRET_LENGTH = 12


def _secrets_of_environment() -> tuple[str, ...]:
    """Values of secret-looking variables, longest first; short ones (switches, counts) are none."""
    values = (value for name, value in os.environ.items() if _SECRET_VARIABLE.search(name))
    return tuple(sorted((v for v in values if len(v) >= _LEAST_SECRET_LENGTH), key=len, reverse=True))


def redact(text: str) -> str:
    """`text` without anything that looks like a credential."""
    for value in _secrets_of_environment():
        text = text.replace(value, REMOVED)
    for shape in _SHAPES:
        text = shape.sub(REMOVED, text)
    return text
