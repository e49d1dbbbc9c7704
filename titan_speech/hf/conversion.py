"""conversion.json: where a folder that was moved between vocabularies came from.

In: the folder a model was read from, and the layout of the other side. Out: a record beside the moved weights, in
either direction. What the source said of itself is carried along, so that a model that goes there and back still names
the run it is from.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from titan_speech.checkpoint.provenance import package_versions, source_revision
from titan_speech.errors import ModelError
from titan_speech.hf.expand import is_expanded, read_expansion
from titan_speech.hf.folder import read_json
from titan_speech.hf.writer import write_json

FILE_NAME = "conversion.json"


@dataclass(frozen=True)
class Conversion:
    """Goes with the weights."""

    direction: Literal["to", "from"]
    """Whether `layout` is that of this folder or of the one it was made from."""
    layout: str
    source: str
    """Name of the folder, without those of the machine."""
    source_sha256: str
    """Of the source's weights, tensor by tensor in the order of the architecture."""
    origin: str
    """What the source said of itself; empty where it said nothing."""
    versions: tuple[str, ...]
    """Packages that converted it."""
    source_revision: str
    """Revision of titan_speech; empty where it was installed."""

    @classmethod
    def of(cls, direction: Literal["to", "from"], layout: str, source: Path, source_sha256: str) -> Conversion:
        name = source.absolute().name
        return cls(direction, layout, name, source_sha256, _origin(source), package_versions(), source_revision())

    def write(self, folder: Path) -> None:
        write_json(folder / FILE_NAME, asdict(self))


def _origin(source: Path) -> str:
    if is_expanded(source):
        return str(read_expansion(source))
    if not (source / FILE_NAME).is_file():
        return ""
    found = read_json(source / FILE_NAME, "a converted model folder").get("origin")
    if not isinstance(found, str):
        raise ModelError(f"{source / FILE_NAME} is damaged: origin is {found!r}, expected a text; remove the file")
    return found
