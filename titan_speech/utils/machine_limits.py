"""What this process may still take: memory of the machine and of its container, and open files.

In: what Linux says of both. Out: bytes; the limit of open files, raised as far as this user may, or an error before
anything is opened. A container's limit (cgroup v2) does not show in /proc/meminfo, and a process that exceeds it is
killed without a message; cached files count as free, since the kernel drops them. Many systems start processes with a
soft limit of 1,024 open files and a hard one of 524,288 or more.
"""

from __future__ import annotations

import resource
from pathlib import Path

from titan_speech.errors import ConfigError

MEMINFO, MEMBERSHIP, CGROUPS = Path("/proc/meminfo"), Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def available_bytes() -> int | None:
    """Memory that this process may still take; None where the system does not say."""
    of_machine = _numbers(MEMINFO, ":").get("MemAvailable")
    found = [] if of_machine is None else [of_machine * 1024]
    return min([*found, *_of_containers(CGROUPS, MEMBERSHIP)], default=None)


def _of_containers(cgroups: Path, membership: Path) -> list[int]:
    """What is left of the limit of the process's group and of each group above it."""
    try:
        line = next(line for line in membership.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return []
    group = cgroups / line.removeprefix("0::").lstrip("/")
    left = []
    for folder in (group, *group.parents):
        if cgroups not in (folder, *folder.parents):
            break
        limit, used = _number(folder / "memory.max"), _number(folder / "memory.current")
        if limit is not None and used is not None:
            cached = _numbers(folder / "memory.stat", " ")
            left.append(max(limit - used + cached.get("inactive_file", 0) + cached.get("active_file", 0), 0))
    return left


def _number(file: Path) -> int | None:
    """The number in a file; None where there is no file, or no limit (`max`)."""
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _numbers(file: Path, separator: str) -> dict[str, int]:
    """The first number after each name."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.partition(separator)[::2] for line in lines)
    return {name: int(words[0]) for name, rest in pairs if (words := rest.split()) and words[0].isdecimal()}


MOST_OPEN_FILES = 65_536
FILES_OF_A_RUN = 256
"""A run of one process has some 30 open; connections to other ranks and to object storage, and workers, come on top."""


def ensure_open_files(needed: int) -> None:
    """Raise the soft limit.

    Args:
        needed: files, sockets and pipes that this process has open at once.

    Raises:
        ConfigError: the hard limit is lower.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    reachable = MOST_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < reachable:
        resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
    if reachable < needed:
        raise ConfigError(
            f"this process may open {hard} files at once (ulimit -Hn), expected at least {needed}; raise the limit "
            "(ulimit -n, LimitNOFILE of systemd, docker run --ulimit nofile=65536) and start again"
        )
