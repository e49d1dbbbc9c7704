"""The manifest of a store in object storage, and whether the objects it names are there.

In: an address. Out: the `Manifest` from one request, and from one listing (a request per 1,000 objects) the lines of
what is missing or has another size. The manifest is read anew each time: it is small (2 MB at 1,250 shards) and the one
object whose sha256 nothing else states; its own fingerprint guards it.
"""

from __future__ import annotations

from titan_speech.errors import DataError
from titan_speech.remote.client import Client
from titan_speech.remote.retry import MissingObjectError
from titan_speech.remote.url import S3Url
from titan_speech.store.files import size_problem
from titan_speech.store.manifest import MANIFEST_NAME, Manifest, manifest_of_text


def read_remote_manifest(client: Client, url: S3Url) -> Manifest:
    try:
        data = client.read(url.child(MANIFEST_NAME))
    except MissingObjectError as error:
        raise DataError(f"no token store at {url}: {MANIFEST_NAME} is missing; {_hint(client, url)}") from error
    return manifest_of_text(data, str(url.child(MANIFEST_NAME)))


def _hint(client: Client, url: S3Url) -> str:
    found = client.list_sizes(url)
    if not found:
        return "there are no objects below this prefix"
    stores = sorted(path.removesuffix(f"/{MANIFEST_NAME}") for path in found if path.endswith(f"/{MANIFEST_NAME}"))
    if stores:
        return f"stores below it: {', '.join(stores[:8])}"
    return f"{len(found)} other objects are there: its push was cut short, push it again"


def remote_size_problems(client: Client, url: S3Url, manifest: Manifest) -> list[str]:
    """One line for each object that is missing or has another size than the manifest says."""
    found = client.list_sizes(url)
    files = (file for part in manifest.parts for shard in part.shards for file in shard.files)
    return [problem for file in files for problem in size_problem(file, found.get(file.path))]
