"""What is known of published vocabularies, as far as it can be told without them."""

from __future__ import annotations

import base64
import hashlib
import json

from tests.support.runs import ROOT
from titan_speech.tokenization.known_tokenizers import (
    KNOWN_VOCABULARIES,
    byte_spelling,
    ranks_fingerprint,
    vocabulary_fingerprint,
)

README = (ROOT / "tokenizer" / "README.md").read_text(encoding="utf-8")


def test_the_page_lists_what_the_program_knows() -> None:
    rows = [line.split("|")[1:-1] for line in README.splitlines() if line.startswith(("| `llama3/`", "| `qwen3/`"))]
    listed = {row[4].strip(" `"): (int(row[2].replace(",", "")), int(row[3].replace(",", ""))) for row in rows}
    assert listed == {
        fingerprint: (known.num_tokens, known.num_base) for fingerprint, known in KNOWN_VOCABULARIES.items()
    }


def test_recipes_give_the_rows_of_their_family() -> None:
    for known, folder in zip(KNOWN_VOCABULARIES.values(), ("llama3", "qwen3"), strict=True):
        recipe = json.loads((ROOT / "tokenizer" / folder / "recipe.json").read_text(encoding="utf-8"))
        assert recipe["num_base"] == known.num_base


def test_a_fingerprint_does_not_depend_on_the_format_but_on_every_token_and_its_place() -> None:
    ranks = {b"a": 0, b"\xff ": 1, "न".encode(): 2}
    lines = b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items())
    assert ranks_fingerprint(ranks) == hashlib.sha256(lines).hexdigest()
    letters = byte_spelling()
    spelt = {"".join(letters[byte] for byte in token): rank for token, rank in reversed(ranks.items())}
    assert vocabulary_fingerprint(spelt) == ranks_fingerprint(ranks)
    assert ranks_fingerprint({b"a": 1, b"\xff ": 0, "न".encode(): 2}) != ranks_fingerprint(ranks)
    assert ranks_fingerprint({b"b": 0, b"\xff ": 1, "न".encode(): 2}) != ranks_fingerprint(ranks)


def test_a_vocabulary_that_is_not_spelt_byte_by_byte_has_none() -> None:
    assert vocabulary_fingerprint({"▁the": 0}) is None
