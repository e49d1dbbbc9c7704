"""What a check found, before it is known where that was written."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """`keys` are all the keys the check read, the one to blame first (`data.source.0.share`)."""

    keys: tuple[str, ...]
    found: str
    expected: str
    nearest: str | None = None

    def __str__(self) -> str:
        hint = f"; did you mean {self.nearest}?" if self.nearest else ""
        return f"{self.keys[0]}: found {self.found}; expected {self.expected}{hint}"
