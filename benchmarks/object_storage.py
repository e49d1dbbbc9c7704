"""A store read from object storage against plain requests and against a local store; JSON on stdout.

    python -m benchmarks.object_storage [--megabytes 200] [--repeats 3] [--connections 16]

In: nothing; a store of random speech codes is made here and pushed to a SeaweedFS server on loopback. Out, as medians
of the repeats, which take turns:

    get_mb_per_sec       boto3 alone, all objects at once, bytes dropped as they come
    stored_mb_per_sec    the same with every object written to a file
    download_mb_per_sec  boto3's own download_file (s3transfer, parallel ranges), all objects at once
    fetch_mb_per_sec     the same objects into an empty cache: ranges, checksum, flushed to disk
    cold_mb_per_sec      plan and first epoch of packs through the loader, from an empty cache
    local_cold_mb_per_sec  plan and first epoch over the folder: what reading costs without any network
    warm_mb_per_sec      second epochs of both loaders, a twentieth of one and a twentieth of the other in turns
    local_mb_per_sec

and the ratios, which are comparable between machines. Server, requests and reading share the machine's cores, so `cold`
is bounded by both the network's time and the reader's: `cold_to_get_or_local` compares it with the slower of the two.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import islice
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any

import boto3.session
import numpy as np
import xxhash
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

from benchmarks import machine
from benchmarks.large_store import speech_lengths
from benchmarks.planning import TOKENIZER, config_of
from tests.support.s3_server import BUCKET, S3Server, credentials, running_server
from titan_speech.config.schema import SpeechConfig
from titan_speech.config.schema_data import StorageConfig
from titan_speech.data.loader import SpeechDataLoader
from titan_speech.data.plan import DataPlan
from titan_speech.storage.cache import ObjectCache
from titan_speech.storage.download import RemoteFile
from titan_speech.storage.s3 import client_of
from titan_speech.storage.s3_url import S3Url
from titan_speech.store.manifest import CodecInfo, Manifest
from titan_speech.store.manifest_reader import read_manifest
from titan_speech.store.sample import SampleInfo
from titan_speech.store.transfer import push_store
from titan_speech.store.writer import StoreWriter
from titan_speech.tokenization.text_tokenizer import TextTokenizer

BATCH_PACKS = 8
SLICES = 20
URL = S3Url(BUCKET, "random")


def build_store(path: Path, num_bytes: int, shard_bytes: int) -> Manifest:
    rng = np.random.default_rng(1)
    lengths = speech_lengths(num_bytes // 900)
    with StoreWriter(
        path,
        name="random",
        codec=CodecInfo("random", "0" * 16),
        tokenizer=TextTokenizer.load(TOKENIZER),
        normalization_version="1",
        licence="CC0-1.0",
        shard_bytes=shard_bytes,
    ) as writer:
        for i, length in enumerate(lengths[: int(np.searchsorted(np.cumsum(lengths), num_bytes // 2))].tolist()):
            codes = rng.integers(0, 65_536, length, dtype=np.uint16)
            writer.add_speech(SampleInfo(sample_id=f"s{i}", dataset_source="random", language="en"), codes)
    return read_manifest(path)


def get_all(server: S3Server, keys: list[str], num_connections: int, folder: Path | None = None) -> None:
    """Plain requests of boto3, largest objects first; into files where a folder is given."""
    config = Config(max_pool_connections=num_connections, response_checksum_validation="when_required")
    client = boto3.session.Session().client("s3", endpoint_url=server.endpoint_url, config=config)

    def get(key: str) -> None:
        with open(folder / key.replace("/", "-") if folder else os.devnull, "wb") as file:
            for chunk in client.get_object(Bucket=BUCKET, Key=key)["Body"].iter_chunks(1 << 20):
                file.write(chunk)

    with ThreadPoolExecutor(num_connections) as pool:
        list(pool.map(get, keys))


def download_all(server: S3Server, keys: list[str], num_connections: int, folder: Path) -> None:
    """boto3's `download_file` into a folder: what a node without a cache would do."""
    config = Config(max_pool_connections=num_connections, response_checksum_validation="when_required")
    client = boto3.session.Session().client("s3", endpoint_url=server.endpoint_url, config=config)
    transfer = TransferConfig(max_concurrency=num_connections)
    with ThreadPoolExecutor(num_connections) as pool:
        list(
            pool.map(
                lambda key: client.download_file(BUCKET, key, str(folder / key.replace("/", "-")), Config=transfer),
                keys,
            )
        )


def batches_of(config: SpeechConfig) -> tuple[SpeechDataLoader, int]:
    """A loader and how many batches an epoch has."""
    plan = DataPlan.load(config)
    loader = SpeechDataLoader.Config(plan=plan, packs_per_step=8 * BATCH_PACKS).build(
        dp_world_size=1, dp_rank=0, local_batch_size=BATCH_PACKS
    )
    return loader, ceil(plan.streams[0].stream.counts.num_packs / BATCH_PACKS)


def seconds(run: Callable[[], Any]) -> float:
    """Seconds, measured after the writes of earlier runs are flushed."""
    os.sync()
    return machine.seconds(run)


def read_twice(local: SpeechConfig, remote: SpeechConfig) -> dict[str, float]:
    """Seconds of the first epoch of each, from before the plan, and of second epochs in turns."""
    with ExitStack() as stack:
        found: dict[str, float] = {}
        batches: dict[str, Iterator[Any]] = {}
        num_batches = 0
        for name, first, config in (("warm", "cold", remote), ("local", "local_cold", local)):
            began = time.perf_counter()
            loader, num_batches = batches_of(config)
            batches[name] = iter(stack.enter_context(closing(loader)))
            deque(islice(batches[name], num_batches), maxlen=0)
            found |= {first: time.perf_counter() - began, name: 0.0}
        for _ in range(SLICES):
            for name in batches:
                found[name] += seconds(lambda name=name: deque(islice(batches[name], num_batches // SLICES), maxlen=0))
    return found


def turn(server: S3Server, folder: Path, manifest: Manifest, settings: StorageConfig) -> dict[str, float]:
    """Seconds of each kind of reading, once."""
    files = manifest.files
    keys = [URL.child(file.path).key for file in sorted(files, key=lambda file: -file.num_bytes)]
    inner = Path(tempfile.mkdtemp(dir=folder))  # a process knows a cache by its path
    plain, downloaded, cache = inner / "plain", inner / "downloaded", inner / "cache"
    plain.mkdir()
    downloaded.mkdir()
    found = {"get": seconds(lambda: get_all(server, keys, settings.num_connections))}
    found["stored"] = seconds(lambda: get_all(server, keys, settings.num_connections, plain))
    found["download"] = seconds(lambda: download_all(server, keys, settings.num_connections, downloaded))
    settings = replace(settings, cache_dir=str(cache))
    remote = [RemoteFile(URL.child(file.path), file.num_bytes, file.sha256, file.xxh3_128) for file in files]
    found["fetch"] = seconds(lambda: ObjectCache(client_of(settings), settings).fetch_all(remote))
    local_config = config_of(folder / "store", "speech")
    source = replace(local_config.data.source[0], store=str(URL))
    data = replace(local_config.data, source=(source,))
    found |= read_twice(
        local_config, replace(local_config, data=data, storage=replace(settings, cache_dir=str(inner / "other-cache")))
    )
    shutil.rmtree(inner)
    return found


def figures(folder: Path, args: argparse.Namespace) -> dict[str, float]:
    os.environ |= credentials()
    with running_server(folder) as server:
        manifest = build_store(folder / "store", args.megabytes * 1_000_000, args.shard_megabytes * 1_000_000)
        settings = server.settings(folder / "cache", num_connections=args.connections, timeout_sec=30.0, cache_gb=10.0)
        push_store(folder / "store", URL, settings)
        get_all(server, [URL.child(file.path).key for file in manifest.files], args.connections)  # fills its memory
        turns = [turn(server, folder, manifest, settings) for _ in range(args.repeats)]
    num_mb = sum(file.num_bytes for file in manifest.files) / 1e6
    rates = {f"{name}_mb_per_sec": num_mb / median(one[name] for one in turns) for name in turns[0]}
    data = os.urandom(1 << 20)
    for name, digest in (("sha256", hashlib.sha256), ("xxh3", xxhash.xxh3_128)):
        spent_sec = seconds(lambda digest=digest: [digest(data).digest() for _ in range(100)])
        rates[f"{name}_mb_per_sec"] = 100 * 1.048576 / spent_sec

    def ratio(of: str, *to: str) -> float:
        return median(max(one[name] for name in to) / one[of] for one in turns)

    return {"megabytes": num_mb, "objects": len(manifest.files), **rates} | {
        "fetch_to_get": ratio("fetch", "get"),
        "fetch_to_stored": ratio("fetch", "stored"),
        "fetch_to_download": ratio("fetch", "download"),
        "cold_to_get": ratio("cold", "get"),
        "cold_to_get_or_local": ratio("cold", "get", "local_cold"),
        "warm_to_local": ratio("warm", "local"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=200, help="size of the store (default: 200)")
    parser.add_argument("--shard-megabytes", type=int, default=16, help="size of its shards (default: 16)")
    parser.add_argument("--repeats", type=int, default=3, help="turns, of which the median counts (default: 3)")
    parser.add_argument("--connections", type=int, default=16, help="requests at once (default: 16)")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*set_vital.*")
    with tempfile.TemporaryDirectory() as folder:
        found = figures(Path(folder), args)
    about = {"device": platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()[0]}
    about["commit"] = machine.git_revision()
    print(json.dumps({**about, **{name: round(value, 3) for name, value in found.items()}}, indent=1))


if __name__ == "__main__":
    main()
