"""The bundle for a machine without a network: bad arguments, parts that join again, damage that is refused."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.machine import ROOT
from tests.scripts.test_slim_wheel import wheel_of

TOOLS = ("zstd", "split", "sha256sum", "strip", "readelf", "git")


def bundle(*words: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(ROOT / "scripts" / "offline_bundle.sh"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


BAD_ARGUMENTS = {
    "no folder": ((), "expected a folder"),
    "an unknown option": (("--fast", "out"), "found --fast"),
    "an option without its value": (("out", "--part-mb"), "--part-mb: expected a value"),
    "parts of no size": (("out", "--part-mb", "0"), "found 0, expected a number above 0"),
    "an architecture by name": (("out", "--arch", "sm_90"), "found sm_90, expected a number such as 90"),
    "no wheels": (("out", "--wheels", "no-such-folder"), "found no *.whl in no-such-folder"),
}


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
def test_bad_arguments_are_refused_before_anything_is_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, message = BAD_ARGUMENTS[name]
    monkeypatch.chdir(tmp_path)
    done = bundle(*words)
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(not all(map(shutil.which, TOOLS)) or not (ROOT / ".git").exists(), reason="needs zstd and a clone")
def test_a_bundle_unpacks_whole_and_a_damaged_part_is_refused(tmp_path: Path) -> None:
    wheels, out = tmp_path / "wheels", tmp_path / "out"
    wheels.mkdir()
    wheel = wheel_of(wheels, {"small/__init__.py": b"VALUE = 3\n"})
    killed = tmp_path / "out.partial"  # of a start that ended in the middle, with more parts
    killed.mkdir()
    (killed / "bundle.99").write_bytes(b"of another start")
    done = bundle(str(out), "--wheels", str(wheels), "--part-mb", "2")
    assert done.returncode == 0, done.stderr
    parts = sorted(out.glob("bundle.*"))
    assert len(parts) > 1
    assert max(part.stat().st_size for part in parts) <= 2 << 20
    assert not killed.exists()

    unpack = ["bash", str(out / "unpack.sh")]
    subprocess.run([*unpack, str(tmp_path / "unpacked")], check=True)
    assert (tmp_path / "unpacked" / "wheels" / wheel.name).exists()
    recipe = Path("titan_speech") / "train_configs" / "pt_s1.toml"
    assert (tmp_path / "unpacked" / recipe).read_bytes() == (ROOT / "train_configs" / "pt_s1.toml").read_bytes()

    parts[1].write_bytes(parts[1].read_bytes()[:-1] + b"?")
    refused = subprocess.run([*unpack, str(tmp_path / "again")], capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "a part is damaged or missing" in refused.stderr
    assert not (tmp_path / "again").exists()
