"""Whether stores speak one language of codes and ids, and what they are together.

In: stores that are to become one. Out: a manifest without parts for what is made of them, or an error that names every
difference and what brings them together.
"""

from __future__ import annotations

from collections.abc import Sequence

from titan_speech.errors import DataError
from titan_speech.store.manifest import Kind, Manifest
from titan_speech.store.normalizations import all_of, rules_of
from titan_speech.store.store import Store


def manifest_of_all(stores: Sequence[Store], name: str, seed: int) -> Manifest:
    """Of stores that `refuse_different` let pass."""
    manifests = [store.manifest for store in stores]
    return Manifest(
        name=name,
        licence=" AND ".join(dict.fromkeys(manifest.licence for manifest in manifests)),
        codec=next((manifest.codec for manifest in manifests if manifest.codec is not None), None),
        tokenizer=manifests[0].tokenizer,
        normalization_version=all_of(manifest.normalization_version for manifest in manifests),
        seed=seed,
        parts=(),
    )


def refuse_different(stores: Sequence[Store], what_failed: str) -> None:
    """All that keeps the stores apart, in one error."""
    problems = []
    codecs = {store.path: store.manifest.codec for store in stores if store.manifest.codec is not None}
    if len({(codec.hash, codec.codes_per_sec) for codec in codecs.values()}) > 1:
        lines = [f"    {path}: {codec.name}, hash {codec.hash}" for path, codec in codecs.items()]
        problems += ["  codecs differ, and codes of one mean nothing to another: re-encode the audio", *lines]
    tokenizers = {store.path: store.manifest.tokenizer.fingerprint for store in stores}
    if len(set(tokenizers.values())) > 1:
        problems.append(
            "  tokenizers differ: bring them to one with `titan-speech store migrate STORE --tokenizer DIR` (and "
            "--old-tokenizer with the folder of its own where it has parts of text)"
        )
        problems += [f"    {path}: {fingerprint}" for path, fingerprint in tokenizers.items()]
    versions = {store.path: store.manifest.normalization_version for store in stores}
    if len(set().union(*map(rules_of, versions.values()))) > 1:
        problems.append("  normalizations differ: bring each to this version's, DIR being the tokenizer's folder")
        for store in stores:
            problems += [f"    {store.path}: {versions[store.path]}", f"      {_normalizing(store)}"]
    if problems:
        raise DataError(f"{what_failed}:\n" + "\n".join(problems))


def _normalizing(store: Store) -> str:
    """The command; parts of text hold ids only, which their own tokenizer decodes."""
    decoded = " --old-tokenizer DIR" if any(part.info.kind is Kind.TEXT for part in store.parts) else ""
    return f"titan-speech store migrate {store.path} --normalization --tokenizer DIR{decoded} --output NEW"
