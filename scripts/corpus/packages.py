"""In: nothing. Out: unpacked Debian packages in a cache folder, each at the version written here.

The versions are pinned because the corpus, the tokenizer and every code of the bundled store follow from
them. Debian drops a version from its pool when a security update replaces it; `any_version=True` then takes
the newer one, at the price of a corpus that is no longer byte for byte the one of the report.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from titan_speech.errors import DataError


@dataclass(frozen=True)
class Package:
    """One Debian package as this corpus uses it."""

    name: str
    version: str
    licence: str


PROMPT_LANGUAGES = ("en", "es", "fr", "it", "ru")
CATALOGUE_PACKAGES = {
    "hi": "hi", "ta": "ta", "te": "te", "bn": "bn", "mr": "mr", "gu": "gu",
    "kn": "kn", "ml": "ml", "pa": "pa-in", "as": "as", "or": "or",
}  # fmt: skip
PROMPT_LICENCE = "CC-BY-SA-3.0"
PAGES = Package("gnome-user-docs", "43.0-2", "CC-BY-SA-3.0")
GLOSSES = Package("wordnet-base", "1:3.0-37", "WordNet-3.0")


def prompt_text(language: str) -> Package:
    return Package(f"asterisk-core-sounds-{language}", "1.6.1-1", PROMPT_LICENCE)


def prompt_audio(language: str) -> Package:
    return Package(f"asterisk-core-sounds-{language}-g722", "1.6.1-1", PROMPT_LICENCE)


def catalogue(language: str) -> Package:
    return Package(f"libreoffice-l10n-{CATALOGUE_PACKAGES[language]}", "4:7.4.7-1+deb12u14", "MPL-2.0")


def all_packages() -> list[Package]:
    prompts = [make(lang) for lang in PROMPT_LANGUAGES for make in (prompt_text, prompt_audio)]
    return [*prompts, *(catalogue(lang) for lang in CATALOGUE_PACKAGES), PAGES, GLOSSES]


def require_tool(program: str, debian_package: str) -> None:
    """Stop with an install line when an external program is absent."""
    if shutil.which(program) is None:
        raise DataError(f"program not found: {program}. Install it with: apt-get install {debian_package}")


def unpacked(package: Package, cache: Path, any_version: bool = False) -> Path:
    """Folder with the package's files; downloads and unpacks on the first call."""
    folder = cache / package.name
    if not folder.exists():
        deb = _download(package, cache, any_version)
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        subprocess.run(["dpkg-deb", "-x", str(deb), str(partial)], check=True)
        partial.rename(folder)
    return folder


def _download(package: Package, cache: Path, any_version: bool) -> Path:
    cache.mkdir(parents=True, exist_ok=True)
    wanted = package.name if any_version else f"{package.name}={package.version}"
    result = subprocess.run(["apt-get", "download", wanted], cwd=cache, capture_output=True, text=True)
    found = sorted(cache.glob(f"{package.name}_*.deb"))
    if result.returncode != 0 or not found:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise DataError(
            f"cannot download {package.name} {package.version}: {last}. Run `apt-get update` first; if Debian has "
            "replaced this version, pass --any-version (the corpus then differs from the reported one)."
        )
    return found[-1]
