"""What a store's texts were brought to: one version, or several after a merge.

In: the `normalization_version` of manifests and rows: the rules every text goes through, and after a plus the cleaning
that chose the texts (`text-1...+clean-1...`, given by `text prepare`). Out: whether they fit together, and one string
for all. Spelling must be one in a store, or the same word has two forms; which texts were chosen may differ by part.
"""

from __future__ import annotations

from collections.abc import Iterable

_AND, _CLEANING = " and ", "+"


def listed(version: str) -> list[str]:
    """The versions a manifest's string names; each row of its sidecars has one of them."""
    return version.split(_AND)


def rules_of(version: str) -> set[str]:
    """The rules alone, without cleaning."""
    return {one.partition(_CLEANING)[0] for one in listed(version)}


def all_of(versions: Iterable[str]) -> str:
    """One string that names each version once."""
    return _AND.join(sorted({one for version in versions for one in listed(version)}))


def under(version: str, rules: str) -> str:
    """The same texts brought to other rules: cleaning is kept."""
    return all_of(rules + "".join(one.partition(_CLEANING)[1:]) for one in listed(version))
