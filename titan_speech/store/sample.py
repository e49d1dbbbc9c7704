"""One sample's metadata: what a builder is given, what a row of a sidecar holds, and what is refused.

In: `SampleInfo` from an importer. Out: `SampleRow`, one row of a shard's parquet sidecar in the order of its tokens.
Times are seconds in the source recording, `sample_rate` is in Hz. A row takes 101 bytes in the sidecar with a
transcript of 60 characters, against 1,000 bytes for the codes of 10 s.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from math import inf

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from titan_speech.store.manifest import Kind
from titan_speech.store.problems import Problem
from titan_speech.tokenization.vocabulary import NUM_CODES
from titan_speech.utils.text_table import counted

TRANSCRIPT_VARIANTS = ("native", "romanized", "code_mixed", "audio_tagged")
SPEECH_VARIANTS = (*TRANSCRIPT_VARIANTS, "description")
TEXT_VARIANTS = ("user",)
VARIANTS = SPEECH_VARIANTS + TEXT_VARIANTS

CHOSEN, REJECTED, VOICE = "/chosen", "/rejected", "/voice"
"""How the ids of the two answers of a preference pair end, and that of the recording in whose voice they were to be
given, if there is one; what comes before is the prompt's name."""

_SOURCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_LANGUAGE = re.compile(r"(?P<primary>[a-z]{2,3})(-[A-Za-z0-9]{2,8})*")
# ISO 639-1. Three-letter tags are accepted when well formed: ISO 639-3 has some 7,900 of them.
_TWO_LETTER_LANGUAGES = """
    aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv
    dz ee el en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig
    ii ik io is it iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh
    mi mk ml mn mr ms mt my na nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru
    rw sa sc sd se sg sh si sk sl sm sn so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty
    ug uk ur uz ve vi vo wa wo xh yi yo za zh zu
""".split()  # noqa: SIM905


_TEXT_FIELDS = ("sample_id", "speaker_id", "source_video_id", "vad_config_hash")
_LEAST, _LARGEST = -(2**31), 2**31 - 1  # whole numbers of a sidecar have 32 bits


@dataclass(frozen=True, kw_only=True)
class SampleInfo:
    """A sample's metadata as an importer knows it."""

    sample_id: str
    """Unique in the store."""
    dataset_source: str
    language: str
    """BCP 47 tag with its shortest primary subtag: en, hi, mai, en-IN."""
    speaker_id: str | None = None
    source_video_id: str | None = None
    segment_order: int | None = None
    start_time: float | None = None
    end_time: float | None = None
    sample_rate: int | None = None
    vad_config_hash: str | None = None


@dataclass(frozen=True, kw_only=True)
class SampleRow(SampleInfo):
    """A row of the sidecar; `code_len` counts the sample's tokens in .tokens, `text_len_V` those in .text.V."""

    code_len: int
    checksum: int
    """xxh3_64 of the sample's bytes in .tokens."""
    tokenizer_version: str
    normalization_version: str
    codec_ckpt_hash: str | None = None
    transcript_hash: str | None = None
    transcript_native: str | None = None
    transcript_romanized: str | None = None
    transcript_code_mixed: str | None = None
    transcript_audio_tagged: str | None = None
    transcript_description: str | None = None
    text_len_native: int = 0
    text_len_romanized: int = 0
    text_len_code_mixed: int = 0
    text_len_audio_tagged: int = 0
    text_len_description: int = 0
    text_len_user: int = 0


_ARROW_TYPES = {
    "segment_order": pa.int32(),
    "start_time": pa.float64(),
    "end_time": pa.float64(),
    "sample_rate": pa.int32(),
    "code_len": pa.int32(),
    "checksum": pa.uint64(),
}


ROW_SCHEMA = pa.schema(
    [
        (field.name, pa.int32() if field.name.startswith("text_len_") else _ARROW_TYPES.get(field.name, pa.string()))
        for field in fields(SampleRow)
    ]
)


def absent_column(field: pa.Field, num_rows: int) -> pa.Array:
    """A column that samples lack: 0 where it counts tokens, otherwise null."""
    counts_tokens = field.name.startswith("text_len_")
    return pa.array(np.zeros(num_rows, np.int32)) if counts_tokens else pa.nulls(num_rows, field.type)


def transcript_hashes(texts: Iterable[str | None]) -> list[str | None]:
    """16 hex characters for each native transcript, by which copies are found; None without one."""
    return [None if text is None else hashlib.sha256(text.encode()).hexdigest()[:16] for text in texts]


def stored_columns(kind: Kind, variants: tuple[str, ...]) -> list[str]:
    """Columns of a part's sidecar: without those of absent variants, and without transcripts in text parts."""
    always = ("native", "romanized") if kind is Kind.SPEECH else ()
    dropped = {f"transcript_{v}" for v in VARIANTS if v not in variants and v not in always}
    dropped |= {f"text_len_{v}" for v in VARIANTS if v not in variants}
    if kind is Kind.TEXT:
        dropped |= {name for name in ROW_SCHEMA.names if name.startswith("transcript_")}
    return [name for name in ROW_SCHEMA.names if name not in dropped]


def info_problems(info: SampleInfo) -> list[Problem]:
    """Problems of a sample's metadata."""
    problems = []
    if not info.sample_id:
        problems.append(Problem("id", "empty sample_id"))
    problems += _part_problems(info.dataset_source, info.language)
    problems += [
        Problem(f"blank {name}", f"blank {name}: expected a name, or None; samples of one name belong together")
        for name in _TEXT_FIELDS[1:]
        if (value := getattr(info, name)) is not None and not value.strip()
    ]
    problems += unwritable_problems(
        {name: value for name in _TEXT_FIELDS if (value := getattr(info, name)) and not value.isascii()}
    )
    problems += _number_problems(info)
    return problems


def _number_problems(info: SampleInfo) -> list[Problem]:
    problems = []
    for name, number, least in (("segment_order", info.segment_order, _LEAST), ("sample_rate", info.sample_rate, 1)):
        if number is not None and not least <= number <= _LARGEST:
            detail = f"{name} is {number}: expected a whole number from {least} to {_LARGEST}"
            problems.append(Problem(f"range of {name}", detail))
    for name, time in (("start_time", info.start_time), ("end_time", info.end_time)):
        if time is not None and not 0 <= time < inf:
            problems.append(
                Problem("time", f"{name} is {time}: expected seconds from the beginning of the source, from 0")
            )
    if not problems and info.start_time is not None and info.end_time is not None and info.start_time >= info.end_time:
        detail = f"start_time {info.start_time} s is not before end_time {info.end_time} s"
        problems.append(Problem("time", detail))
    return problems


@lru_cache(maxsize=4096)
def _part_problems(dataset_source: str, language: str) -> tuple[Problem, ...]:
    """Problems of source and language, cached since many samples share them."""
    problems = []
    if not _SOURCE.fullmatch(dataset_source):
        detail = f"dataset_source {dataset_source!r}: expected letters, digits, '-' and '_'"
        problems.append(Problem("source", detail))
    if not is_language(language):
        detail = f"unknown language tag {language!r}: expected BCP 47 such as 'hi', 'mai' or 'en-IN'"
        problems.append(Problem("language", detail))
    return tuple(problems)


def is_language(tag: str) -> bool:
    """Whether the tag is BCP 47 with a known or three-letter primary subtag."""
    match = _LANGUAGE.fullmatch(tag)
    return match is not None and (len(match["primary"]) == 3 or match["primary"] in _TWO_LETTER_LANGUAGES)


def code_problems(codes_N: NDArray) -> list[Problem]:
    """Problems of a sample's codes: shape, type, range."""
    if codes_N.ndim != 1 or (codes_N.size and codes_N.dtype.kind not in "iu"):
        detail = f"codes are {codes_N.dtype} of shape {codes_N.shape}: expected one row of integers"
        return [Problem("code type", detail)]
    if codes_N.size == 0:
        return [Problem("no codes", "zero length: expected at least one code")]
    if codes_N.dtype == np.uint16:
        return []
    if not codes_N.dtype.isnative:
        codes_N = codes_N.astype(codes_N.dtype.newbyteorder("="))  # views below are of this machine's order
    unsigned_N = codes_N.view(f"u{codes_N.itemsize}")  # negative codes become huge: one pass finds both
    if np.maximum.reduce(unsigned_N) < NUM_CODES:
        return []
    bad = np.flatnonzero((codes_N < 0) | (codes_N >= NUM_CODES))
    value = int(codes_N[bad[0]])
    detail = f"code {value} at frame {bad[0]} is out of range: expected 0..{NUM_CODES - 1}"
    return [Problem("code range", detail)]


def transcript_problems(transcripts: Mapping[str, str]) -> list[Problem]:
    """Problems of the transcripts of a sample of speech, by variant."""
    problems = [
        Problem("variant", f"unknown transcript variant {name!r}: expected one of {', '.join(SPEECH_VARIANTS)}")
        for name in transcripts
        if name not in SPEECH_VARIANTS
    ]
    return problems + text_problems(transcripts)


def text_problems(texts: Mapping[str, str]) -> list[Problem]:
    """Problems of texts, by the name each has in messages."""
    return unwritable_problems(texts) + [
        Problem(f"blank {name}", f"blank {name} text: expected characters, or no {name} text at all")
        for name, text in texts.items()
        if not text.strip()
    ]


def unwritable_problems(texts: Mapping[str, str]) -> list[Problem]:
    """Texts that UTF-8 cannot write: JSON can spell half of a surrogate pair, where a text was cut inside an emoji."""
    problems = []
    for name, text in texts.items():
        try:
            _ = text.isascii() or text.encode()
        except UnicodeEncodeError as error:
            half = text[error.start]
            detail = f"{name} has half a character, {half!r}, at position {error.start}: write it again as UTF-8"
            problems.append(Problem(f"characters of {name}", detail))
    return problems


SLACK_CODES = 2.0
"""XCodec2's padding adds one code, the last frame is filled up, and times are often rounded to 10 ms."""
SLACK_SHARE = 0.02
"""Of the length: resampled video drifts, a wrong rate or a cut segment is off by more."""


def duration_mismatch(num_codes: int, duration_sec: float, codes_per_sec: float) -> float:
    """How far a segment's codes and times are apart, as a multiple of what is tolerated: up to 1 they match.

    Codecs pad and fill up their last frame, times are rounded or on a grid of their own: a few codes more or less prove
    nothing.
    """
    expected = duration_sec * codes_per_sec
    return abs(num_codes - expected) / (SLACK_CODES + SLACK_SHARE * expected)


def describe_duration_mismatch(num_codes: int, duration_sec: float, codes_per_sec: float) -> str:
    """What was found, for messages."""
    return f"{counted(num_codes, 'code')}; its times ({duration_sec:.2f} s) make {duration_sec * codes_per_sec:.0f}"


def duration_of(info: SampleInfo) -> float | None:
    """Duration in seconds by the sample's times; None unless both are known."""
    return None if info.start_time is None or info.end_time is None else info.end_time - info.start_time
