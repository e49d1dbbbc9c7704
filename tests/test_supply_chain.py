"""What CI runs is pinned: actions by commit, packages by version and hash; the pins are those of pyproject.toml."""

from __future__ import annotations

import re

import pytest
import tomli
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.runs import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
_HASHES = r"((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)"
PINNED = re.compile(rf"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==(\S+) \\\n{_HASHES}", re.MULTILINE)


def pinned_versions() -> dict[str, str]:
    text = (ROOT / ".github" / "requirements.txt").read_text()
    found = {str(canonicalize_name(name)): version for name, version, _ in PINNED.findall(text)}
    assert len(found) == len(re.findall(r"^[A-Za-z0-9]", text, re.MULTILINE)), "a package has no hash"
    return found


def requirements(extra: str) -> list[Requirement]:
    """Of an extra and of the extras it names."""
    project = tomli.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = []
    for requirement in map(Requirement, project["optional-dependencies"][extra]):
        if requirement.name == project["name"]:
            found += [one for name in requirement.extras for one in requirements(name)]
        else:
            found.append(requirement)
    return found + [Requirement(text) for text in project["dependencies"]]


@pytest.mark.parametrize("extra", ["dev", "benchmarks"])
def test_every_package_that_ci_installs_is_pinned_to_a_version_that_pyproject_allows(extra: str) -> None:
    pinned = pinned_versions()
    for requirement in requirements(extra):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not pinned: run scripts/pin_requirements.sh"
        assert requirement.specifier.contains(version), f"{requirement} is pinned to {version}"
    build = Requirement(tomli.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"][0])
    assert build.specifier.contains(pinned[build.name])


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_has_least_permissions_and_actions_of_one_commit(path) -> None:  # type: ignore[no-untyped-def]
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert "permissions" not in job
        for step in job["steps"]:
            if (action := step.get("uses")) is None:
                continue
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action), action
            if action.startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False
