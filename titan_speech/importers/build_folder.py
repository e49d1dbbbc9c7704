"""The folder of an unfinished build, and the settings it belongs to: finished work is kept, whatever is killed.

    OUTPUT.building/settings.json       what the build was started with
    OUTPUT.building/lock                locked by the running build
    OUTPUT.building/units/<unit>/       sorted runs (store/external_sort.py) and record.json of an imported unit
    OUTPUT.building/shards/<shard>      the manifest's entry of a shard that is written
    OUTPUT.building/store/              the new store

In: the settings of a build, and what units and shards became. Out: which of them are finished. A unit is imported to
a folder of another name, which is renamed when it is complete; a shard's record is renamed into place when its files
are on disk: whatever has its final name is complete. A unit is imported again if a file of it changed in size or time.
The runs take as much disk space as the store, in addition to it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from titan_speech.errors import DataError
from titan_speech.importers.base import Unit
from titan_speech.store.external_sort import SortedRun, VariantCount
from titan_speech.store.manifest import FileInfo, Kind, PartKey, ShardInfo
from titan_speech.store.problems import ProblemGroup
from titan_speech.store.shard_writer import ShardJob
from titan_speech.utils.files import write_atomically
from titan_speech.utils.locks import lock_or_refuse

UNIT_PROBLEM, DURATION = "unit", "duration"
"""Kind of the problem that a unit could not be read to its end; of the doubt for which no sample is left out."""


def _differences(began_with: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """One line for each setting that changed."""
    names = [*now, *(name for name in began_with if name not in now)]
    return [
        f"  {name}: began with {began_with.get(name, 'nothing')}, now {now.get(name, 'nothing')}"
        for name in names
        if began_with.get(name) != now.get(name)
    ]


@dataclass(frozen=True)
class UnitRecord:
    """An imported unit."""

    name: str
    stamp: str
    """Sizes and modification times of its files when it was imported."""
    num_samples: int
    num_tokens: int
    problems: Mapping[str, ProblemGroup]
    doubts: Mapping[str, ProblemGroup]
    """About samples that were imported."""
    filtered: Mapping[str, ProblemGroup]
    """Samples that were left out as the user asked, by reason."""
    runs: tuple[SortedRun, ...]

    def is_usable(self, skip_bad: bool) -> bool:
        if skip_bad:
            return UNIT_PROBLEM not in self.problems and set(self.doubts) <= {DURATION}
        return not self.problems

    def is_done(self, unit: Unit, skip_bad: bool) -> bool:
        """Whether the unit need not be imported again."""
        return self.is_usable(skip_bad) and self.stamp == stamp_of(unit)


def stamp_of(unit: Unit) -> str:
    stats = [(path, path.stat()) for path in (unit.path, *unit.other_paths)]
    return ";".join(f"{path.name}:{stat.st_size}:{stat.st_mtime_ns}" for path, stat in stats)


class BuildFolder:
    """Where a build keeps what is finished."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.units, self.shards, self.store = path / "units", path / "shards", path / "store"
        self._lock: int | None = None

    def open(self, settings: Mapping[str, str], may_discard: bool = True) -> None:
        """Lock the folder, and begin a build or continue the one begun here with the same settings.

        Args:
            settings: what determines the bytes of the store, as JSON text by name.
            may_discard: a build begun with other settings is discarded if no unit of it is imported.

        Raises:
            DataError: another process is building here, or a build with other settings has imported units.
        """
        file = self.path / "settings.json"
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = lock_or_refuse(self.path / "lock", f"building in {self.path}")
        changed = _differences(_read(file), settings) if file.exists() else []
        if changed and (not may_discard or any(self._record_files())):
            raise DataError(
                f"{self.path} holds an unfinished build with other settings; repeat those settings to continue it, or "
                "delete that folder to start again:\n" + "\n".join(changed)
            )
        if changed or not file.exists():
            write_atomically(file, json.dumps(settings, indent=1, ensure_ascii=False))

    def prepare(self) -> None:
        """Make the folders, and delete units that were not finished."""
        for folder in (self.units, self.shards, self.store):
            folder.mkdir(exist_ok=True)
        for left in self.units.glob("*.tmp-*"):
            shutil.rmtree(left)

    def _record_files(self) -> Iterator[Path]:
        return (file for file in self.units.glob("*/record.json") if ".tmp-" not in file.parent.name)

    def num_usable(self, skip_bad: bool) -> int:
        """Units that the same settings need not import again."""
        return sum(_read_unit_record(file).is_usable(skip_bad) for file in self._record_files())

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self.close()

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            os.close(self._lock)
        self._lock = None

    def tidy(self, output: Path) -> None:
        """After the store was published: delete what it was made of, and this folder unless the store is in it."""
        for folder in (self.units, self.shards):
            shutil.rmtree(folder, ignore_errors=True)
        if output.parent != self.path:
            self.remove()
        self.close()

    def unit_path(self, unit: Unit) -> Path:
        return self.units / hashlib.sha256(unit.name.encode()).hexdigest()[:24]

    def record(self, unit: Unit) -> UnitRecord | None:
        file = self.unit_path(unit) / "record.json"
        return _read_unit_record(file) if file.exists() else None

    def forget_shards_unless(self, digest: str) -> None:
        """Delete shards that were written from other runs than those of this digest."""
        file = self.shards / "digest"
        if not file.exists() or file.read_text() != digest:
            for folder in (self.shards, self.store):
                shutil.rmtree(folder)
                folder.mkdir()
            write_atomically(file, digest)

    def shard(self, job: ShardJob) -> ShardInfo | None:
        file = _shard_file(self.shards, job)
        if not file.exists():
            return None
        content = _read(file)
        files = tuple(FileInfo(**some) for some in content["files"])
        return ShardInfo(content["name"], content["num_samples"], content["num_tokens"], files)


def _shard_file(folder: Path, job: ShardJob) -> Path:
    return folder / f"{job.key.folder}.{job.name}.json"


def write_shard_record(folder: Path, job: ShardJob, info: ShardInfo) -> None:
    write_atomically(_shard_file(folder, job), json.dumps(asdict(info)))


def write_unit_record(folder: Path, record: UnitRecord) -> None:
    runs = [
        {**asdict(run), "folder": run.folder.name, "key": [run.key.dataset_source, run.key.language, str(run.key.kind)]}
        for run in record.runs
    ]
    content = {**vars(record), "runs": runs}
    for name in ("problems", "doubts", "filtered"):
        content[name] = {kind: asdict(found) for kind, found in content[name].items()}
    write_atomically(folder / "record.json", json.dumps(content, ensure_ascii=False))


def _read_unit_record(file: Path) -> UnitRecord:
    content = _read(file)
    for name in ("problems", "doubts", "filtered"):
        content[name] = {kind: ProblemGroup(**found) for kind, found in content[name].items()}
    runs = tuple(_run_of(file.parent, some) for some in content["runs"])
    return UnitRecord(**{**content, "runs": runs})


def _run_of(unit: Path, content: dict) -> SortedRun:
    source, language, kind = content["key"]
    variants = tuple(VariantCount(**variant) for variant in content["variants"])
    run = SortedRun(**{**content, "key": PartKey(source, language, Kind(kind)), "variants": variants})
    return replace(run, folder=unit / content["folder"])


def digest_of(records: Sequence[UnitRecord]) -> str:
    """Changes when other samples would be written to the shards."""
    content = [(record.name, record.stamp, record.num_samples, record.num_tokens) for record in records]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _read(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8"))
