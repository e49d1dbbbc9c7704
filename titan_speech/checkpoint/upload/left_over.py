"""What uploads that were stopped left at an address, and no checkpoint there counts with.

In: an address, and the checkpoints the run still has. Out: objects and unfinished uploads of the others: their machine
went away, or retention deleted them before they were complete. Young ones may be on their way from another node, so
only what is older than a day is removed. Nothing a manifest names is touched, nor what a rollback left (`left/`).
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Collection
from dataclasses import dataclass

from titan_speech.checkpoint.upload.manifest import manifest_of_text
from titan_speech.checkpoint.upload.prefix import LEFT, Prefix
from titan_speech.remote.client import UnfinishedUpload

logger = logging.getLogger(__name__)

OLD_SEC = 86_400.0
_OF_STEP = re.compile(r"(?:(step-\d+)/.+|(?:provenance|data_phases)/(step-\d+)\.json)")


@dataclass(frozen=True)
class LeftOver:
    """What of one checkpoint lies at the address without counting."""

    name: str
    paths: tuple[str, ...]
    num_bytes: int
    """Of whole objects; parts are not listed."""

    unfinished: tuple[UnfinishedUpload, ...]
    newest_unix_sec: float

    def __str__(self) -> str:
        unfinished = f", {len(self.unfinished)} unfinished uploads" if self.unfinished else ""
        return f"{self.name} ({len(self.paths)} objects, {self.num_bytes / 1e6:,.1f} MB{unfinished})"


def left_overs(prefix: Prefix) -> list[LeftOver]:
    """By rising step; a checkpoint that is being sent looks the same, but for its age."""
    named = _named(prefix)
    objects = {path: one for path, one in prefix.client.list_objects(prefix.url).items() if path not in named}
    unfinished = prefix.client.list_unfinished(prefix.url)
    names = {_step_name(path) for path in (*objects, *(one.path for one in unfinished))} - {""}
    found = []
    for name in sorted(names, key=lambda name: int(name.removeprefix("step-"))):
        paths = tuple(path for path in objects if _step_name(path) == name)
        begun = tuple(one for one in unfinished if _step_name(one.path) == name)
        times = [*(objects[path].written_unix_sec for path in paths), *(one.begun_unix_sec for one in begun)]
        found.append(LeftOver(name, paths, sum(objects[path].num_bytes for path in paths), begun, max(times)))
    return found


def remove_left_overs(prefix: Prefix, keep: Collection[str], older_than_sec: float = OLD_SEC) -> list[str]:
    """But for those of the checkpoints in `keep`; names of what was removed."""
    last_unix_sec = time.time() - older_than_sec
    old = [one for one in left_overs(prefix) if one.name not in keep and one.newest_unix_sec <= last_unix_sec]
    for one in old:
        for upload in one.unfinished:
            prefix.client.abandon_parts(prefix.url.child(upload.path), upload.upload_id)
        prefix.delete_files(one.paths)
        logger.warning("%s was never complete at %s and is not here any more; it was removed there", one, prefix.url)
    return [one.name for one in old]


def _named(prefix: Prefix) -> set[str]:
    """Objects of what counts, and of what counted until a rollback."""
    files = {file.path for name in prefix.names() for file in prefix.read(name).files}
    for path in prefix.client.list_sizes(prefix.url.child(LEFT)):
        url = prefix.url.child(f"{LEFT}/{path}")
        files |= {file.path for file in manifest_of_text(prefix.client.read(url), str(url)).files}
    return files


def _step_name(path: str) -> str:
    """The checkpoint an object belongs to; empty for others."""
    match = _OF_STEP.fullmatch(path)
    return (match[1] or match[2]) if match else ""
