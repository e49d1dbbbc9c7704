"""A tiktoken vocabulary as a tokenizer.json.

In: `tokenizer.model`, as Meta publishes Llama 3: one `base64(token) rank` a line. Out: the JSON of the `tokenizers`
library that gives the same ids, so that everything after this knows one kind of tokenizer. Ranks imply merges: a token
comes of every pair of tokens that spell it, in the order of its rank. Loading Llama 3 this way took 11 s where
tokenizer.json took 6, on a busy machine.

The backbone's text tokenizer, read from a folder.

In: `tokenizer.json` (Hugging Face `tokenizers`) or Llama 3's `tokenizer.model` (tiktoken), and beside it whatever
says which tokens open and close a document and how many rows the backbone has. Out: text ids without specials, and
the `Vocabulary` that grows from them.

Read in falling order of precedence: recipe.json (`bos_token`, `eos_token`, `num_base`), config.json (`vocab_size`:
Qwen3 has 151,936 rows for 151,669 entries), tokenizer_config.json, special_tokens_map.json, names known by habit.

Text that spells a special ("<|end_of_text|>" on a web page) is encoded as ordinary characters, never as that
special. The fingerprint covers what can change an id, so a file that was only re-indented keeps it; that
costs parsing the file a second time (1.2 s for the 8 MB of Llama 3.1, of 2.8 s to load it).
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tiktoken.load import load_tiktoken_bpe
from tokenizers import Tokenizer

from titan_speech.errors import VocabularyError
from titan_speech.tokenization.vocabulary import Vocabulary
from titan_speech.tokenization.word_ids import WordIds, word_ids_of

TIKTOKEN_NAME = "tokenizer.model"
LLAMA3_NUM_RANKS, LLAMA3_NUM_SPECIALS = 128_000, 256
LLAMA3_SPECIALS = {
    0: "<|begin_of_text|>",
    1: "<|end_of_text|>",
    4: "<|finetune_right_pad_id|>",
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    8: "<|eom_id|>",
    9: "<|eot_id|>",
    10: "<|python_tag|>",
}
"""Named specials after the ranks, as of Llama 3.1; the others are reserved and numbered as they come."""
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def tiktoken_as_json(file: Path) -> dict[str, Any]:
    """The content of tokenizer.json for a Llama 3 vocabulary.

    Raises:
        VocabularyError: the file is no tiktoken vocabulary, or not that of Llama 3.
    """
    try:
        ranks = load_tiktoken_bpe(str(file))
    except ValueError as error:
        raise VocabularyError(f"{file} is not a tiktoken vocabulary ({error}); a SentencePiece model is not") from error
    if len(ranks) != LLAMA3_NUM_RANKS:
        raise VocabularyError(
            f"{file} has {len(ranks)} tokens; of tiktoken vocabularies only Llama 3's is known, with "
            f"{LLAMA3_NUM_RANKS}: give tokenizer.json instead"
        )
    spelling = byte_spelling()
    spelt = {token: "".join(spelling[byte] for byte in token) for token in ranks}
    merges = [[spelt[left], spelt[right]] for token in ranks for left, right in _merges(ranks, token)]
    split = {"type": "Split", "pattern": {"Regex": LLAMA3_PATTERN}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_special(LLAMA3_NUM_RANKS + i, name) for i, name in enumerate(_special_names())],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": byte_level | {"add_prefix_space": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": {spelt[token]: rank for token, rank in ranks.items()},
            "merges": merges,
        },
    }


def _special_names() -> list[str]:
    reserved = (f"<|reserved_special_token_{i}|>" for i in range(LLAMA3_NUM_SPECIALS))
    return [LLAMA3_SPECIALS.get(i) or next(reserved) for i in range(LLAMA3_NUM_SPECIALS)]


def _special(id_: int, name: str) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": id_, "content": name, **plain, "special": True}


def _merges(ranks: dict[bytes, int], token: bytes) -> list[tuple[bytes, bytes]]:
    """Every pair of tokens that makes this one: tiktoken merges whichever of them it meets."""
    cuts = ((token[:i], token[i:]) for i in range(1, len(token)))
    pairs = [(left, right) for left, right in cuts if left in ranks and right in ranks]
    return sorted(pairs, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))


def byte_spelling() -> list[str]:
    """The letter that stands for each byte in byte-level vocabularies: itself where printable, else from 256 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


JSON_NAME, TOKENIZER_CONFIG_NAME = "tokenizer.json", "tokenizer_config.json"
TEXT_TOKENIZER = "text_tokenizer"
RECIPE_NAME = "recipe.json"
"""Folder inside a grown model's folder that holds the tokenizer of its text."""

# Pairs that open and close a document, tried in this order when no file of the folder names them. They count only
# as specials: Qwen3 has "<s>" as an ordinary entry.
KNOWN_PAIRS = (
    ("<|begin_of_text|>", "<|end_of_text|>"),
    ("<s>", "</s>"),
    ("<|endoftext|>", "<|endoftext|>"),
)
# Left out of the fingerprint: truncation, padding, post-processor (never used here) and the file's version.
IDENTITY_KEYS = ("added_tokens", "normalizer", "pre_tokenizer", "model")


@dataclass(frozen=True)
class DocumentTokens:
    """Which ids frame a document, and how many rows the backbone has; None where a file does not say."""

    bos_id: int | None = None
    eos_id: int | None = None
    num_base: int | None = None

    def or_else(self, other: DocumentTokens) -> DocumentTokens:
        pairs = ((self.bos_id, other.bos_id), (self.eos_id, other.eos_id), (self.num_base, other.num_base))
        return DocumentTokens(*(mine if mine is not None else theirs for mine, theirs in pairs))


class TextTokenizer:
    """Text to ids of the base rows and back; picklable."""

    def __init__(self, tokenizer: Tokenizer, *, bos_id: int, eos_id: int, num_base: int, identity: str) -> None:
        tokenizer.encode_special_tokens = True  # spelt specials are plain text
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._identity = identity
        self.bos_id, self.eos_id, self.num_base = bos_id, eos_id, num_base

    @classmethod
    def load(cls, path: str | Path) -> TextTokenizer:
        """Reads a folder with tokenizer.json or tokenizer.model, or that file itself."""
        file = tokenizer_file(Path(path))
        text = tokenizer_json(file)
        try:
            tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # the library raises bare Exception
            raise VocabularyError(f"{file} is not a tokenizer.json: {error}") from error
        found = _document_tokens(file.parent, tokenizer)
        num_entries = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        bos_id, eos_id, num_base = _checked(found, num_entries, file)
        return cls(tokenizer, bos_id=bos_id, eos_id=eos_id, num_base=num_base, identity=_identity(text))

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def encode_bytes(self, texts: Sequence[str]) -> list[bytes]:
        """uint32 ids of each text, for many texts: where it can, a word that was met before is looked up."""
        if self._words is not None:
            return self._words.encode(texts)
        return [array("I", ids).tobytes() for ids in self.encode_batch(list(texts))]

    @cached_property
    def _words(self) -> WordIds | None:
        return word_ids_of(self._tokenizer)

    def decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def token(self, id_: int) -> str:
        """Name of an entry."""
        token = self._tokenizer.id_to_token(id_)
        if token is None:
            raise VocabularyError(f"the tokenizer has no entry {id_}; its {self.num_base} rows are not all named")
        return token

    @cached_property
    def unknown_id(self) -> int | None:
        """What stands for characters the tokenizer lacks; None for byte-level ones, which lack none."""
        name = getattr(self._tokenizer.model, "unk_token", None)
        return None if name is None else self._tokenizer.token_to_id(name)

    @cached_property
    def fingerprint(self) -> str:
        """Changes when any text could get other ids or another frame; 16 hex characters."""
        frame = f"{self._identity}:{self.bos_id}:{self.eos_id}:{self.num_base}"
        return hashlib.sha256(frame.encode()).hexdigest()[:16]

    def vocabulary(self) -> Vocabulary:
        return Vocabulary(self.num_base, self.bos_id, self.eos_id, self.fingerprint)

    def __getstate__(self) -> tuple[str, int, int, int, str]:
        return self._tokenizer.to_str(), self.bos_id, self.eos_id, self.num_base, self._identity

    def __setstate__(self, state: tuple[str, int, int, int, str]) -> None:
        text, bos_id, eos_id, num_base, identity = state
        self.__init__(Tokenizer.from_str(text), bos_id=bos_id, eos_id=eos_id, num_base=num_base, identity=identity)


def tokenizer_file(path: Path) -> Path:
    """The file that holds the tokenizer of a folder; a grown model's folder has that of its text in a folder inside."""
    names = (f"{TEXT_TOKENIZER}/{JSON_NAME}", JSON_NAME, TIKTOKEN_NAME) if path.is_dir() else ("",)
    for name in names:
        if (path / name).is_file():
            return path / name
    raise VocabularyError(
        f"no tokenizer at {path}: expected a folder with {JSON_NAME} or {TIKTOKEN_NAME}, or such a file "
        "([tokenizer] path)"
    )


def tokenizer_json(file: Path) -> str:
    """The content of tokenizer.json, made from tokenizer.model where that is what there is."""
    if file.name == TIKTOKEN_NAME:
        return json.dumps(tiktoken_as_json(file), ensure_ascii=False)
    return file.read_text(encoding="utf-8")


def _identity(text: str) -> str:
    content = json.loads(text)
    kept = {key: content.get(key) for key in IDENTITY_KEYS}
    canonical = json.dumps(kept, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _document_tokens(folder: Path, tokenizer: Tokenizer) -> DocumentTokens:
    """The folder's own words first, in falling order of precedence, then the pairs known by name."""
    found = DocumentTokens()
    for name in (RECIPE_NAME, "config.json", TOKENIZER_CONFIG_NAME, "special_tokens_map.json"):
        found = found.or_else(_read_frame(folder / name, tokenizer))
    specials = {str(t): id_ for id_, t in tokenizer.get_added_tokens_decoder().items() if t.special}
    for bos, eos in KNOWN_PAIRS:
        if bos in specials and eos in specials:
            found = found.or_else(DocumentTokens(specials[bos], specials[eos]))
    return found


def _read_frame(file: Path, tokenizer: Tokenizer) -> DocumentTokens:
    if not file.is_file():
        return DocumentTokens()
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise VocabularyError(f"{file} is not JSON: {error}; repair it or take it away") from error
    if not isinstance(content, dict):
        raise VocabularyError(f"{file} holds a {type(content).__name__}; expected a JSON object")
    num_base = content.get("num_base", content.get("vocab_size"))
    ids = [_framing_id(content, name, tokenizer, file) for name in ("bos", "eos")]
    return DocumentTokens(ids[0], ids[1], num_base if isinstance(num_base, int) else None)


def _framing_id(content: dict[str, object], name: str, tokenizer: Tokenizer, file: Path) -> int | None:
    """`bos_token` (text, or an object with `content`) or `bos_token_id` (the first of a list)."""
    token = content.get(f"{name}_token")
    if isinstance(token, dict):
        token = token.get("content")
    if isinstance(token, str):
        id_ = tokenizer.token_to_id(token)
        if id_ is None:
            raise VocabularyError(f"{file} says {name}_token is {token!r}, which the tokenizer does not have")
        return id_
    id_ = content.get(f"{name}_token_id")
    id_ = id_[0] if isinstance(id_, list) and id_ else id_
    return id_ if isinstance(id_, int) else None


def _checked(found: DocumentTokens, num_entries: int, file: Path) -> tuple[int, int, int]:
    num_base = found.num_base if found.num_base is not None else num_entries
    problems = [
        f"no {name} token found: name it as {name}_token in recipe.json beside the tokenizer"
        for name, id_ in (("bos", found.bos_id), ("eos", found.eos_id))
        if id_ is None
    ]
    if num_base < num_entries:
        problems.append(f"num_base is {num_base}, but the tokenizer has {num_entries} entries")
    if problems or found.bos_id is None or found.eos_id is None:
        raise VocabularyError(f"{file}: " + "; ".join(problems))
    return found.bos_id, found.eos_id, num_base
