"""Output of the open Inworld vectorizer (github.com/inworld-ai/tts, tools/data).

In: folders with, for each split,

    {split}_codes.npy          codes of all samples back to back: raw little-endian int32, in spite of its name without
                               a npy header (one is read if it is there)
    {split}_codes_index.npy    a real npy, one int64 a sample: where it begins; the last one ends with the codes
    {split}_samples.jsonl      line i for entry i: id, speaker_id, language, transcript, voice_description, sample_rate,
                               dataset_name, ... ; empty values are left out

or the same before `data_merger.py` ran, with _{rank} at the end of each name. Where both are there the merged files are
read. Out: samples of speech; a transcript is `native`, a voice description `description`. Emotion, style, sound effect,
DNSMOS and wav path have no place in a store. `--dataset-source` stands above `dataset_name`, which is only the name of
the folder the audio lay in; `--language` is for samples whose language is absent or "unknown".

A unit is a range of rows with 256 MB of codes. 11 us a sample to read, most of it JSON.

Shapes: N samples, T codes of one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from titan_speech.corpus.format import ImportOptions, Unit
from titan_speech.corpus.lines import index_lines, parsed, read_lines
from titan_speech.corpus.records import RecordReader
from titan_speech.corpus.samples import BadSample, Sample, SpeechSample
from titan_speech.errors import DataError
from titan_speech.store.problems import Problem
from titan_speech.store.shards import mapped_array

DEFAULTS = {
    "sample_id": "id",
    "dataset_source": "dataset_name",
    "transcript_native": "transcript",
    "transcript_description": "voice_description",
}
UNKNOWN_LANGUAGE = "unknown"
_INDEX = re.compile(r"(?P<split>.+)_codes_index(?P<rank>_\d+)?\.npy")
_NPY_MAGIC = b"\x93NUMPY"
