"""What Unicode's canonical forms leave open in the Indic scripts, as tables.

NFC already settles the order of nukta and virama, joins two-part vowel signs, and writes the nukta letters whose
composed form is excluded (U+0958 to U+095F, U+09DC to U+09DF, U+0A33 and their like) as letter and nukta. What it does
not touch is spelt alike on the screen and apart in memory: independent vowels typed as another vowel and a sign (tables
"do not use" of the Unicode standard, chapter 12), chillus and khanda ta written with a joiner, dandas at code points
that were never assigned. `indic-nlp-library` maps the same pairs, but also rewrites letters that differ in sound
(Odia va as ba, final m as anusvara), and asks for pandas, morfessor and sphinx themes: hence tables.
"""

from __future__ import annotations

VIRAMAS = "\u094d\u09cd\u0a4d\u0acd\u0b4d\u0bcd\u0c4d\u0ccd\u0d4d\u0dca"
ZWNJ, ZWJ = "\u200c", "\u200d"
DANDA, DOUBLE_DANDA = "\u0964", "\u0965"

_VOWELS_BY_BASE = {
    "\u0905": {"\u093e": "\u0906", "\u0946": "\u0904", "\u0949": "\u0911", "\u094a": "\u0912", "\u094b": "\u0913",
               "\u094c": "\u0914", "\u093a": "\u0973", "\u093b": "\u0974", "\u094f": "\u0975", "\u0956": "\u0976",
               "\u0957": "\u0977", "\u0945": "\u0972"},
    "\u0906": {"\u0945": "\u0911", "\u0946": "\u0912", "\u0947": "\u0913", "\u0948": "\u0914"},
    "\u090f": {"\u0945": "\u090d", "\u0946": "\u090e", "\u0947": "\u0910"},
    "\u0985": {"\u09be": "\u0986"},
    "\u0a05": {"\u0a3e": "\u0a06", "\u0a48": "\u0a10", "\u0a4c": "\u0a14"},
    "\u0a72": {"\u0a3f": "\u0a07", "\u0a40": "\u0a08", "\u0a47": "\u0a0f"},
    "\u0a73": {"\u0a41": "\u0a09", "\u0a42": "\u0a0a", "\u0a4b": "\u0a13"},
    "\u0a85": {"\u0abe": "\u0a86", "\u0ac5": "\u0a8d", "\u0ac7": "\u0a8f", "\u0ac8": "\u0a90", "\u0ac9": "\u0a91",
               "\u0acb": "\u0a93", "\u0acc": "\u0a94"},
    "\u0b05": {"\u0b3e": "\u0b06"},
    "\u0b0f": {"\u0b57": "\u0b10"},
    "\u0b13": {"\u0b57": "\u0b14"},
    "\u0c12": {"\u0c55": "\u0c13", "\u0c4c": "\u0c14"},
    "\u0c89": {"\u0cbe": "\u0c8a"},
    "\u0c92": {"\u0ccc": "\u0c94"},
    "\u0d07": {"\u0d57": "\u0d08"},
    "\u0d09": {"\u0d57": "\u0d0a"},
    "\u0d0e": {"\u0d46": "\u0d10"},
    "\u0d12": {"\u0d3e": "\u0d13", "\u0d57": "\u0d14"},
}  # fmt: skip

VOWELS = {base + sign: vowel for base, signs in _VOWELS_BY_BASE.items() for sign, vowel in signs.items()}
"""Vowel letters written as two characters, and the one character to use."""

_CHILLUS = {"\u0d23": "\u0d7a", "\u0d28": "\u0d7b", "\u0d30": "\u0d7c", "\u0d32": "\u0d7d", "\u0d33": "\u0d7e",
            "\u0d15": "\u0d7f"}  # fmt: skip

JOINED = {f"{letter}\u0d4d{ZWJ}": chillu for letter, chillu in _CHILLUS.items()} | {f"\u09a4\u09cd{ZWJ}": "\u09ce"}
"""Chillus and khanda ta as they were written before they had code points."""

_UNASSIGNED_BLOCKS = (0x09E4, 0x0A64, 0x0AE4, 0x0B64, 0x0BE4, 0x0C64, 0x0CE4, 0x0D64)

DANDAS = {chr(first): DANDA for first in _UNASSIGNED_BLOCKS} | {
    chr(first + 1): DOUBLE_DANDA for first in _UNASSIGNED_BLOCKS
}
"""All Indic scripts share Devanagari's dandas; these places in their blocks stay unassigned."""
