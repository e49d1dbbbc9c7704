"""Damages valid input the way a hostile or careless writer would: JSON by its structure, anything else by its bytes.

In: valid content and a random generator. Out: changed content. Values that are known to break readers come up often:
paths that leave the folder, numbers beyond every type, text that is no text, nesting beyond the stack.
"""

from __future__ import annotations

import contextlib
import json
import random
import struct
from copy import deepcopy
from typing import Any

OUTSIDE = "@OUTSIDE@"
"""Stands for the absolute path of a file outside the folder; `Sandbox` puts the real one in its place."""
ESCAPE = "\x1b]0;owned\x07\x1b[31m"
TEXTS = (
    "",
    " ",
    OUTSIDE,
    "../outside/victim",
    "a/../../outside/victim",
    "~/victim",
    "C:\\victim",
    "a\0b",
    ESCAPE,
    "\ud800",
    "\u202e\u2066abc",
    "\u00e9" * 300,
    "x" * 70_000,
    "9" * 5_000,
    "-1",
    "nan",
    "{}",
    "s3://bucket/../x",
    "file:///etc/passwd",
    "<|speech_start|><|s_1|>",
    "$(touch victim)",
    "{{ 7*7 }}",
    "%s%n",
    "__import__('os')",
)
NUMBERS = (
    0,
    -1,
    1,
    2**31 - 1,
    2**31,
    2**32,
    2**53 + 1,
    2**63 - 1,
    2**63,
    2**64,
    10**40,
    10**400,
    -(2**63) - 1,
    0.5,
    -0.0,
    5e-324,
    1e308,
    1e400,
    float("nan"),
)
VALUES: tuple[Any, ...] = (*TEXTS, *NUMBERS, None, True, False, [], {}, [[]], [None], {"a": {}}, [0] * 5_000)
WORDS = (b"", b"\0", b"\xff" * 8, b"\n", b'"', b"[" * 100_000, b'{"a":' * 50_000, b"\xed\xa0\x80", b"9" * 6_000, b"NaN")


def mutated_json(rng: random.Random, content: Any) -> Any:
    """One to four changes at random places of the tree; the argument is not kept."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        content = _change(rng, content)
    return content


def _change(rng: random.Random, root: Any) -> Any:
    places = [(None, None), *_places(root)]
    parent, key = rng.choice(places)
    if parent is None:
        return deepcopy(rng.choice(VALUES)) if rng.random() < 0.05 else root
    kind = rng.randrange(10)
    if kind == 0:
        del parent[key]
    elif kind == 1 and isinstance(parent, list):
        parent.insert(key, parent[key])
    elif kind == 2 and isinstance(parent, dict):
        parent[rng.choice(TEXTS)] = parent[key]
    elif kind == 3:
        other, name = rng.choice(places[1:])
        with contextlib.suppress(ValueError):  # what became too large, or circular, stays
            parent[key] = json.loads(json.dumps(other[name]))
    elif kind == 4 and isinstance(parent[key], int | float):
        parent[key] = parent[key] + rng.choice((-1, 1, 2**32, -(2**33)))
    elif kind == 5 and isinstance(parent[key], str):
        parent[key] = parent[key][: rng.randint(0, len(parent[key]))] + rng.choice(TEXTS)
    else:
        parent[key] = deepcopy(rng.choice(VALUES))  # else the next change would change it for all later cases
    return root


def _places(root: Any) -> list[tuple[Any, Any]]:
    """Each container with each of its keys."""
    found: list[tuple[Any, Any]] = []
    left = [root]
    while left and len(found) < 20_000:
        node = left.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        found += [(node, key) for key in keys]
        left += [node[key] for key in keys]
    return found


def json_bytes(rng: random.Random, content: Any) -> bytes:
    """The content as JSON, at times as another program would spell it."""
    text = json.dumps(content, ensure_ascii=rng.random() < 0.5)
    return text.encode("utf-8", "surrogatepass")


def mutated_bytes(rng: random.Random, data: bytes) -> bytes:
    """One to six changes at random places; headers and footers, where the meaning is, are hit more often."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        at = _position(rng, len(changed))
        kind = rng.randrange(8)
        if kind == 0:
            del changed[at:]
        elif kind == 1:
            changed[at:at] = rng.choice(WORDS)
        elif kind == 2:
            changed[at : at + rng.randint(1, 64)] = b""
        elif kind == 3:
            value = rng.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1, rng.getrandbits(40)))
            changed[at : at + 8] = struct.pack(rng.choice("<>") + "Q", value)
        elif kind == 4:
            changed[at : at + 4] = struct.pack("<I", rng.choice((0, 2**31 - 1, 2**32 - 1, rng.getrandbits(32))))
        elif kind == 5 and len(changed) > 64:
            start = rng.randrange(len(changed) - 32)
            changed[at:at] = changed[start : start + rng.randint(1, 4096)]
        elif at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _position(rng: random.Random, length: int) -> int:
    part = rng.random()
    if part < 0.4:
        return rng.randrange(min(length, 512) + 1)
    if part < 0.6:
        return length - rng.randrange(min(length, 512) + 1)
    return rng.randrange(length + 1)


def mutated_lines(rng: random.Random, data: bytes) -> bytes:
    """JSON lines: some changed by structure, at times the bytes as a whole."""
    if rng.random() < 0.25:
        return mutated_bytes(rng, data)
    lines = data.splitlines()
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(lines))
        lines[at] = json_bytes(rng, mutated_json(rng, json.loads(lines[at]))) if lines[at][:1] in b"{[" else b"{}"
    return b"\n".join(lines) + b"\n"


def random_text(rng: random.Random, pieces: tuple[str, ...]) -> str:
    """Text of pieces that mean something to the code under test, among characters of every kind."""
    parts: list[str] = []
    for _ in range(rng.randint(0, 30)):
        kind = rng.random()
        if kind < 0.6:
            parts.append(rng.choice(pieces) * rng.choice((1, 1, 1, 1, 40, 2_000)))
        elif kind < 0.8:
            parts.append("".join(chr(rng.randrange(0x20, 0x2FFF)) for _ in range(rng.randint(1, 20))))
        else:
            parts.append(rng.choice(TEXTS))
    return "".join(parts)
