"""A tokenizer folder of its own: tokenizer.json with the recipe that says what it needs beside it.

In: a loaded text tokenizer and its file. Out: a folder that `TextTokenizer.load` reads to the same fingerprint,
whatever files said its document tokens before (config.json, tokenizer_config.json, ...).
"""

from __future__ import annotations

from pathlib import Path

from titan_speech.hf.writer import write_json
from titan_speech.text_tokenizer import JSON_NAME, TextTokenizer, tokenizer_json


def write_text_tokenizer(tokenizer: TextTokenizer, source: Path, folder: Path) -> None:
    """`source` is the file `tokenizer` was loaded from."""
    folder.mkdir(parents=True)
    (folder / JSON_NAME).write_text(tokenizer_json(source), encoding="utf-8")
    write_json(
        folder / "recipe.json",
        {
            "bos_token_id": tokenizer.bos_id,
            "eos_token_id": tokenizer.eos_id,
            "num_base": tokenizer.num_base,
        },
    )
