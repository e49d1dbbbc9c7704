"""conversion.json: where a folder that was moved between vocabularies came from.

In: the folder a model was read from, and the layout of the other side. Out: a record beside the moved weights, in
either direction. What the source said of itself is carried along, so that a model that goes there and back still names
the run it is from.

Models of other speech trainers, brought into this vocabulary and back.

In: a Hugging Face folder whose vocabulary has a foreign layout, or one of ours and the name of a layout. Out: the same
model with its rows where the other side has the same token, its special ids moved along, and the files beside the
weights that transformers reads:

    config.json, generation_config.json       special ids of the other side; the stop token stays the stop token
    tokenizer.json, tokenizer_config.json     every token by the name it has there
    chat_template.jinja                       as it was
    conversion.json                           where the model came from
    text_tokenizer/, expansion.json           on the way in only: what a run that starts from it reads

Every token of theirs has a place here, so theirs -> ours -> theirs gives the same weights bit for bit. Ours has rows
that they lack (specials, reserved rows): those do not go out, and on the way in they are drawn as an expansion does.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from titan_speech.checkpoint.provenance import package_versions, source_revision
from titan_speech.errors import ModelError
from titan_speech.hf.expand import Expansion, NewRows, inverse, is_expanded, read_expansion, write_moved
from titan_speech.hf.model_folder import HFFolder, read_json, tensor_shapes
from titan_speech.hf.safetensors_writer import new_folder, num_weight_bytes, write_json
from titan_speech.hf.tokenizer import (
    extended_tokenizer,
    extended_tokenizer_config,
    first_id,
    foreign_tokenizer,
    max_length,
    text_tokenizer,
    tokenizer_config,
    write_configs,
)
from titan_speech.model.exported_files import CONFIG_NAME, EXPANSION_NAME
from titan_speech.tokenization.foreign_layouts import NO_ROW, VocabularyLayout, layout_of_tokenizer
from titan_speech.tokenization.text_tokenizer import JSON_NAME, TEXT_TOKENIZER, TOKENIZER_CONFIG_NAME, TextTokenizer
from titan_speech.tokenization.vocabulary import Vocabulary

CONVERSION_NAME = "conversion.json"


@dataclass(frozen=True)
class Conversion:
    """Goes with the weights."""

    direction: Literal["to", "from"]
    """Whether `layout` is that of this folder or of the one it was made from."""
    layout: str
    source: str
    """Name of the folder, without those of the machine."""
    source_sha256: str
    """Of the source's weights, tensor by tensor in the order of the architecture."""
    origin: str
    """What the source said of itself; empty where it said nothing."""
    versions: tuple[str, ...]
    """Packages that converted it."""
    source_revision: str
    """Revision of titan_speech; empty where it was installed."""

    @classmethod
    def of(cls, direction: Literal["to", "from"], layout: str, source: Path, source_sha256: str) -> Conversion:
        name = source.absolute().name
        return cls(direction, layout, name, source_sha256, _origin(source), package_versions(), source_revision())

    def write(self, folder: Path) -> None:
        write_json(folder / CONVERSION_NAME, asdict(self))


def _origin(source: Path) -> str:
    if is_expanded(source):
        return str(read_expansion(source))
    if not (source / CONVERSION_NAME).is_file():
        return ""
    found = read_json(source / CONVERSION_NAME, "a converted model folder").get("origin")
    if not isinstance(found, str):
        raise ModelError(
            f"{source / CONVERSION_NAME} is damaged: origin is {found!r}, expected a text; remove the file"
        )
    return found


CHAT_TEMPLATE = "chat_template.jinja"


def import_model(source: Path, output: Path, layout: VocabularyLayout, how: NewRows) -> Vocabulary:
    """A model of another trainer as a grown folder a run can start from; the vocabulary it got.

    Which token a row is, its own tokenizer.json says; the layout says how many rows there are, and how many of text.

    Raises:
        ModelError: the folder has another number of rows than the layout, or cannot be used at all.
        VocabularyError: its tokenizer lacks speech codes, or has a token that has no place here.
    """
    if not (source / CONFIG_NAME).is_file() and any(source.glob("*.pt")):
        raise ModelError(
            f"{source} has .pt files and no {CONFIG_NAME}: a checkpoint in a trainer's own format. "
            "docs/coming_from_inworld.md has the lines that make a Hugging Face folder of it"
        )
    folder = HFFolder.open(source)
    _check_rows(folder, layout.num_rows, f"layout {layout.name}")
    content = read_json(source / JSON_NAME, f"a model folder of layout {layout.name}")
    theirs = layout_of_tokenizer(content, layout.num_base, str(source / JSON_NAME))
    if theirs.num_rows > folder.num_rows:
        raise ModelError(
            f"{source / JSON_NAME} has {theirs.num_rows:,} tokens, the embedding {folder.num_rows:,} rows; they are of "
            "different models"
        )
    num_rows = Vocabulary(theirs.num_base, bos_id=0, eos_id=0).num_rows
    with new_folder(output, num_weight_bytes(tensor_shapes(folder.shape, num_rows), folder.dtype)) as partial:
        tokenizer = text_tokenizer(folder, content, theirs, partial)
        vocabulary = tokenizer.vocabulary()
        ours_R = np.full(folder.num_rows, NO_ROW)
        ours_R[: theirs.num_rows] = theirs.rows_of_ours(vocabulary)
        config = write_configs(folder, partial, ours_R, num_rows=vocabulary.num_rows, pad_id=vocabulary.pad_id)
        base = json.loads((partial / TEXT_TOKENIZER / JSON_NAME).read_text(encoding="utf-8"))
        write_json(partial / JSON_NAME, extended_tokenizer(base, vocabulary))
        stop_id = first_id(config, "eos_token_id")
        stop_id = vocabulary.eos_id if stop_id is None else stop_id
        names = extended_tokenizer_config(tokenizer, vocabulary, stop_id, max_length(folder))
        write_json(partial / TOKENIZER_CONFIG_NAME, names)
        _copy_chat_template(source, partial)
        digest = write_moved(folder, partial, inverse(ours_R, vocabulary.num_rows), how)
        method = f"imported from layout {layout.name}, missing rows {how.method}"
        write_json(partial / EXPANSION_NAME, asdict(_growth(source, digest, vocabulary, method, how)))
        Conversion.of("from", layout.name, source, digest).write(partial)
    return vocabulary


def export_model(source: Path, output: Path, layout: VocabularyLayout) -> None:
    """A folder of ours with its rows where `layout` has them.

    Raises:
        ModelError: the folder is not one of ours, or of another backbone than the layout.
    """
    folder = HFFolder.open(source)
    tokenizer = TextTokenizer.load(source)
    vocabulary = tokenizer.vocabulary()
    _check_rows(folder, vocabulary.num_rows, "this trainer's vocabulary")
    base = read_json(source / TEXT_TOKENIZER / JSON_NAME, "a folder written by `titan-speech model expand` or `export`")
    ours_R = layout.rows_of_ours(vocabulary)
    with new_folder(output, num_weight_bytes(tensor_shapes(folder.shape, layout.num_rows), folder.dtype)) as partial:
        theirs_V = inverse(ours_R, vocabulary.num_rows)
        # They pad with the token that ends a text, and leave what is padding out of the loss: never the stop token.
        write_configs(folder, partial, theirs_V, num_rows=layout.num_rows, pad_id=vocabulary.eos_id)
        write_json(partial / JSON_NAME, foreign_tokenizer(base, layout))
        end = tokenizer.token(vocabulary.eos_id)
        bos = tokenizer.token(vocabulary.bos_id)
        names = tokenizer_config(bos=bos, eos=end, pad=end, max_length=max_length(folder))
        write_json(partial / TOKENIZER_CONFIG_NAME, names)
        _copy_chat_template(source, partial)
        digest = write_moved(folder, partial, ours_R, NewRows())
        Conversion.of("to", layout.name, source, digest).write(partial)


def _check_rows(folder: HFFolder, expected: int, what: str) -> None:
    if folder.num_rows != expected:
        raise ModelError(f"{folder.path} has {folder.num_rows:,} vocabulary rows, {what} has {expected:,}")


def _copy_chat_template(source: Path, output: Path) -> None:
    if (source / CHAT_TEMPLATE).is_file():
        shutil.copyfile(source / CHAT_TEMPLATE, output / CHAT_TEMPLATE)


def _growth(source: Path, digest: str, vocabulary: Vocabulary, method: str, how: NewRows) -> Expansion:
    return Expansion(
        source=str(source),
        source_sha256=digest,
        num_base=vocabulary.num_base,
        num_rows=vocabulary.num_rows,
        method=method,
        scale=how.scale,
        seed=how.seed,
        vocabulary=vocabulary.fingerprint,
    )
