"""Language tags, and the scripts that languages are written in.

In: tags as sources have them (`hin`, `hin_Deva`, `Hindi`, `pan_Guru`). Out: the tag that a store uses (the shortest BCP
47 primary subtag), and the script to expect. Text can be checked against its script only in languages of this table;
text of others passes that check. ISO 639-3 codes outside the table stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Language:
    """One language and the names that sources use for it."""

    tag: str
    iso3: tuple[str, ...]
    script: str
    """Name of the Unicode script property."""
    name: str


LANGUAGES = (
    Language("en", ("eng",), "Latin", "English"),
    Language("hi", ("hin",), "Devanagari", "Hindi"),
    Language("bn", ("ben",), "Bengali", "Bengali"),
    Language("ta", ("tam",), "Tamil", "Tamil"),
    Language("te", ("tel",), "Telugu", "Telugu"),
    Language("mr", ("mar",), "Devanagari", "Marathi"),
    Language("gu", ("guj",), "Gujarati", "Gujarati"),
    Language("kn", ("kan",), "Kannada", "Kannada"),
    Language("ml", ("mal",), "Malayalam", "Malayalam"),
    Language("pa", ("pan",), "Gurmukhi", "Punjabi"),
    Language("or", ("ori", "ory"), "Oriya", "Odia"),
    Language("as", ("asm",), "Bengali", "Assamese"),
    Language("ur", ("urd",), "Arabic", "Urdu"),
    Language("ne", ("nep", "npi"), "Devanagari", "Nepali"),
    Language("sa", ("san",), "Devanagari", "Sanskrit"),
    Language("mai", ("mai",), "Devanagari", "Maithili"),
    Language("gom", ("gom",), "Devanagari", "Goan Konkani"),
    Language("kok", ("kok",), "Devanagari", "Konkani"),
    Language("si", ("sin",), "Sinhala", "Sinhala"),
    Language("es", ("spa",), "Latin", "Spanish"),
    Language("fr", ("fra",), "Latin", "French"),
    Language("de", ("deu",), "Latin", "German"),
    Language("it", ("ita",), "Latin", "Italian"),
    Language("pt", ("por",), "Latin", "Portuguese"),
    Language("ru", ("rus",), "Cyrillic", "Russian"),
    Language("ar", ("ara", "arb"), "Arabic", "Arabic"),
    Language("fa", ("fas", "pes"), "Arabic", "Persian"),
)
SCRIPTS = {
    "Latn": "Latin",
    "Deva": "Devanagari",
    "Beng": "Bengali",
    "Guru": "Gurmukhi",
    "Gujr": "Gujarati",
    "Orya": "Oriya",
    "Taml": "Tamil",
    "Telu": "Telugu",
    "Knda": "Kannada",
    "Mlym": "Malayalam",
    "Sinh": "Sinhala",
    "Arab": "Arabic",
    "Cyrl": "Cyrillic",
    "Olck": "Ol_Chiki",
    "Mtei": "Meetei_Mayek",
}
"""Subtags of scripts (ISO 15924) and names of the Unicode script property."""
INDIC_SCRIPTS = frozenset(
    "Devanagari Bengali Gurmukhi Gujarati Oriya Tamil Telugu Kannada Malayalam Sinhala".split()  # noqa: SIM905
)

_BY_TAG = {language.tag: language for language in LANGUAGES}
_TAGS = (
    {language.tag: language.tag for language in LANGUAGES}
    | {iso3: language.tag for language in LANGUAGES for iso3 in language.iso3}
    | {language.name.lower(): language.tag for language in LANGUAGES}
)


def to_tag(name: str) -> str:
    """The tag that stores use: `hi` for `hin`, `Hindi`, `hin_Deva`, `hi-IN`, and `hi-Latn` for romanized text.

    The subtag of a script is left out where the language is usually written in that script: `pan_Guru` is `pa`,
    `pan_Arab` is `pa-Arab`. Names of unknown languages are returned unchanged.
    """
    primary, *subtags = name.strip().replace("_", "-").split("-")
    tag = _TAGS.get(primary.lower(), primary.lower() if len(primary) <= 3 else name.strip())
    subtags = [subtag.title() if _is_script(subtag) else subtag for subtag in subtags]
    own = script_of(tag)
    return "-".join([tag, *(subtag for subtag in subtags if own is None or SCRIPTS.get(subtag) != own)])


def script_subtag(tag: str) -> str | None:
    """The subtag of a script, as `Latn` of `hi-Latn`; None where the language's usual script is meant."""
    return next(filter(_is_script, tag.split("-")[1:]), None)


def _is_script(subtag: str) -> bool:
    """Four letters; a variant of four characters has a digit, as `1901` of `de-1901`."""
    return len(subtag) == 4 and subtag.isalpha()


def script_of(tag: str) -> str | None:
    """The script that text of this tag is written in; None if it is not known."""
    if (subtag := script_subtag(tag)) is not None:
        return SCRIPTS.get(subtag)
    primary = tag.split("-")[0]
    return _BY_TAG[primary].script if primary in _BY_TAG else None


def is_indic(tag: str) -> bool:
    """Whether text of this tag is written in an Indic script."""
    return script_of(tag) in INDIC_SCRIPTS


def tag_of_path(path: Path) -> str | None:
    """The language that a file's name, or else its folder's name, begins with.

    `hi` for `hi_part_00000.parquet`, `hin/data-0.parquet` and `hi-1.txt`; None if neither names a language.
    """
    for name in (path.name.split(".")[0], path.parent.name):
        primary = name.replace("-", "_").split("_")[0]
        if primary in _TAGS and primary == primary.lower():
            script = next((part for part in name.replace("-", "_").split("_") if part in SCRIPTS), None)
            return to_tag(f"{primary}-{script}" if script else primary)
    return None
