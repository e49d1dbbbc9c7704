"""Building a store from what a team has: parallel, restartable, the same bytes however it went.

inputs --> units         named by the format                         format.py
             |  each imported by one process to sorted runs          work.py, store/write/spill.py
             v
           checks        over all samples: duplicates, segment order store/write/conflicts.py
             |  each shard cut by one process from all runs          work.py, store/write/cut.py
             v
           manifest      written last, then the store is renamed into place

In: `BuildRequest`. Out: the manifest of a store at `output`. A build that is killed continues when it is asked for
again. Bad input is told whole: every unit is checked before anything is refused.

A build whose output is object storage: made in a local folder, then sent, manifest last.

In: a request and an address. Out: the store at s3://, and nothing left here. The bucket is looked into before the build
begins, so that wrong credentials do not show hours later; a build or a push that was killed goes on where it stopped
when the same command is run again. The local folder needs room for the store and its spills.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from titan_speech.config.schema_data import StorageConfig
from titan_speech.errors import DataError
from titan_speech.importers.base import (
    Importer,
    ImportOptions,
    KnowsCodec,
    KnowsNormalization,
    Unit,
    open_importer,
    speech_importers,
)
from titan_speech.importers.build_folder import UNIT_PROBLEM, BuildFolder, BuildSettings, UnitRecord, digest_of
from titan_speech.importers.build_workers import BuildProgress, CutWork, ImportWork, UnitTask, run_all
from titan_speech.storage.s3 import client_of
from titan_speech.storage.s3_url import S3Url
from titan_speech.store.external_sort import Recipe, Run
from titan_speech.store.manifest import MANIFEST_NAME, CodecInfo, Manifest, ShardInfo, TokenizerInfo, read_manifest
from titan_speech.store.sample import Found, Problems, merge_problems
from titan_speech.store.shard_writer import ShardJob, by_part, find_conflicts, part_info, shard_jobs
from titan_speech.store.transfer import push_store
from titan_speech.store.writer import check_shard_bytes, codes_per_sec, completed, doubted, write_manifest
from titan_speech.tokenization.text_tokenizer import TextTokenizer
from titan_speech.utils.progress import say_to_stderr

REPORT_NAME = "build_report.json"


@dataclass(frozen=True)
class BuildRequest:
    """What to build, from what, and how."""

    format: str
    options: ImportOptions
    output: Path
    tokenizer: Path
    name: str
    licence: str
    codec: CodecInfo | None = None
    normalize: bool = False
    seed: int = 0
    shard_bytes: int = 128 << 20
    required_transcripts: tuple[str, ...] = ()
    num_workers: int = 1
    skip_bad: bool = False
    folder: Path | None = None
    """Where the unfinished build is kept; None is beside the output."""


def build_store(request: BuildRequest) -> Manifest:
    """Builds the store, or continues where an earlier call was stopped."""
    check_shard_bytes(request.shard_bytes)
    folder = BuildFolder(request.folder or request.output.with_name(f"{request.output.name}.building"))
    is_published = request.output.exists()
    if is_published and (folder.store.exists() or not folder.path.exists()):
        raise DataError(
            f"{request.output} exists already and a store is never changed: choose another path or delete it"
        )
    tokenizer = TextTokenizer.load(request.tokenizer)
    opened = open_importer(request.format, request.options)
    recipe = _recipe(request, opened, tokenizer)
    settings = _settings(request, recipe)
    try:
        folder.open(settings, may_discard=not is_published)
        if is_published:  # killed while it tidied up
            folder.tidy(request.output)
            return read_manifest(request.output)
        return _Build(request, folder, opened, recipe).run()
    except OSError as error:
        raise DataError(
            f"store {request.output} is not finished: {error}; run the same command again to continue"
        ) from error
    except KeyboardInterrupt:
        say_to_stderr(f"store {request.output} is not finished; run the same command again to continue")
        raise
    finally:
        folder.close()


def _recipe(request: BuildRequest, opened: Importer, tokenizer: TextTokenizer) -> Recipe:
    codec = request.codec
    if isinstance(opened, KnowsCodec) and (named := opened.codec_info()) is not None:
        if codec is not None and codec.hash != named.hash:
            raise DataError(
                f"the input's codes are of codec {named.name}, hash {named.hash}, but --codec-hash says {codec.hash}; "
                "leave out --codec-name and --codec-hash, or give the input they belong to"
            )
        codec = named
    if codec is None and request.format in speech_importers():
        raise DataError(
            f"--from {request.format} holds codes and does not say of which codec: give --codec-name NAME (such as "
            "xcodec2) and --codec-hash SHA256 of the codec's weights"
        )
    return Recipe(tokenizer, codec, _normalization(request, opened), request.seed, request.required_transcripts)


def _normalization(request: BuildRequest, opened: Importer) -> str:
    if named := _normalized_by(opened):
        return named
    if not request.normalize:
        return "none"
    from titan_speech.tokenization.normalize import normalization_version

    return normalization_version()


def _normalized_by(opened: Importer) -> str | None:
    """The rules the input's texts went through already."""
    return opened.normalization_version() if isinstance(opened, KnowsNormalization) else None


def _settings(request: BuildRequest, recipe: Recipe) -> BuildSettings:
    return BuildSettings(
        request.format,
        request.options,
        request.name,
        request.licence,
        recipe.codec,
        recipe.tokenizer.fingerprint,
        recipe.normalization_version,
        request.seed,
        request.shard_bytes,
        request.required_transcripts,
    )


class _Build:
    """A build whose folder is open."""

    def __init__(self, request: BuildRequest, folder: BuildFolder, opened: Importer, recipe: Recipe) -> None:
        self._request, self._folder, self._format, self._recipe = request, folder, opened, recipe

    def run(self) -> Manifest:
        self._folder.prepare()
        records = self._checked_records()
        self._tell(records)
        runs = [run for record in records for run in record.runs]
        self._folder.forget_shards_unless(digest_of(records))
        manifest = self._cut(runs)
        self._write_report(records)
        write_manifest(manifest, self._folder.store)
        self._publish()
        return manifest

    def _checked_records(self) -> list[UnitRecord]:
        units: list[Unit] = []
        try:
            units = _checked_units(self._format)
            records = self._import_units(units)
            self._check(records, [run for record in records for run in record.runs])
        except DataError as error:
            raise DataError(f"{error}{self._left(units)}") from error
        return records

    def _left(self, units: Sequence[Unit]) -> str:
        """Of a refused build: what can be used again is kept and told; the one unit of an input cannot."""
        num_usable = self._folder.num_usable(self._request.skip_bad)
        if num_usable == 0 or len(units) == 1:
            self._folder.remove()
            return ""
        return (
            f"\n{self._folder.path} keeps {num_usable} imported units without a problem, which the same command does "
            "not import again; delete it if you change the settings"
        )

    def _import_units(self, units: Sequence[Unit]) -> list[UnitRecord]:
        known = {unit.name: self._folder.record(unit) for unit in units}
        left = [unit for unit in units if not _is_done(known[unit.name], unit, self._request.skip_bad)]
        progress = BuildProgress("imported", "units", [unit.num_bytes for unit in left])
        normalize = self._request.normalize and not _normalized_by(self._format)
        work = ImportWork(self._format, self._recipe, normalize)
        tasks = [UnitTask(unit, self._folder.unit_path(unit)) for unit in left]
        imported = run_all(work, tasks, self._request.num_workers, progress.tick)
        progress.finish(sum(not record.is_usable(self._request.skip_bad) for record in imported))
        made = {record.name: record for record in imported}
        return [made.get(unit.name) or known[unit.name] for unit in units]  # type: ignore[misc]

    def _check(self, records: Sequence[UnitRecord], runs: Sequence[Run]) -> None:
        problems = Problems(f"store {self._request.output} was not built (rows count from 0)", limit=None)
        for record in records:
            if not self._request.skip_bad or UNIT_PROBLEM in record.problems:
                problems.merge(record.problems)
        find_conflicts(runs, problems)
        problems.raise_if_any()
        if not runs:
            _dropped(records, f"store {self._request.output} was not built: no sample is left").raise_if_any()
            raise DataError(f"store {self._request.output} was not built: the inputs hold no samples")

    def _cut(self, runs: Sequence[Run]) -> Manifest:
        parts = {key: shard_jobs(some, self._request.shard_bytes) for key, some in by_part(runs).items()}
        jobs = [job for some in parts.values() for job in some]
        left = [job for job in jobs if self._folder.shard(job) is None]
        progress = BuildProgress("cut", "shards", [self._request.shard_bytes] * len(left))
        run_all(CutWork(self._folder.store, self._folder.shards), left, self._request.num_workers, progress.tick)
        progress.finish()
        rate = codes_per_sec(self._recipe.codec)
        infos = tuple(part_info(some, self._shards(parts[key]), rate) for key, some in by_part(runs).items())
        manifest = Manifest(
            name=self._request.name,
            licence=self._request.licence,
            codec=self._recipe.codec,
            tokenizer=TokenizerInfo(self._recipe.tokenizer.fingerprint, self._recipe.tokenizer.num_base),
            normalization_version=self._recipe.normalization_version,
            seed=self._request.seed,
            parts=(),
        )
        return completed(manifest, infos, self._folder.store)

    def _shards(self, jobs: Sequence[ShardJob]) -> list[ShardInfo]:
        return [info for job in jobs if (info := self._folder.shard(job)) is not None]

    def _write_report(self, records: Sequence[UnitRecord]) -> None:
        """What was imported and what was left out; nothing in it depends on how the build went."""
        content = {
            "from": self._request.format,
            "units": len(records),
            "samples": sum(record.num_samples for record in records),
            "tokens": sum(record.num_tokens for record in records),
            "dropped": {kind: _told(found) for kind, found in _dropped(records).found.items()},
            "doubted": {kind: _told(found) for kind, found in _doubted(records).found.items()},
        }
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        (self._folder.store / REPORT_NAME).write_text(text, encoding="utf-8")

    def _tell(self, records: Sequence[UnitRecord]) -> None:
        """What the store will lack, and what of it is doubtful."""
        if (dropped := _dropped(records)).found:
            say_to_stderr(f"left out, and counted in {REPORT_NAME}:\n{dropped.lines()}")
        if (doubts := _doubted(records)).found:
            say_to_stderr(f"warning: {doubted(doubts)}")

    def _publish(self) -> None:
        try:
            os.rename(self._folder.store, self._request.output)
        except OSError as error:
            raise DataError(
                f"{self._request.output} appeared during the build ({error}); it was left as it is"
            ) from error
        self._folder.tidy(self._request.output)


def _dropped(records: Sequence[UnitRecord], what_failed: str = "") -> Problems:
    return merge_problems((record.problems for record in records), what_failed)


def _doubted(records: Sequence[UnitRecord]) -> Problems:
    return merge_problems(record.doubts for record in records)


def _checked_units(opened: Importer) -> list[Unit]:
    units = opened.units()
    names = [unit.name for unit in units]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"two units of the input are called {twice!r}: give each input once, and under its own name")
    return units


def _is_done(record: UnitRecord | None, unit: Unit, skip_bad: bool) -> bool:
    return record is not None and record.is_done(unit, skip_bad)


def _told(found: Found) -> dict[str, object]:
    return {"count": found.count, "first": found.first}


def build_to_s3(request: BuildRequest, url: S3Url, work_dir: Path, settings: StorageConfig) -> Manifest:
    """`request.output` is not looked at."""
    folder = work_dir / f"{url.name}.building"
    there = client_of(settings).list_sizes(url)
    if MANIFEST_NAME in there and not folder.exists():
        raise DataError(f"{url} holds a store already and a store is never changed: choose another prefix")
    manifest = build_store(replace(request, output=folder / "finished", folder=folder))
    push_store(folder / "finished", url, settings)
    shutil.rmtree(folder)
    return manifest
