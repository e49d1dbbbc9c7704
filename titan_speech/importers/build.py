"""Build a store from what a team has: parallel, restartable, the same bytes however often it was interrupted.

    inputs --> units      listed by the importer                                       base.py
                 |        each is imported by one process to sorted runs               build_workers.py
                 v
               checks     over all samples: duplicates, order of segments              store/sample_conflicts.py
                 |        each shard is written by one process from all runs           build_workers.py
                 v
               manifest   written last, then the store is renamed into place

In: `BuildRequest`. Out: the manifest of a store at `output`. A build that was killed continues when it is requested
again. Bad input is reported together: every unit is checked before anything is refused.

For an output in object storage the store is built in a local folder, then sent, manifest last. The bucket is listed
before the build begins, so that wrong credentials do not show only after hours; a build or an upload that was killed is
continued by the same command. The local disk needs space for the store and its runs.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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
    refuse_damaged,
)
from titan_speech.importers.build_folder import DURATION, UNIT_PROBLEM, BuildFolder, UnitRecord, digest_of
from titan_speech.importers.build_workers import CutShard, ImportUnit, UnitTask
from titan_speech.importers.sample_filter import NO_FILTER, SampleFilter
from titan_speech.storage.s3_url import S3Url
from titan_speech.store.external_sort import SortedRun
from titan_speech.store.manifest import MANIFEST_NAME, CodecInfo, Kind, Manifest, TokenizerInfo
from titan_speech.store.manifest_reader import read_manifest
from titan_speech.store.problems import Problems, combine_problems
from titan_speech.store.sample import is_language
from titan_speech.store.sample_conflicts import find_conflicts
from titan_speech.store.sample_sorter import StoreSettings
from titan_speech.store.shard_writer import by_part, part_info, shard_jobs
from titan_speech.store.writer import check_shard_bytes, complete_manifest, duration_warning, write_manifest
from titan_speech.tokenization.text_tokenizer import TextTokenizer
from titan_speech.utils.printable import escape_controls
from titan_speech.utils.process_pool import run_tasks
from titan_speech.utils.progress import print_to_stderr
from titan_speech.utils.task_progress import TaskProgress
from titan_speech.utils.text_table import counted

SPILL_VERSION = 3
"""Increased when the files of an unfinished build change."""
REPORT_NAME = "build_report.json"


@dataclass(frozen=True)
class BuildRequest:
    """What to build, from what, and how."""

    format: str
    """Name of the importer."""
    options: ImportOptions
    output: Path
    tokenizer: Path
    """Folder of the tokenizer."""
    name: str
    licence: str
    codec: CodecInfo | None = None
    """Codec of the codes, for formats that do not state it."""
    normalize: bool = False
    seed: int = 0
    shard_bytes: int = 128 << 20
    required_transcripts: tuple[str, ...] = ()
    num_workers: int = 1
    filter: SampleFilter = NO_FILTER
    """Samples to leave out although nothing is wrong with them."""
    skip_bad: bool = False
    """Leave bad samples out instead of refusing the build."""
    folder: Path | None = None
    """Where the unfinished build is kept; None is OUTPUT.building."""


def build_store(request: BuildRequest) -> Manifest:
    """Build the store, or continue a build that was interrupted.

    Raises:
        DataError: the inputs are refused (with all problems found), or the build could not be finished.
    """
    check_shard_bytes(request.shard_bytes)
    folder = BuildFolder(request.folder or request.output.with_name(f"{request.output.name}.building"))
    is_published = request.output.exists()
    if is_published and (folder.store.exists() or not folder.path.exists()):
        raise DataError(
            f"{request.output} exists already and a store is never changed: choose another path or delete it"
        )
    language = request.options.language
    if language is not None and not is_language(language):  # before audio is encoded, which takes long
        raise DataError(f"--language {language!r}: expected a BCP 47 tag such as 'hi', 'mai' or 'en-IN'")
    tokenizer = TextTokenizer.load(request.tokenizer)
    importer = open_importer(request.format, request.options)
    store_settings = StoreSettings(
        tokenizer,
        _codec(request, importer),
        _normalization(request, importer),
        request.seed,
        request.required_transcripts,
    )
    try:
        _open(folder, _settings(request, store_settings), request.output, may_discard=not is_published)
        if is_published:  # an earlier call was killed after it had published the store
            folder.tidy(request.output)
            return read_manifest(request.output)
        return _Build(request, folder, importer, store_settings).run()
    except OSError as error:
        raise DataError(
            f"store {request.output} is not finished: {error}; once that is solved, run the same command again to "
            "continue"
        ) from error
    except KeyboardInterrupt:
        print_to_stderr(f"store {request.output} is not finished; run the same command again to continue")
        raise
    finally:
        folder.close()


def _settings(request: BuildRequest, store_settings: StoreSettings) -> dict[str, str]:
    """Everything that determines the bytes of the store, as JSON text by the name of its option.

    The number of processes does not, nor does `--skip-bad`: good samples are the same either way.
    """
    options = asdict(request.options)
    values = {
        "spill version": SPILL_VERSION,
        "from": request.format,
        "input": options.pop("inputs"),
        **options,
        "name": request.name,
        "licence": request.licence,
        "codec": store_settings.codec and asdict(store_settings.codec),
        "tokenizer": store_settings.tokenizer.fingerprint,
        "normalization": store_settings.normalization_version,
        "seed": request.seed,
        "shard-mb": request.shard_bytes / (1 << 20),
        "require-transcript": request.required_transcripts,
        **asdict(request.filter),
    }
    return {
        name.replace("_", "-"): json.dumps(value, sort_keys=True, ensure_ascii=False, default=_absolute)
        for name, value in values.items()
    }


def _absolute(path: Path) -> str:
    return str(path.absolute())


def _open(folder: BuildFolder, settings: Mapping[str, str], output: Path, may_discard: bool) -> None:
    try:
        folder.open(settings, may_discard)
    except OSError as error:
        raise DataError(
            f"store {output} cannot be built there: {error}; choose an output in a folder you can write to"
        ) from error


def build_to_s3(request: BuildRequest, url: S3Url, work_dir: Path, settings: StorageConfig) -> Manifest:
    """Build a store in `work_dir` and send it to `url`; `request.output` is ignored."""
    from titan_speech.storage.s3 import client_of  # botocore takes 0.15 s to import, which a local build does not need
    from titan_speech.store.transfer import push_store

    folder = work_dir / f"{url.name}.building"
    objects = client_of(settings).list_sizes(url)
    if MANIFEST_NAME in objects and not folder.exists():
        raise DataError(f"{url} holds a store already and a store is never changed: choose another prefix")
    manifest = build_store(replace(request, output=folder / "finished", folder=folder))
    push_store(folder / "finished", url, settings)
    shutil.rmtree(folder)
    return manifest


def _codec(request: BuildRequest, importer: Importer) -> CodecInfo | None:
    """The codec the importer knows, or the one of the request; they must not contradict each other."""
    codec = request.codec
    if isinstance(importer, KnowsCodec) and (known := importer.codec_info()) is not None:
        if codec is not None and codec.hash != known.hash:
            raise DataError(
                f"the input's codes are of codec {known.name}, hash {known.hash}, but --codec-hash says {codec.hash}; "
                "leave out --codec-name and --codec-hash, or give the input they belong to"
            )
        codec = known
    if codec is None and not request.format.startswith("text-"):
        raise DataError(
            f"--from {request.format} holds codes and does not say of which codec: give --codec-name NAME (such as "
            "xcodec2) and --codec-hash SHA256 of the codec's weights"
        )
    return codec


def _normalization(request: BuildRequest, importer: Importer) -> str:
    """The rules that the texts of the store were normalized by."""
    if version := _input_normalization(importer):
        return version
    if not request.normalize:
        return "none"
    from titan_speech.tokenization.normalize import normalization_version

    return normalization_version()


def _input_normalization(importer: Importer) -> str | None:
    """The rules that the texts of the input were normalized by already."""
    return importer.normalization_version() if isinstance(importer, KnowsNormalization) else None


def _report_untranscribed(manifest: Manifest) -> None:
    """A store of speech alone may be intended, or its transcripts were not found."""
    speech = [part for part in manifest.parts if part.kind is Kind.SPEECH]
    num_samples = sum(part.num_samples for part in speech)
    if num_samples and not any(variant.num_samples for part in speech for variant in part.variants):
        print_to_stderr(
            f"note: none of the {counted(num_samples, 'sample')} of speech has a transcript, so tasks tts and clone "
            "cannot read them; --columns transcript_native=COLUMN names the column of transcripts"
        )


class _Build:
    """A build whose folder is open and locked."""

    def __init__(
        self, request: BuildRequest, folder: BuildFolder, importer: Importer, store_settings: StoreSettings
    ) -> None:
        self._request, self._folder, self._importer, self._store_settings = request, folder, importer, store_settings

    def run(self) -> Manifest:
        self._folder.prepare()
        records = self._import_and_check()
        dropped = combine_problems(record.problems for record in records)
        doubts = combine_problems(record.doubts for record in records)
        filtered = combine_problems(record.filtered for record in records)
        if dropped.found:
            print_to_stderr(f"left out, and counted in {REPORT_NAME}:\n{dropped.lines()}")
        if filtered.found:
            counts = ", ".join(f"{found.count:,} {kind}" for kind, found in filtered.found.items())
            print_to_stderr(f"left out as asked: {counts}; the first of each:\n{filtered.lines()}")
        if doubts.found:
            self._warn(doubts)
        self._folder.forget_shards_unless(digest_of(records))
        manifest = self._write_shards([run for record in records for run in record.runs])
        _report_untranscribed(manifest)
        self._write_report(records, dropped=dropped, filtered=filtered, doubted=doubts)
        write_manifest(manifest, self._folder.store)
        self._publish()
        return manifest

    def _warn(self, doubts: Problems) -> None:
        others = {kind: found for kind, found in doubts.found.items() if kind != DURATION}
        if others:
            some = combine_problems([others])
            kept = f"{counted(some.count, 'doubtful sample')} in the store; --skip-bad leaves out what is doubtful"
            print_to_stderr(f"warning: {kept}:\n{some.lines()}")
        if DURATION in doubts.found:
            durations = combine_problems([{DURATION: doubts.found[DURATION]}])
            print_to_stderr(f"warning: {duration_warning(durations)}")

    def _import_and_check(self) -> list[UnitRecord]:
        units: list[Unit] = []
        try:
            units = self._units()
            records = self._import_units(units)
            self._check(records)
        except DataError as error:
            raise DataError(f"{error}{self._keep_or_remove(units)}") from error
        return records

    def _units(self) -> list[Unit]:
        with refuse_damaged(", ".join(map(str, self._request.options.inputs))):
            units = self._importer.units()
        names = [unit.name for unit in units]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(
                f"two units of the input are called {twice!r}: give each input once, and under its own name"
            )
        return units

    def _import_units(self, units: Sequence[Unit]) -> list[UnitRecord]:
        """The record of every unit; units that are finished are not imported again."""
        skip_bad = self._request.skip_bad
        records = {unit.name: self._folder.record(unit) for unit in units}
        left = [unit for unit in units if (record := records[unit.name]) is None or not record.is_done(unit, skip_bad)]
        num_samples = [None if unit.stop is None else unit.stop - unit.start for unit in left]
        progress = TaskProgress("imported", "unit", [unit.num_bytes for unit in left], num_samples)
        normalize = self._request.normalize and not _input_normalization(self._importer)
        tasks = [UnitTask(unit, self._folder.unit_path(unit)) for unit in left]
        limits, sample_filter = self._request.options.limits, self._request.filter
        import_unit = ImportUnit(self._importer, self._store_settings, normalize, limits, skip_bad, sample_filter)
        imported = run_tasks(import_unit, tasks, self._request.num_workers, progress.report)
        progress.finish(sum(not record.is_usable(skip_bad) for record in imported))
        records |= {record.name: record for record in imported}
        return [record for record in records.values() if record is not None]

    def _check(self, records: Sequence[UnitRecord]) -> None:
        what_failed = f"store {self._request.output} was not built"
        problems = Problems(f"{what_failed} (rows count from 0)", limit=None)
        for record in records:
            if not self._request.skip_bad or UNIT_PROBLEM in record.problems:
                problems.merge(record.problems)
        runs = [run for record in records for run in record.runs]
        can_skip = bool(problems.found) and not any(UNIT_PROBLEM in record.problems for record in records)
        find_conflicts(runs, problems)  # which of two samples with one name is the bad one, nobody knows
        problems.raise_if_any(f"correct these or leave them out{' with --skip-bad' if can_skip else ''}")
        if not runs:
            dropped = (found for record in records for found in (record.problems, record.filtered))
            combine_problems(dropped, f"{what_failed}: no sample is left").raise_if_any()
            raise DataError(f"{what_failed}: the inputs hold no samples")

    def _keep_or_remove(self, units: Sequence[Unit]) -> str:
        """After a refusal: keep imported units that can be used again and say so, or remove the folder."""
        num_usable = self._folder.num_usable(self._request.skip_bad)
        if num_usable == 0 or len(units) == 1:
            self._folder.remove()
            return ""
        return (
            f"\n{self._folder.path} keeps {counted(num_usable, 'imported unit')} without a problem, which the same "
            "command does not import again; delete it if you change the settings"
        )

    def _write_shards(self, runs: Sequence[SortedRun]) -> Manifest:
        parts = {key: shard_jobs(some, self._request.shard_bytes) for key, some in by_part(runs).items()}
        left = [job for jobs in parts.values() for job in jobs if self._folder.shard(job) is None]
        progress = TaskProgress("wrote", "shard", [self._request.shard_bytes] * len(left))
        cut_shard = CutShard(self._folder.store, self._folder.shards)
        run_tasks(cut_shard, left, self._request.num_workers, progress.report)
        progress.finish()
        settings, infos = self._store_settings, []
        for key, some in by_part(runs).items():
            shards = [info for job in parts[key] if (info := self._folder.shard(job)) is not None]
            infos.append(part_info(some, shards, settings.codec))
        manifest = Manifest(
            name=self._request.name,
            licence=self._request.licence,
            codec=settings.codec,
            tokenizer=TokenizerInfo(settings.tokenizer.fingerprint, settings.tokenizer.num_base),
            normalization_version=settings.normalization_version,
            seed=self._request.seed,
            parts=(),
        )
        return complete_manifest(manifest, tuple(infos), self._folder.store)

    def _write_report(self, records: Sequence[UnitRecord], **groups: Problems) -> None:
        """What was imported and what was left out; the same however often the build was interrupted."""
        content: dict[str, object] = {
            "from": self._request.format,
            "units": len(records),
            "samples": sum(record.num_samples for record in records),
            "tokens": sum(record.num_tokens for record in records),
        }
        for name, problems in groups.items():
            content[name] = {
                kind: {"count": found.count, "first": found.first} for kind, found in problems.found.items()
            }
        text = escape_controls(json.dumps(content, indent=1, ensure_ascii=False)) + "\n"
        (self._folder.store / REPORT_NAME).write_text(text, encoding="utf-8")

    def _publish(self) -> None:
        try:
            os.rename(self._folder.store, self._request.output)
        except OSError as error:
            raise DataError(
                f"{self._request.output} appeared during the build ({error}); it was left unchanged"
            ) from error
        self._folder.tidy(self._request.output)
