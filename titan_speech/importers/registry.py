"""Names that `--from` and `--preset` take: the importers, and the text sources whose columns and licences are known.

In: nothing, and nothing heavy is imported, so that the command line lists the names in its help. Out: the module that
reads a format; for a preset, which column holds which field, where the language is stated, the licence under which the
source is published, and what its rows need. Column names were read in the dataset cards on the Hugging Face Hub:
HuggingFaceFW/fineweb (text, id, dump, url, date, file_path, language, language_score, token_count), uonlp/CulturaX
(text, timestamp, url, source; one folder per language), togethercomputer/RedPajama-Data-V2 (raw_content, doc_id, meta,
quality_signals; signals as name -> [[start, end, value], ...]), ai4bharat/sangraha (doc_id, type, text; folders hin,
hin_Deva), ai4bharat/IndicCorpV2 (text; one file or split per language), laion/OIG (text with <human>: and <bot>:,
metadata), CohereForAI/aya_dataset (inputs, targets, language, language_code).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from titan_speech.errors import DataError

IMPORTERS: dict[str, tuple[str, str]] = {
    "audio": ("importers.audio", "AudioImporter"),
    "inworld": ("importers.inworld", "InworldImporter"),
    "jsonl": ("importers.jsonl", "JsonlImporter"),
    "llasa": ("importers.llasa", "LlasaImporter"),
    "mds": ("importers.mds", "MDSImporter"),
    "parquet": ("importers.parquet", "ParquetImporter"),
    "text-jsonl": ("importers.text_files", "TextJsonlImporter"),
    "text-parquet": ("importers.text_files", "TextParquetImporter"),
    "text-plain": ("importers.text_files", "TextPlainImporter"),
    "text-prepared": ("importers.text_prepared", "TextPreparedImporter"),
    "webdataset": ("importers.webdataset", "WebDatasetImporter"),
}
"""Name after `--from` to (module under titan_speech, class)."""


@dataclass(frozen=True)
class Preset:
    """The layout of one well-known text source."""

    source: str
    licence: str
    columns: Mapping[str, str] = field(default_factory=dict)
    language: str | None = None
    """Set if the whole source is in one language."""
    language_in_path: bool = False
    """The file or its folder is named after the language."""
    needs_signals: bool = False
    """Rows are unfiltered: they must have quality signals, which the rules of `text prepare` are applied to."""
    paragraphs: bool = False
    """In plain text, a blank line ends a document."""


_WEB_TERMS = "Common Crawl terms of use"

PRESETS = {
    "fineweb": Preset("fineweb", "ODC-BY-1.0", {"sample_id": "id", "text": "text", "language": "language"}),
    "culturax": Preset("culturax", "ODC-BY-1.0 (mC4), CC0-1.0 (OSCAR)", {"text": "text"}, language_in_path=True),
    "redpajama-v2": Preset(
        "redpajama-v2",
        _WEB_TERMS,
        {"sample_id": "doc_id", "text": "raw_content", "quality_signals": "quality_signals", "meta": "meta"},
        needs_signals=True,
    ),
    "sangraha": Preset("sangraha", "CC-BY-4.0", {"sample_id": "doc_id", "text": "text"}, language_in_path=True),
    "indiccorp-v2": Preset("indiccorp-v2", "CC0-1.0", {"text": "text"}, language_in_path=True, paragraphs=True),
    "oig": Preset("oig", "Apache-2.0", {"dialogue": "text"}, language="en"),
    "aya": Preset("aya", "Apache-2.0", {"user": "inputs", "text": "targets", "language": "language_code"}),
}
TEXT_LAYOUTS = ("paragraphs", "lines")
"""Presets of plain text that name no source: a blank line ends a document, or every line does."""


def find_preset(name: str | None) -> Preset | None:
    """The preset of a source; None for a layout or without a name."""
    if name is None or name in TEXT_LAYOUTS:
        return None
    if name not in PRESETS:
        raise DataError(f"unknown preset {name!r}; expected one of {', '.join((*PRESETS, *TEXT_LAYOUTS))}")
    return PRESETS[name]
