"""An address for people: `titan-speech checkpoint list s3://bucket/prefix`.

In: an address. Out: text: what is complete there, and what lies there without counting.
"""

from __future__ import annotations

from titan_speech.checkpoint.table import size_text, table_lines
from titan_speech.checkpoint.upload.left_over import left_overs
from titan_speech.checkpoint.upload.prefix import Prefix
from titan_speech.config.tables import StorageTable
from titan_speech.errors import CheckpointError
from titan_speech.remote.client import client_of
from titan_speech.remote.url import S3Url

HEADER = ("name", "kind", "files", "size")


def address_text(place: str, storage: StorageTable) -> str:
    """A line a checkpoint, and what else lies there.

    Raises:
        CheckpointError: there is nothing of a run.
        DataError: the server cannot be reached.
    """
    prefix = Prefix(client_of(storage), S3Url.parse(place))
    complete = [prefix.read(name) for name in prefix.names()]
    rest = left_overs(prefix)
    if not complete and not rest and prefix.run_id() is None:
        raise CheckpointError(f"{place}: no checkpoints there; expected the upload.to of a run")
    rows = [(one.name, one.kind, str(len(one.files)), size_text(one.num_bytes)) for one in complete]
    lines = table_lines([HEADER, *rows]) if rows else ["no complete checkpoint"]
    lines += [f"not complete: {one}: on its way now, or left by an upload that was stopped" for one in rest]
    return "\n".join(lines)
