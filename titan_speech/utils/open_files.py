"""The limit of open files, raised as far as this user may; a process below what it needs stops with one message.

In: a number of files. Out: the soft limit of this process at its hard limit, at most 65,536, or an error before
anything is opened. Many systems start processes with a soft limit of 1,024 and a hard one of 524,288 or more.
"""

from __future__ import annotations

import resource

from titan_speech.errors import ConfigError

MOST = 65_536
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
    reachable = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft != resource.RLIM_INFINITY and soft < reachable:
        resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
    if reachable < needed:
        raise ConfigError(
            f"this process may open {hard} files at once (ulimit -Hn), expected at least {needed}; raise the limit "
            "(ulimit -n, LimitNOFILE of systemd, docker run --ulimit nofile=65536) and start again"
        )
