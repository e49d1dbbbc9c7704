"""Shared by the tests of importers: a unit's samples, all samples of an input, and a store made of them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

from titan_speech.importers.base import BadSample, Importer, ImportOptions, SpeechSample, open_importer
from titan_speech.store.problems import Problems


def opened(
    name: str, *inputs: Path, columns: Mapping[str, str] | None = None, language: str | None = "en", **options: str
) -> Importer:
    """An importer as a build opens it: with strings of the command line, and pickled for other processes."""
    source = options.pop("dataset_source", "tapes")
    asked = ImportOptions(inputs, dataset_source=source, language=language, columns=columns or {}, **options)  # type: ignore[arg-type]
    return pickle.loads(pickle.dumps(open_importer(name, asked)))


def imported(name: str, *inputs: Path, **options) -> dict[str, SpeechSample]:  # type: ignore[no-untyped-def]
    """All samples by id, in order."""
    samples = {}
    source = opened(name, *inputs, **options)
    for unit in source.units():
        problems = Problems(f"{unit.path} was not imported")
        for sample in source.samples(unit):
            if isinstance(sample, BadSample):
                problems.add(sample.name, sample.problem)
                continue
            assert isinstance(sample, SpeechSample)
            assert sample.info.sample_id not in samples
            samples[sample.info.sample_id] = sample
        problems.raise_if_any()
    return samples
