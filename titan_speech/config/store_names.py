"""`[data.stores]`: names of token stores and held-out sets, so that recipes use names and one file has the paths.

In: a configuration whose sources say `store = "raw_speech"`. Out: findings for names that are not defined, and the
configuration with each name replaced by its path, which is what everything else sees and what is saved with the run.

As soon as names are defined, a word without / is a name; a misspelt one is reported and not looked for as a folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from titan_speech.config.problem import Finding, Origin, nearest_name
from titan_speech.config.schema import SpeechConfig


def check_store_names(config: SpeechConfig) -> Iterator[Finding]:
    stores = config.data.stores
    for name, path in stores.items():
        key = f"data.stores.{name}"
        if not path:
            yield Finding((key,), "an empty path", "the folder of a token store or held-out set, or s3://bucket/prefix")
        elif "/" in name or path in stores:
            yield Finding((key,), f'"{path}"', "a name without /, for a path that is not itself such a name")
    for key, path in _uses(config):
        if stores and path and "/" not in path and path not in stores:
            expected = f"a name of [data.stores] ({', '.join(stores)}), or a path with a / (./{path})"
            yield Finding((key, "data.stores"), f'"{path}"', expected, nearest_name(path, stores))


def _uses(config: SpeechConfig) -> Iterator[tuple[str, str]]:
    """Key and value of every setting that is a token store or a held-out set."""
    for index, source in enumerate(config.data.source):
        yield f"data.source.{index}.store", source.store
    for index, path in enumerate(config.data.held_out):
        yield f"data.held_out.{index}", path


def resolve_store_names(config: SpeechConfig) -> SpeechConfig:
    """The configuration with every name replaced by its path; `data.stores` is then empty."""
    data, stores = config.data, config.data.stores
    source = tuple(replace(source, store=stores.get(source.store, source.store)) for source in data.source)
    held_out = tuple(stores.get(path, path) for path in data.held_out)
    return replace(config, data=replace(data, source=source, held_out=held_out, stores={}))


def store_path_origins(config: SpeechConfig, origins: Mapping[str, Origin]) -> dict[str, Origin]:
    """For each setting that uses a name, where the path of that name was written."""
    named = {key: f"data.stores.{path}" for key, path in _uses(config) if path in config.data.stores}
    return {key: origins[name] for key, name in named.items() if name in origins}
