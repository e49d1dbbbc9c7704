"""Padded memmaps of the open Llasa training code.

In: folders with, for each split,

    {split}_input_ids.memmap       raw int32, one sample per row: text in its markers, codes in theirs, padding
    {split}_input_ids_shape.npy    number of rows and their fixed length

or several, `{split}_rank{r}_partial{p}_input_ids.memmap`, each with its shape; and the tokenizer the ids were made with
(`--llasa-tokenizer`), which turns ids into text, and into codes by their names. Out: samples of speech with the text as
`native` transcript. The rows say nothing else: `--language` and `--dataset-source` apply to all samples, and a sample
is named by file and row.

The released tokenizers have all names (`<|TEXT_UNDERSTANDING_START|>`, ..., `<|s_0|>` to `<|s_65535|>`). The training
code starts from the plain Llama tokenizer instead, and appends eight markers and then the codes
(titan_speech.tokenization.foreign_layouts); that rule is used for tokenizers with none of the names.

A row without exactly one pair of speech markers, or with anything but codes between them, is a bad sample: some scripts
truncate long rows. A unit is a range of rows of 256 MB.

Shapes: B rows at a time, L ids of a row, T codes of a sample.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from titan_speech.errors import DataError
from titan_speech.importers.base import BadSample, ImportOptions, Sample, SpeechSample, Unit
from titan_speech.importers.files import chosen_split, format_hint
from titan_speech.importers.npy import mapped_npy
from titan_speech.importers.records import narrow_codes
from titan_speech.store.files import mapped_array
from titan_speech.store.problems import Problem
from titan_speech.store.sample import SampleInfo
from titan_speech.tokenization.foreign_layouts import LLASA
from titan_speech.tokenization.vocabulary import NUM_CODES

TEXT_START, TEXT_END = "<|TEXT_UNDERSTANDING_START|>", "<|TEXT_UNDERSTANDING_END|>"
SPEECH_START, SPEECH_END = "<|SPEECH_GENERATION_START|>", "<|SPEECH_GENERATION_END|>"
MARKERS = LLASA.tokens[:-NUM_CODES]
NOT_A_CODE = -1
ROWS_AT_ONCE = 256
IDS_AT_ONCE = MAX_ROW_IDS = 16 << 20
ID_BYTES = 4
_NAME = re.compile(r"(?P<split>.+?)(?:_rank(?P<rank>\d+)_partial(?P<partial>\d+))?_input_ids\.memmap")


@dataclass(frozen=True)
class LlasaLayout:
    """Ids of the markers around text and speech, and `code_V[id]`: the code an id stands for, or -1."""

    markers: dict[str, int]
    code_V: NDArray[np.int32]

    @classmethod
    def of(cls, tokenizer: Tokenizer, path: Path) -> LlasaLayout:
        """The layout of a tokenizer; raises `DataError` if it has some of the names and not all."""
        names = LLASA.tokens
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        absent = [name for name in names if name not in vocabulary]
        if len(absent) == len(names):
            first = max(vocabulary.values()) + 1
            vocabulary = {name: first + index for index, name in enumerate(names)}
        elif absent:
            raise DataError(
                f"{path} has {len(names) - len(absent)} of Llasa's {len(names)} markers and codes, not {absent[0]!r}; "
                "give the tokenizer the ids were made with, or the plain Llama one the training code starts from"
            )
        code_V = np.full(max(vocabulary[name] for name in names) + 1, NOT_A_CODE, np.int32)
        code_V[[vocabulary[name] for name in names[len(MARKERS) :]]] = np.arange(NUM_CODES)
        return cls({name: vocabulary[name] for name in MARKERS}, code_V)

    @cached_property
    def _first_code_id(self) -> int | None:
        """The id of code 0 if the ids of the codes are consecutive, as they normally are; otherwise None."""
        first = int(np.argmax(self.code_V == 0))
        return first if np.array_equal(self.code_V[first : first + NUM_CODES], np.arange(NUM_CODES)) else None

    def codes(self, ids_N: NDArray) -> NDArray:
        """uint16 if all are codes and the ids are consecutive; otherwise int32, with -1 for ids that are not codes."""
        if self._first_code_id is not None:
            codes_N = narrow_codes(ids_N - np.int32(self._first_code_id))
            if codes_N.dtype == np.uint16:
                return codes_N
        inside_N = (ids_N >= 0) & (ids_N < len(self.code_V))
        return np.where(inside_N, self.code_V[np.where(inside_N, ids_N, 0)], NOT_A_CODE)


class LlasaImporter:
    """`--from llasa`."""

    def __init__(self, options: ImportOptions) -> None:
        missing = [name for name in ("dataset_source", "language", "llasa_tokenizer") if not getattr(options, name)]
        if missing:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in missing)
            raise DataError(f"Llasa memmaps do not state these themselves: give {flags}")
        if options.columns:
            raise DataError("Llasa memmaps have no columns: leave out --columns")
        self._options = options
        self._files = {str(path): _shape(path) for root in options.inputs for path in _memmaps(root, options)}
        for path, (_, length) in self._files.items():
            if length > MAX_ROW_IDS:
                raise DataError(f"{path} has rows of {length:,} ids, expected at most {MAX_ROW_IDS:,}")

    def units(self) -> list[Unit]:
        return [unit for path, shape in self._files.items() for unit in self._units(Path(path), *shape)]

    def _units(self, path: Path, num_rows: int, length: int) -> Iterator[Unit]:
        step = max(1, self._options.unit_bytes // (ID_BYTES * length))
        for first in range(0, num_rows, step):
            stop = min(first + step, num_rows)
            name = f"{path.parent.name}/{path.stem}:{first}"
            yield Unit(name, path, (stop - first) * length * ID_BYTES, first, stop, (_shape_path(path),))

    def samples(self, unit: Unit) -> Iterator[Sample]:
        num_rows, length = self._files[str(unit.path)]
        ids_NL = mapped_array(unit.path, np.dtype("<i4")).reshape(num_rows, length)
        stop = unit.stop if unit.stop is not None else num_rows
        at_once = max(1, min(ROWS_AT_ONCE, IDS_AT_ONCE // length))
        for first in range(unit.start, stop, at_once):
            yield from self._block(unit.path, first, ids_NL[first : min(first + at_once, stop)])

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        path = self._tokenizer_path
        try:
            return Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise DataError(f"--llasa-tokenizer {path} is not a tokenizer.json ({error})") from error

    @property
    def _tokenizer_path(self) -> Path:
        path = self._options.llasa_tokenizer or Path()
        return path / "tokenizer.json" if path.is_dir() else path

    @cached_property
    def _layout(self) -> LlasaLayout:
        return LlasaLayout.of(self._tokenizer, self._tokenizer_path)

    def _block(self, path: Path, first_row: int, ids_BL: NDArray[np.int32]) -> Iterator[Sample]:
        starts_B = _only_position(ids_BL == self._layout.markers[SPEECH_START])
        ends_B = _only_position(ids_BL == self._layout.markers[SPEECH_END])
        texts = self._texts(ids_BL, starts_B)
        source, language = self._options.dataset_source or "", self._options.language or ""
        file_name = f"{path.parent.name}/{path.stem.removesuffix('_input_ids')}"
        for row, (start, end) in enumerate(zip(starts_B.tolist(), ends_B.tolist(), strict=True)):
            name = f"{file_name}:{first_row + row}"
            codes_T = self._layout.codes(ids_BL[row, start + 1 : end]) if 0 <= start < end else None
            if codes_T is None:
                yield BadSample(name, Problem("speech marks", _marker_problem(start, end)), first_row + row)
            elif codes_T.dtype != np.uint16 and (codes_T == NOT_A_CODE).any():
                where = int(np.flatnonzero(codes_T == NOT_A_CODE)[0])
                detail = f"id {ids_BL[row, start + 1 + where]} at position {start + 1 + where} is not a code"
                problem = Problem("not a code", f"{detail}: is it the right --llasa-tokenizer?")
                yield BadSample(name, problem, first_row + row)
            else:
                transcripts = {"native": texts[row]} if texts[row] else {}
                info = SampleInfo(sample_id=name, dataset_source=source, language=language)
                yield SpeechSample(info, codes_T, transcripts, first_row + row)

    def _texts(self, ids_BL: NDArray[np.int32], speech_B: NDArray[np.int64]) -> list[str]:
        """The text between the text markers before the speech; empty for rows without them."""
        starts_B = _only_position(ids_BL == self._layout.markers[TEXT_START])
        ends_B = _only_position(ids_BL == self._layout.markers[TEXT_END])
        has_text_B = (starts_B >= 0) & (ends_B > starts_B) & (ends_B < speech_B)
        stops_B = np.where(has_text_B, ends_B, starts_B + 1)
        borders = zip((starts_B + 1).tolist(), stops_B.tolist(), strict=True)
        ids = [ids_BL[row, start:stop].tolist() for row, (start, stop) in enumerate(borders)]
        return self._tokenizer.decode_batch(ids, skip_special_tokens=False)


def _only_position(is_marker_BL: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Position of the only marker in each row: -1 for rows without it, -2 for rows with several."""
    count_B = is_marker_BL.sum(axis=1)
    return np.where(count_B == 1, is_marker_BL.argmax(axis=1), np.where(count_B == 0, -1, -2))


def _marker_problem(start: int, end: int) -> str:
    """What is wrong with speech markers at these positions."""
    if -2 in (start, end):
        return "several speech markers: expected one start and one end"
    if -1 in (start, end):
        return f"no {SPEECH_START if start == -1 else SPEECH_END}: was the row truncated?"
    return f"speech ends at position {end} and begins at {start}"


def _memmaps(root: Path, options: ImportOptions) -> list[Path]:
    """The memmaps of the chosen split; partial files take precedence over a whole one, as in the training code."""
    if not root.exists():
        raise DataError(f"input {root} does not exist")
    matches = {path: match for path in sorted(root.glob("*.memmap")) if (match := _NAME.fullmatch(path.name))}
    if not matches:
        raise DataError(
            f"{root} has no SPLIT_input_ids.memmap, expected for --from llasa{format_hint([root], 'llasa')}"
        )
    split = chosen_split(root, sorted({match["split"] for match in matches.values()}), options.split)
    chosen = {path: match for path, match in matches.items() if match["split"] == split}
    parts = [path for path, match in chosen.items() if match["rank"] is not None]
    return sorted(parts, key=lambda path: (int(chosen[path]["rank"]), int(chosen[path]["partial"]))) or list(chosen)


def _shape_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}_shape.npy")


def _shape(path: Path) -> tuple[int, int]:
    file = _shape_path(path)
    try:
        found = mapped_npy(file)
        shape = found.tolist() if found.size == 2 else f"an array of shape {found.shape}"
    except (OSError, ValueError) as error:
        raise DataError(
            f"{file}, the shape of {path.name}, cannot be read ({error}); copy it to the same folder"
        ) from error
    if not (isinstance(shape, list) and len(shape) == 2 and all(isinstance(n, int) and n > 0 for n in shape)):
        raise DataError(f"{file} says {shape}: expected the number of rows and their length")
    expected = shape[0] * shape[1] * ID_BYTES
    if path.stat().st_size != expected:
        raise DataError(
            f"{path} has {path.stat().st_size} bytes, but {shape[0]} rows of {shape[1]} int32 are {expected}: "
            "it is truncated or the shape is of another file; copy both again"
        )
    return shape[0], shape[1]
