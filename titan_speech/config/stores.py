"""`[data.stores]`: names for stores and gold packs: recipes name what they read, one file says where it lies.

In: a configuration whose sources say `store = "raw_speech"`. Out: findings for names that nobody gave, and the
configuration with each name replaced by its place, which is what all else sees and what is saved with the run.

A word without / is a name as soon as there are names, so that a misspelt one is told and not looked for as a folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from titan_speech.config.problem import Finding, Origin, nearest_name
from titan_speech.config.schema import SpeechConfig


def check_stores(config: SpeechConfig) -> Iterator[Finding]:
    stores = config.data.stores
    for name, place in stores.items():
        key = f"data.stores.{name}"
        if not place:
            yield Finding((key,), "an empty path", "the folder of a token store or gold pack, or s3://bucket/prefix")
        elif "/" in name or place in stores:
            yield Finding((key,), f'"{place}"', "a name without / for a place that is no such name itself")
    for key, place in _uses(config):
        if stores and place and "/" not in place and place not in stores:
            expected = f"a name of [data.stores] ({', '.join(stores)}), or a path with a / (./{place})"
            yield Finding((key, "data.stores"), f'"{place}"', expected, nearest_name(place, stores))


def _uses(config: SpeechConfig) -> Iterator[tuple[str, str]]:
    """Keys that take a store or gold pack, with what they say."""
    for index, source in enumerate(config.data.source):
        yield f"data.source.{index}.store", source.store
    for index, place in enumerate(config.data.held_out):
        yield f"data.held_out.{index}", place


def with_places(config: SpeechConfig) -> SpeechConfig:
    """Names replaced by the places they stand for, after which nothing is named any more."""
    data, stores = config.data, config.data.stores
    source = tuple(replace(source, store=stores.get(source.store, source.store)) for source in data.source)
    held_out = tuple(stores.get(place, place) for place in data.held_out)
    return replace(config, data=replace(data, source=source, held_out=held_out, stores={}))


def place_origins(config: SpeechConfig, origins: Mapping[str, Origin]) -> dict[str, Origin]:
    """Where the place of each use was written: in [data.stores], if that is where it comes from."""
    named = {key: f"data.stores.{place}" for key, place in _uses(config) if place in config.data.stores}
    return {key: origins[name] for key, name in named.items() if name in origins}
