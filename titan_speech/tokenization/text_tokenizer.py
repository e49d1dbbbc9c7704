"""The text tokenizer of the backbone, read from a folder.

In: `tokenizer.json` (Hugging Face `tokenizers`) or Llama 3's `tokenizer.model` (tiktoken), and next to it the files
that name the first and last token of a document and the number of rows of the backbone. Out: text ids without specials,
and the `Vocabulary` that extends them by speech tokens.

Sources, in falling order of precedence: recipe.json (`bos_token`, `eos_token`, `num_base`), config.json (`vocab_size`:
Qwen3 has 151,936 rows for 151,669 entries), tokenizer_config.json, special_tokens_map.json, well-known names.

Markup: `"markup": ["<laugh>", ...]` in recipe.json names reserved rows of the vocabulary. Such a name in a text becomes
one id, that of its row; it must not be an entry of the tokenizer. Names may be added at the end, never moved.

Text that spells a special ("<|end_of_text|>" on a web page) is encoded as ordinary characters, never as that special.
The fingerprint covers what can change an id, so a file that was only re-indented keeps it; for that the file is parsed
a second time (1.2 s for the 8 MB of Llama 3.1, of 2.8 s to load it).
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from tokenizers import AddedToken, Tokenizer

from titan_speech.errors import VocabularyError
from titan_speech.tokenization.known_tokenizers import tiktoken_as_json
from titan_speech.tokenization.vocabulary import Vocabulary, check_markup
from titan_speech.tokenization.word_ids import WordIds, word_ids_of
from titan_speech.utils.json_text import parse_json, read_json_file, read_small_file

JSON_NAME, TOKENIZER_CONFIG_NAME = "tokenizer.json", "tokenizer_config.json"
TIKTOKEN_NAME, RECIPE_NAME = "tokenizer.model", "recipe.json"
MAX_BASE_ROWS = 1 << 24
"""Tables have a row per id; the largest vocabularies have 2**18."""
TEXT_TOKENIZER = "text_tokenizer"
"""Folder, inside the folder of a model with an extended vocabulary, that holds the tokenizer of its text."""

# First and last tokens of a document, tried in this order if no file of the folder names them. They count only as
# special tokens: Qwen3 has "<s>" as an ordinary entry.
KNOWN_PAIRS = (
    ("<|begin_of_text|>", "<|end_of_text|>"),
    ("<s>", "</s>"),
    ("<|endoftext|>", "<|endoftext|>"),
)
# Left out of the fingerprint: truncation, padding, post-processor (never used here) and the file's version.
IDENTITY_KEYS = ("added_tokens", "normalizer", "pre_tokenizer", "model")


@dataclass(frozen=True)
class DocumentTokens:
    """First and last id of a document and rows of the backbone; None where a file does not say."""

    bos_id: int | None = None
    eos_id: int | None = None
    num_base: int | None = None

    def or_else(self, other: DocumentTokens) -> DocumentTokens:
        """These values, and those of `other` where they are None."""
        pairs = ((self.bos_id, other.bos_id), (self.eos_id, other.eos_id), (self.num_base, other.num_base))
        return DocumentTokens(*(mine if mine is not None else theirs for mine, theirs in pairs))


class TextTokenizer:
    """Text to ids of the base rows and back; can be pickled."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        bos_id: int,
        eos_id: int,
        num_base: int,
        identity: str,
        markup: tuple[str, ...] = (),
    ) -> None:
        self.markup = markup
        tokenizer.add_tokens([AddedToken(name, normalized=False) for name in markup])
        tokenizer.encode_special_tokens = True  # text that spells a special stays text
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._identity = identity
        self.bos_id, self.eos_id, self.num_base = bos_id, eos_id, num_base
        rows = self.vocabulary().markup_ids
        self._row_of = {id_: rows[name] for name in markup if (id_ := tokenizer.token_to_id(name)) is not None}
        """The library numbers added tokens on from its own; the row of each of these numbers."""
        self._number_of = {row: number for number, row in self._row_of.items()}

    @classmethod
    def load(cls, path: str | Path) -> TextTokenizer:
        """Read a tokenizer.

        Args:
            path: a folder with tokenizer.json or tokenizer.model, or that file itself.

        Raises:
            VocabularyError: there is no tokenizer, or the first or last token of a document is not known.
        """
        file = tokenizer_file(Path(path))
        text = tokenizer_json(file)
        try:
            tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # the library raises bare Exception
            raise VocabularyError(f"{file} is not a tokenizer.json: {error}") from error
        found = _document_tokens(file.parent, tokenizer)
        num_entries = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        bos_id, eos_id, num_base = _checked(found, num_entries, file)
        markup = _markup(file.parent / RECIPE_NAME, tokenizer)
        return cls(tokenizer, bos_id=bos_id, eos_id=eos_id, num_base=num_base, identity=_identity(text), markup=markup)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special tokens except markup.

        Args:
            text: any text; it is not normalized.

        Returns:
            One id per token, below `num_base` except for markup.
        """
        return self._rows(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        found = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [self._rows(encoding.ids) for encoding in found]

    def _rows(self, ids: list[int]) -> list[int]:
        return [self._row_of.get(id_, id_) for id_ in ids] if self._row_of else ids

    def encode_bytes(self, texts: Sequence[str]) -> list[bytes]:
        """uint32 ids of each text as bytes, for building stores: known words are looked up (word_ids.py)."""
        if self._words is not None:
            plain = [text for text in texts if not any(name in text for name in self.markup)]
            if len(plain) == len(texts):
                return self._words.encode(texts)
            known = dict(zip(plain, self._words.encode(plain), strict=True))
            return [known[text] if text in known else array("I", self.encode(text)).tobytes() for text in texts]
        return [array("I", ids).tobytes() for ids in self.encode_batch(list(texts))]

    @cached_property
    def _words(self) -> WordIds | None:
        return word_ids_of(self._tokenizer)

    def decode(self, ids: list[int]) -> str:
        """The text of ids, special tokens included.

        Args:
            ids: ids as `encode` returns them.

        Returns:
            The text; bytes that are no UTF-8 become replacement characters.
        """
        numbers = [self._number_of.get(id_, id_) for id_ in ids] if self._number_of else ids
        return self._tokenizer.decode(numbers, skip_special_tokens=False)

    def token(self, id_: int) -> str:
        """Name of an entry.

        Raises:
            VocabularyError: no entry has this id.
        """
        token = self._tokenizer.id_to_token(id_)
        if token is None:
            raise VocabularyError(f"the tokenizer has no entry {id_}; its {self.num_base} rows are not all named")
        return token

    @cached_property
    def special_tokens(self) -> tuple[str, ...]:
        """Names of the control tokens, by id."""
        added = sorted(self._tokenizer.get_added_tokens_decoder().items())
        return tuple(token.content for _, token in added if token.special)

    @cached_property
    def unknown_id(self) -> int | None:
        """Id of the unknown token; None for byte-level tokenizers, which know every character."""
        name = getattr(self._tokenizer.model, "unk_token", None)
        return None if name is None else self._tokenizer.token_to_id(name)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change if any text could get other ids or a document other first and last tokens."""
        return self._fingerprint(self.markup)

    @cached_property
    def older_fingerprints(self) -> tuple[str, ...]:
        """Of the tokenizer with none, one, two, ... of its markup names: it reads what was made with these, where no
        text spells a name that came later."""
        return tuple(self._fingerprint(self.markup[:count]) for count in range(len(self.markup)))

    def _fingerprint(self, markup: tuple[str, ...]) -> str:
        frame = f"{self._identity}:{self.bos_id}:{self.eos_id}:{self.num_base}"
        frame += f":{json.dumps(markup)}" if markup else ""
        return hashlib.sha256(frame.encode()).hexdigest()[:16]

    def vocabulary(self) -> Vocabulary:
        """The vocabulary that extends the backbone's rows by speech tokens."""
        return Vocabulary(
            self.num_base, self.bos_id, self.eos_id, self.fingerprint, self.markup, self.older_fingerprints
        )

    def __reduce__(self) -> tuple[Callable[..., TextTokenizer], tuple[object, ...]]:
        ids = {"bos_id": self.bos_id, "eos_id": self.eos_id, "num_base": self.num_base}
        make = partial(TextTokenizer, **ids, identity=self._identity, markup=self.markup)
        return make, (self._tokenizer,)


def _markup(file: Path, tokenizer: Tokenizer) -> tuple[str, ...]:
    """The names under `markup` in recipe.json.

    Raises:
        VocabularyError: they are no names, come twice, are too many, or are entries of the tokenizer.
    """
    names = read_json_file(file).get("markup", []) if file.is_file() else []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise VocabularyError(f'{file}: markup is {names!r}; expected a list of names such as ["<laugh>"]')
    if taken := [name for name in names if tokenizer.token_to_id(name) is not None]:
        raise VocabularyError(
            f"{file}: markup {taken[0]} is an entry of the tokenizer already, with an id and a meaning of its own; "
            "choose another name"
        )
    try:
        check_markup(tuple(names))
    except VocabularyError as error:
        raise VocabularyError(f"{file}: {error}") from None
    return tuple(names)


def tokenizer_file(path: Path) -> Path:
    """The tokenizer's file in a folder, or the file itself.

    A model with an extended vocabulary has the tokenizer of its text in the folder `TEXT_TOKENIZER`, which comes first.

    Raises:
        VocabularyError: there is no such file.
    """
    names = (f"{TEXT_TOKENIZER}/{JSON_NAME}", JSON_NAME, TIKTOKEN_NAME) if path.is_dir() else ("",)
    for name in names:
        if (path / name).is_file():
            return path / name
    raise VocabularyError(
        f"no tokenizer at {path}: expected a folder with {JSON_NAME} or {TIKTOKEN_NAME}, or such a file "
        "([tokenizer] path)"
    )


def tokenizer_json(file: Path) -> str:
    """The content of a tokenizer.json, converted if the file is a tokenizer.model.

    Raises:
        VocabularyError: it is too large, or not UTF-8.
    """
    if file.name == TIKTOKEN_NAME:
        return json.dumps(tiktoken_as_json(file), ensure_ascii=False)
    try:
        return read_small_file(file).decode()
    except UnicodeDecodeError as error:
        raise VocabularyError(f"{file} is not UTF-8 ({error}); copy it again") from error
    except ValueError as error:
        raise VocabularyError(f"{file} is not a {JSON_NAME}: {error}") from error


def _identity(text: str) -> str:
    content = parse_json(text)
    kept = {key: content.get(key) for key in IDENTITY_KEYS}
    canonical = json.dumps(kept, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _document_tokens(folder: Path, tokenizer: Tokenizer) -> DocumentTokens:
    """From the files of the folder, in falling order of precedence, then from the well-known pairs."""
    found = DocumentTokens()
    for name in (RECIPE_NAME, "config.json", TOKENIZER_CONFIG_NAME, "special_tokens_map.json"):
        found = found.or_else(_read_document_tokens(folder / name, tokenizer))
    specials = {str(t): id_ for id_, t in tokenizer.get_added_tokens_decoder().items() if t.special}
    for bos, eos in KNOWN_PAIRS:
        if bos in specials and eos in specials:
            found = found.or_else(DocumentTokens(specials[bos], specials[eos]))
    return found


def _read_document_tokens(file: Path, tokenizer: Tokenizer) -> DocumentTokens:
    if not file.is_file():
        return DocumentTokens()
    try:
        content = read_json_file(file)
    except ValueError as error:
        raise VocabularyError(f"{file} is not JSON: {error}; repair it or remove it") from error
    if not isinstance(content, dict):
        raise VocabularyError(f"{file} holds a {type(content).__name__}; expected a JSON object")
    num_base = content.get("num_base", content.get("vocab_size"))
    ids = [_document_token_id(content, name, tokenizer, file) for name in ("bos", "eos")]
    return DocumentTokens(ids[0], ids[1], num_base if isinstance(num_base, int) else None)


def _document_token_id(content: dict[str, object], name: str, tokenizer: Tokenizer, file: Path) -> int | None:
    """The id named by `bos_token` (text, or an object with `content`) or `bos_token_id` (the first of a list)."""
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
        f"no {name} token found: name it as {name}_token in recipe.json next to the tokenizer"
        for name, id_ in (("bos", found.bos_id), ("eos", found.eos_id))
        if id_ is None
    ]
    if not num_entries <= num_base <= MAX_BASE_ROWS:
        expected = f"{num_entries}, the entries of the tokenizer, to {MAX_BASE_ROWS}"
        problems.append(f"num_base is {num_base}, expected {expected}")
    if problems or found.bos_id is None or found.eos_id is None:
        raise VocabularyError(f"{file}: " + "; ".join(problems))
    return found.bos_id, found.eos_id, num_base
