"""Addresses of object storage, before anything is asked of it.

In: the configuration. Out: findings for stores, gold packs and checkpoints whose address is no s3://bucket/prefix, and
for an endpoint that is no plain address of a server. Credentials in an address would be saved with every run, so they
are refused, and not repeated.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from titan_speech.config.finding import Finding
from titan_speech.config.tables import SpeechConfig
from titan_speech.errors import DataError
from titan_speech.remote.url import S3Url, is_s3

ENDPOINT_KEY = "storage.endpoint_url"
_FROM_ENVIRONMENT = "credentials in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) or in AWS_PROFILE"


def check_storage(config: SpeechConfig) -> Iterator[Finding]:
    for name, place in config.data.stores.items():
        yield from _check_place(place, f"data.stores.{name}", "a token store or gold pack")
    for index, source in enumerate(config.data.source):
        yield from _check_place(source.store, f"data.source.{index}.store", "a token store")
    for index, place in enumerate(config.data.held_out):
        yield from _check_place(place, f"data.held_out.{index}", "a gold pack")
    yield from _check_place(config.stage.from_, "stage.from", "a run or a checkpoint")
    yield from _check_place(config.checkpoint.initial_load_path, "checkpoint.initial_load_path", "a checkpoint")
    yield from _check_upload(config)
    if config.storage.endpoint_url:
        yield from _check_endpoint(config.storage.endpoint_url)


def _check_place(place: str, key: str, what: str) -> Iterator[Finding]:
    scheme, is_address, rest = place.partition("://")
    if is_address and "@" in rest.partition("/")[0]:
        yield Finding((key,), "a name or password in the address", f"s3://bucket/prefix, and {_FROM_ENVIRONMENT}")
    elif is_s3(place) and not is_address:
        yield Finding((key,), f'"{place}"', "s3://bucket/prefix", f"s3://{place.partition(':')[2].lstrip('/')}")
    elif is_s3(place):
        try:
            S3Url.parse(place)
        except DataError:
            expected = 's3://bucket/prefix, a bucket of 3 to 63 letters, digits, . and -, no empty part, "." or ".."'
            yield Finding((key,), f'"{place}"', expected)
    elif is_address:
        expected = f"the folder of {what}, or s3://bucket/prefix" if what else "s3://bucket/prefix"
        nearest = f"s3://{rest}" if scheme.lower() in ("s3", "s3a", "s3n", "r2") else None
        yield Finding((key,), f'"{place}"', expected, nearest)


def _check_upload(config: SpeechConfig) -> Iterator[Finding]:
    to = config.upload.to
    if to and not is_s3(to) and "://" not in to:
        yield Finding(("upload.to",), f'"{to}"', "s3://bucket/prefix of this run, or empty")
    else:
        yield from _check_place(to, "upload.to", "")
    if to and not config.checkpoint.enable:
        yield Finding(("checkpoint.enable", "upload.to"), "false with upload.to", "true: there is nothing to upload")


def _check_endpoint(endpoint_url: str) -> Iterator[Finding]:
    expected = "https://host or https://host:port"
    try:
        parts = urlsplit(endpoint_url)
        is_server = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        yield Finding((ENDPOINT_KEY,), "an address that cannot be read", expected)
        return
    if parts.username is not None or parts.password is not None or parts.query:
        found = "a name, password or signature in the address"
        yield Finding((ENDPOINT_KEY,), found, f"{expected}, and {_FROM_ENVIRONMENT}")
    elif not is_server:
        yield Finding((ENDPOINT_KEY,), f'"{endpoint_url}"', expected)
