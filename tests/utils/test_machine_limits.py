"""Memory of the machine and of the container, the less of which counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from titan_speech.utils import machine_limits
from titan_speech.utils.machine_limits import available_bytes

GB = 1 << 30


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 8 GB available, and a process in group /a/b."""
    (tmp_path / "meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable:   {8 * GB // 1024} kB\nHugePages_Total: 0\n")
    (tmp_path / "membership").write_text("1:name=systemd:/old\n0::/a/b\n")
    (tmp_path / "cgroup" / "a" / "b").mkdir(parents=True)
    monkeypatch.setattr(machine_limits, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(machine_limits, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(machine_limits, "CGROUPS", tmp_path / "cgroup")
    return tmp_path


def limit(group: Path, limit: str, used: int, cached: int = 0) -> None:
    (group / "memory.max").write_text(f"{limit}\n")
    (group / "memory.current").write_text(f"{used}\n")
    (group / "memory.stat").write_text(f"anon {used - cached}\ninactive_file {cached}\nactive_file 0\n")


def test_without_a_container_it_is_the_machine(machine: Path) -> None:
    assert available_bytes() == 8 * GB
    limit(machine / "cgroup" / "a" / "b", "max", GB)
    assert available_bytes() == 8 * GB


def test_the_tightest_group_counts_and_cached_files_are_free(machine: Path) -> None:
    limit(machine / "cgroup" / "a" / "b", str(6 * GB), 2 * GB)
    assert available_bytes() == 4 * GB
    limit(machine / "cgroup" / "a", str(3 * GB), 2 * GB, cached=GB)
    assert available_bytes() == 2 * GB
    limit(machine / "cgroup", str(GB), 2 * GB)
    assert available_bytes() == 0


def test_where_nothing_is_said_nothing_is_known(machine: Path) -> None:
    for name in ("meminfo", "membership"):
        (machine / name).unlink()
    assert available_bytes() is None


def test_this_machine_has_some() -> None:
    assert (available_bytes() or 0) > 1 << 20
