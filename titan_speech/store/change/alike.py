"""Whether stores speak one language of codes and ids.

In: stores that are to become one. Out: nothing, or an error that names every difference and what brings them together.
"""

from __future__ import annotations

from collections.abc import Sequence

from titan_speech.errors import DataError
from titan_speech.store.store import Store


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
            "  tokenizers differ: bring them to one with `titan-speech store migrate STORE --tokenizer DIR`"
        )
        problems += [f"    {path}: {fingerprint}" for path, fingerprint in tokenizers.items()]
    versions = {store.path: store.manifest.normalization_version for store in stores}
    if len(set(versions.values())) > 1:
        problems.append(
            "  normalizations differ: bring them to one with `titan-speech store migrate STORE --normalization`"
        )
        problems += [f"    {path}: {version}" for path, version in versions.items()]
    if problems:
        raise DataError(f"{what_failed}:\n" + "\n".join(problems))
