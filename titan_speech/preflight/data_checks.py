"""Checks of what a run reads and where it is stored: sources, language rules, addresses of object storage.

In: a configuration. Out: findings. Only what the file says is checked here; whether limits can be met with what the
stores contain is decided by the mixture solver, which names the limits that contradict each other.

An address is s3://bucket/prefix, an endpoint the plain address of a server. Credentials in an address would be saved
with every run, so they are refused, and not repeated in the message.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import get_args
from urllib.parse import urlsplit

from titan_speech.config.problem import Finding, nearest_name
from titan_speech.config.sample_conditions import WhereError, parse_where
from titan_speech.config.schema import SpeechConfig
from titan_speech.config.schema_data import (
    OTHER_LANGUAGES,
    SHARE_TOLERANCE,
    DataConfig,
    LanguageRuleConfig,
    SourceConfig,
    TranscriptVariant,
)
from titan_speech.errors import DataError
from titan_speech.storage.s3_url import S3Url, is_s3

_NAME = re.compile(r"(?=.*[A-Za-z_])[\w-]+", re.ASCII)
_LABEL = re.compile(r"[\w.-]+", re.ASCII)
_TEXT_TASKS = ("text", "instruction")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")


def check_data(config: SpeechConfig) -> Iterator[Finding]:
    if not _LABEL.fullmatch(config.data.phase):
        yield Finding(("data.phase",), f'"{config.data.phase}"', "a label of letters, digits, _, . and -")
    yield from check_sources(config.data)
    yield from check_rules(config.data)


def check_sources(data: DataConfig) -> Iterator[Finding]:
    if not data.source:
        yield Finding(("data.source",), "none", "at least one [[data.source]] table")
        return
    yield from _check_shares(data)
    yield from _check_names(data)
    for index, source in enumerate(data.source):
        yield from _check_source(source, f"data.source.{index}")


def _check_shares(data: DataConfig) -> Iterator[Finding]:
    total = sum(source.share for source in data.source)
    if abs(total - 1) > SHARE_TOLERANCE:
        parts = " + ".join(f"{source.share:g}" for source in data.source)
        keys = tuple(f"data.source.{i}.share" for i in range(len(data.source)))
        yield Finding(keys, f"shares that add up to {total:.6g} ({parts})", "shares that add up to 1")


def _check_names(data: DataConfig) -> Iterator[Finding]:
    seen: dict[str, int] = {}
    for index, source in enumerate(data.source):
        key = f"data.source.{index}.name"
        if not _NAME.fullmatch(source.name):
            expected = "letters, digits, _ and -, not only digits (a flag's digits are an index)"
            yield Finding((key,), f'"{source.name}"', expected)
        elif source.name in seen:
            other = f"data.source.{seen[source.name]}.name"
            yield Finding((key, other), f'"{source.name}" again', f"a name unlike that of {other}")
        seen.setdefault(source.name, index)


def _check_augment(source: SourceConfig, key: str) -> Iterator[Finding]:
    if not source.augment:
        return
    variants = get_args(TranscriptVariant)
    if source.task not in ("tts", "clone"):
        keys = (f"{key}.augment", f"{key}.task")
        yield Finding(
            keys, f"other transcripts of task {source.task}", "task tts or clone; the answers of a pair have one"
        )
    for variant in source.augment:
        if variant not in variants:
            yield Finding(
                (f"{key}.augment",), f'"{variant}"', f"one of {', '.join(variants)}", nearest_name(variant, variants)
            )
        elif variant == source.transcript:
            keys = (f"{key}.augment", f"{key}.transcript")
            yield Finding(
                keys, f'"{variant}" twice', "another variant than the transcript, which all other samples have"
            )
    if (total := sum(source.augment.values())) > 1:
        yield Finding((f"{key}.augment",), f"shares that add up to {total:g}", "at most 1")


def _check_source(source: SourceConfig, key: str) -> Iterator[Finding]:
    if source.stitch_gap_sec is not None and source.task != "speech":
        keys = (f"{key}.stitch_gap_sec", f"{key}.task")
        yield Finding(keys, f"stitching of task {source.task}", "task speech; other tasks read segments one by one")
    yield from _check_augment(source, key)
    if not source.store:
        yield Finding((f"{key}.store",), "an empty path", "the folder of a token store")
    for index, language in enumerate(source.languages):
        yield from _check_language(language, f"{key}.languages.{index}")
    if source.where:
        yield from _check_where(source, key)


def _check_where(source: SourceConfig, key: str) -> Iterator[Finding]:
    """Its form; whether a store has the columns shows when it is opened."""
    if source.task in _TEXT_TASKS:
        keys = (f"{key}.where", f"{key}.task")
        yield Finding(keys, f"where of task {source.task}", "no where: it is about samples of speech")
    try:
        parse_where(source.where)
    except WhereError as error:
        yield Finding((f"{key}.where",), error.found, error.expected)


def _check_language(language: str, key: str) -> Iterator[Finding]:
    if not _LANGUAGE.fullmatch(language):
        yield Finding((key,), f'"{language}"', "a language tag such as hi, en or pa-Arab")


def check_rules(data: DataConfig) -> Iterator[Finding]:
    names = [source.name for source in data.source]
    for index, rule in enumerate(data.language_rule):
        key = f"data.language_rule.{index}"
        yield from _check_rule_sources(rule, key, names)
        yield from _check_limits(rule, key)
    yield from _check_alpha_once(data, names)


def _check_rule_sources(rule: LanguageRuleConfig, key: str, names: list[str]) -> Iterator[Finding]:
    name_keys = tuple(f"data.source.{i}.name" for i in range(len(names)))
    for index, name in enumerate(rule.sources):
        if names and name not in names:
            expected = "the name of a source: " + ", ".join(names)
            keys = (f"{key}.sources.{index}", *name_keys)
            yield Finding(keys, f'"{name}"', expected, nearest_name(name, names))


def _check_alpha_once(data: DataConfig, names: list[str]) -> Iterator[Finding]:
    """A source has at most one sampling temperature, however the pools of the rules overlap."""
    first: dict[str, int] = {}
    for index, rule in enumerate(data.language_rule):
        if rule.alpha is None:
            continue
        pool = rule.sources or tuple(names)
        twice = [name for name in pool if name in first]
        if twice:
            keys = (f"data.language_rule.{index}.alpha", f"data.language_rule.{first[twice[0]]}.alpha")
            found = f"a second alpha for {', '.join(twice)}"
            yield Finding(keys, found, f"alpha from one rule only (it is also in {keys[1]})")
        first.update({name: index for name in pool if name not in first})


def _check_limits(rule: LanguageRuleConfig, key: str) -> Iterator[Finding]:
    for kind, limits in (("floor", rule.floor), ("cap", rule.cap), ("pin", rule.pin)):
        yield from _check_each_limit(limits, kind, f"{key}.{kind}")
    yield from _check_floor_and_cap(rule, key)
    yield from _check_pins(rule, key)
    yield from _check_sum(rule, key)


def _check_sum(rule: LanguageRuleConfig, key: str) -> Iterator[Finding]:
    """Pins, and the floors of languages that are not pinned, must fit into the pool."""
    floors = {name: share for name, share in rule.floor.items() if name not in rule.pin and name != OTHER_LANGUAGES}
    limits = [*rule.pin.values(), *floors.values()]
    if all(0 <= share <= 1 for share in limits) and sum(limits) > 1 + SHARE_TOLERANCE:
        parts = [kind for kind, shares in (("pin", rule.pin), ("floor", floors)) if shares]
        found = f"{' and '.join(f'{part}s' for part in parts)} that add up to {sum(limits):g}"
        yield Finding(tuple(f"{key}.{part}" for part in parts), found, "at most 1, the whole pool")


def _check_each_limit(limits: Mapping[str, float], kind: str, key: str) -> Iterator[Finding]:
    for language in limits:
        inner = f"{key}.{language}"
        if kind == "pin" and language == OTHER_LANGUAGES:
            yield Finding((inner,), f'"{OTHER_LANGUAGES}"', "a language; only floors and caps may be for all others")
        elif language != OTHER_LANGUAGES:
            yield from _check_language(language, inner)


def _check_floor_and_cap(rule: LanguageRuleConfig, key: str) -> Iterator[Finding]:
    for language in dict.fromkeys((*rule.floor, *rule.cap)):
        if language in rule.pin:
            continue
        low = language if language in rule.floor else OTHER_LANGUAGES
        high = language if language in rule.cap else OTHER_LANGUAGES
        floor, cap = rule.floor.get(low), rule.cap.get(high)
        if floor is not None and cap is not None and floor > cap:
            keys = (f"{key}.floor.{low}", f"{key}.cap.{high}")
            yield Finding(keys, f"a floor of {floor:g}", f"at most the cap of {cap:g} ({keys[1]})")


def _check_pins(rule: LanguageRuleConfig, key: str) -> Iterator[Finding]:
    """A pin is the share, so a floor or cap that names the same language must allow it."""
    for language, share in rule.pin.items():
        floor, cap = rule.floor.get(language), rule.cap.get(language)
        keys = (f"{key}.pin.{language}", f"{key}.floor.{language}", f"{key}.cap.{language}")
        if floor is not None and share < floor:
            yield Finding(keys, f"{share:g}", f"at least its floor of {floor:g} ({keys[1]})")
        if cap is not None and share > cap:
            yield Finding(keys, f"{share:g}", f"at most its cap of {cap:g} ({keys[2]})")


_ENDPOINT = "storage.endpoint_url"
_CREDENTIALS = "credentials in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) or in AWS_PROFILE"


def check_storage(config: SpeechConfig) -> Iterator[Finding]:
    for name, path in config.data.stores.items():
        yield from _check_address(path, f"data.stores.{name}", "a token store or held-out set")
    for index, source in enumerate(config.data.source):
        yield from _check_address(source.store, f"data.source.{index}.store", "a token store")
    for index, path in enumerate(config.data.held_out):
        yield from _check_address(path, f"data.held_out.{index}", "a held-out set")
    yield from _check_address(config.stage.from_, "stage.from", "a run or a checkpoint")
    yield from _check_address(config.checkpoint.initial_load_path, "checkpoint.initial_load_path", "a checkpoint")
    yield from _check_upload(config)
    if config.storage.endpoint_url:
        yield from _check_endpoint(config.storage.endpoint_url)


def _check_address(path: str, key: str, what: str) -> Iterator[Finding]:
    scheme, is_address, rest = path.partition("://")
    if is_address and "@" in rest.partition("/")[0]:
        yield Finding((key,), "a name or password in the address", f"s3://bucket/prefix, and {_CREDENTIALS}")
    elif is_s3(path) and not is_address:
        yield Finding((key,), f'"{path}"', "s3://bucket/prefix", f"s3://{path.partition(':')[2].lstrip('/')}")
    elif is_s3(path):
        try:
            S3Url.parse(path)
        except DataError:
            expected = 's3://bucket/prefix, a bucket of 3 to 63 letters, digits, . and -, no empty part, "." or ".."'
            yield Finding((key,), f'"{path}"', expected)
    elif is_address:
        expected = f"the folder of {what}, or s3://bucket/prefix" if what else "s3://bucket/prefix"
        nearest = f"s3://{rest}" if scheme.lower() in ("s3", "s3a", "s3n", "r2") else None
        yield Finding((key,), f'"{path}"', expected, nearest)


def _check_upload(config: SpeechConfig) -> Iterator[Finding]:
    to = config.upload.to
    if to and not is_s3(to) and "://" not in to:
        yield Finding(("upload.to",), f'"{to}"', "s3://bucket/prefix of this run, or empty")
    else:
        yield from _check_address(to, "upload.to", "")
    if to and not config.checkpoint.enable:
        yield Finding(("checkpoint.enable", "upload.to"), "false with upload.to", "true: there is nothing to upload")


def _check_endpoint(endpoint_url: str) -> Iterator[Finding]:
    expected = "https://host or https://host:port"
    try:
        parts = urlsplit(endpoint_url)
        is_server = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        yield Finding((_ENDPOINT,), "an address that cannot be read", expected)
        return
    if parts.username is not None or parts.password is not None or parts.query:
        found = "a name, password or signature in the address"
        yield Finding((_ENDPOINT,), found, f"{expected}, and {_CREDENTIALS}")
    elif not is_server:
        yield Finding((_ENDPOINT,), f'"{endpoint_url}"', expected)
