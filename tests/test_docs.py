"""The pages of docs/: links between them lead to a page and a heading that exist; files they name exist."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.runs import ROOT

PAGES = sorted((ROOT / "docs").glob("*.md"))
POINTERS = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
POINTERS += [ROOT / name / "README.md" for name in ("train_configs", "benchmarks")]


def text_outside_code(path: Path) -> str:
    return re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """What headings are linked by, as GitHub and Python-Markdown make it of them."""
    headings = re.findall(r"^#+ (.*)$", text_outside_code(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", [*PAGES, *POINTERS], ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_to_a_page_and_a_heading(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text_outside_code(path)):
        name, _, anchor = target.partition("#")
        assert not name.startswith("reference/"), f"{path.name} links to {target}, which only the site has"
        page = (path.parent / name).resolve() if name else path
        assert page.exists(), f"{path.name} links to {target}"
        if anchor:
            assert anchor in anchors(page), f"{path.name} links to {target}; {page.name} has {sorted(anchors(page))}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_pages_link_inside_the_site_and_name_files_of_the_repository(path: Path) -> None:
    text = text_outside_code(path)
    assert "](../" not in text, "the site has no such file: name it in backquotes"
    for name in re.findall(r"`((?:titan_speech|scripts|tests|benchmarks|train_configs)/[\w/.]+\.\w+)`", text):
        assert (ROOT / name).exists(), f"{path.name} names {name}"


def test_tests_that_the_security_page_names_exist() -> None:
    """A name without a file is in the file named before it in its row."""
    named = 0
    for row in (ROOT / "docs" / "security.md").read_text("utf-8").splitlines():
        source = ""
        for file, name in re.findall(r"`(tests/[\w/]+\.py)?(?:::)?(test_\w+)?`", row):
            source = (ROOT / file).read_text("utf-8") if file else source
            named += bool(name)
            assert not name or f"def {name}(" in source, name
    assert named > 30


def test_contributing_names_files_that_exist() -> None:
    """Paths in its tables are from the root, or from the package."""
    named = re.findall(r"`([\w/]+/[\w/.]*)`", (ROOT / "CONTRIBUTING.md").read_text("utf-8"))
    assert len(named) > 20
    for name in named:
        assert any((root / name).exists() for root in (ROOT, ROOT / "titan_speech")) or "NAME" in name, name


def test_code_names_pages_that_exist() -> None:
    sources = [*(ROOT / "titan_speech").rglob("*.py"), *(ROOT / "train_configs").rglob("*.toml")]
    named = {(source, page) for source in sources for page in re.findall(r"docs/(\w+\.md)", source.read_text("utf-8"))}
    assert {page for _, page in named} <= {path.name for path in PAGES}, named


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_lists_and_tables_follow_a_blank_line(path: Path) -> None:
    """GitHub needs none; the site would run them into the paragraph before."""
    lines = text_outside_code(path).split("\n")
    for before, line in pairwise(lines):
        if before.startswith(("-", "|", "<!--", " ")) or re.match(r"\d+\. ", before) or not before.strip():
            continue
        assert not re.match(r"(- |\d+\. |\|)", line), f"{path.name}: a blank line is missing before: {line}"


@pytest.mark.parametrize("path", [*PAGES, *POINTERS], ids=lambda path: str(path.relative_to(ROOT)))
def test_lines_fit_an_editor(path: Path) -> None:
    """Tables and pictures aside, whose rows cannot be broken."""
    for line in text_outside_code(path).split("\n"):
        assert len(line) <= 120 or line.lstrip().startswith(("|", "![")), f"{path.name}: {line}"


def test_the_page_of_benchmarks_names_every_file() -> None:
    text = (ROOT / "benchmarks" / "README.md").read_text("utf-8")
    for path in (ROOT / "benchmarks").glob("*.py"):
        assert f"`{path.name}`" in text or re.search(rf"`{path.stem}`|benchmarks\.{path.stem}\b", text), path.name
    for path in (ROOT / "benchmarks" / "suites").glob("*.py"):
        assert f"| `{path.stem}` |" in text, path.name
