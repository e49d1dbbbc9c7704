"""A checkpoint as a Hugging Face folder that transformers loads.

In: a DCP checkpoint, written by any number of ranks, and its run's configuration. Out: config.json with the grown
vocabulary, safetensors, tokenizer.json with every speech token by name, generation_config.json with the stop token,
and README.md, a card that says where all of it came from.

Tensors are read, converted and written one by one. At the highest there is the embedding in the type of the export and
the piece of it that one rank saved, never the model. TorchTitan's adapters convert names and the order of rotary
halves.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torchtitan.models.common.decoder import Decoder

from titan_speech.checkpoint.dcp_index import SafeFileSystemReader, load_into
from titan_speech.errors import CheckpointError, DataError
from titan_speech.hf.card import model_card
from titan_speech.hf.config import config_from_shape
from titan_speech.hf.expand import RECORD_NAME, TRAINED, Expansion
from titan_speech.hf.folder import CONFIG_NAME
from titan_speech.hf.record import ModelRecord, weights_fingerprint
from titan_speech.hf.run_checkpoint import Checkpoint
from titan_speech.hf.special_ids import GENERATION_NAME
from titan_speech.hf.tensors import tensor_shapes
from titan_speech.hf.text_tokenizer_folder import write_text_tokenizer
from titan_speech.hf.tokenizer import grown_tokenizer, grown_tokenizer_config
from titan_speech.hf.writer import new_folder, num_weight_bytes, write_json, write_weights
from titan_speech.model.attention import attention_config
from titan_speech.model.flavors import decoder_config
from titan_speech.model.spec import ADAPTERS
from titan_speech.prompts import Task
from titan_speech.store.store import open_store
from titan_speech.text_tokenizer import (
    JSON_NAME,
    TEXT_TOKENIZER,
    TOKENIZER_CONFIG_NAME,
    tokenizer_file,
    tokenizer_json,
)

EXPORT_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}


def export(checkpoint: Checkpoint, output: Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write the folder `output`, which appears when it is complete.

    Raises:
        ModelError: the output is taken or there is no room.
        CheckpointError: the checkpoint lacks a tensor of the model or is damaged.
    """
    vocabulary, shape = checkpoint.grammar.vocabulary, checkpoint.shape
    shapes = tensor_shapes(shape, vocabulary.num_rows)
    stop_id = checkpoint.grammar.stop_id(Task.TTS)
    ids = {"bos_id": vocabulary.bos_id, "eos_id": stop_id, "pad_id": vocabulary.pad_id}
    config = config_from_shape(shape, vocabulary.num_rows, **ids)
    source = tokenizer_file(Path(checkpoint.config.tokenizer.path))
    with checkpoint.kept(), new_folder(output, num_weight_bytes(shapes, dtype)) as partial_folder:
        write_weights(partial_folder, shapes, dtype, _TensorReader(checkpoint, dtype).pieces)
        write_json(partial_folder / CONFIG_NAME, config | {"dtype": str(dtype).removeprefix("torch.")})
        write_json(partial_folder / GENERATION_NAME, _generation_config(ids))
        write_json(partial_folder / JSON_NAME, grown_tokenizer(json.loads(tokenizer_json(source)), vocabulary))
        names = grown_tokenizer_config(checkpoint.tokenizer, vocabulary, stop_id, checkpoint.config.training.seq_len)
        write_json(partial_folder / TOKENIZER_CONFIG_NAME, names)
        write_text_tokenizer(checkpoint.tokenizer, source, partial_folder / TEXT_TOKENIZER)
        bos = checkpoint.tokenizer.token(vocabulary.bos_id)
        codecs = _codecs(checkpoint)
        ModelRecord(
            step=checkpoint.step,
            vocabulary=vocabulary.fingerprint,
            grammar=checkpoint.grammar.fingerprint,
            codecs=codecs,
            weights=weights_fingerprint(checkpoint.path),
        ).write(partial_folder)
        notes = checkpoint.evaluation_notes()
        write_json(partial_folder / RECORD_NAME, asdict(_as_start(checkpoint)))
        about = (checkpoint.config, checkpoint.step, shape, vocabulary, checkpoint.provenance)
        card = model_card(*about, bos, codecs, notes)
        (partial_folder / "README.md").write_text(card, encoding="utf-8")


def _as_start(checkpoint: Checkpoint) -> Expansion:
    """The record by which a run knows rows for speech tokens that are there already."""
    vocabulary, provenance = checkpoint.grammar.vocabulary, checkpoint.provenance
    origin = f" that began from {provenance.initial}" if provenance is not None and provenance.initial else ""
    return Expansion(
        source=f"step {checkpoint.step} of a run{origin}",
        source_sha256="",
        num_base=vocabulary.num_base,
        num_rows=vocabulary.num_rows,
        method=TRAINED,
        scale=0.0,
        seed=0,
        vocabulary=vocabulary.fingerprint,
    )


def _codecs(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Codecs of the run's stores; none where the stores are not at hand."""
    found: set[str] = set()
    for store in {source.store for source in checkpoint.config.data.source}:
        try:
            codec = open_store(store, checkpoint.config.storage).manifest.codec
        except DataError:
            continue
        found |= {codec.hash} if codec is not None else set()
    return tuple(sorted(found))


def _generation_config(ids: dict[str, int]) -> dict[str, object]:
    """Decoding stops where a spoken target ends; sampling as the project's own decoding does."""
    return {
        "bos_token_id": ids["bos_id"],
        "eos_token_id": ids["eos_id"],
        "pad_token_id": ids["pad_id"],
        "do_sample": True,
        "temperature": 0.8,
        "top_k": 50,
        "top_p": 1.0,
    }


class _TensorReader:
    """Tensors of a checkpoint by their Hugging Face names."""

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype) -> None:
        self._path, self._dtype = checkpoint.path, dtype
        self._reader = SafeFileSystemReader(checkpoint.path)
        self._key, self._converted = "", dict[str, torch.Tensor]()
        config = decoder_config(checkpoint.shape, checkpoint.grammar.vocabulary.num_rows, attention_config("dense"))
        with torch.device("meta"):
            model = config.build()
        self._adapter = ADAPTERS[checkpoint.shape.family](config, None)  # pyright: ignore[reportArgumentType]
        self._native = {name: (key, value) for name, key, value in _native_tensors(self._adapter.to_hf, model)}

    def pieces(self, name: str) -> Iterator[torch.Tensor]:
        key, meta = self._native[name]
        if key != self._key:  # query, key and value are one tensor here: it is read once for the three
            self._converted.clear()
            self._key, self._converted = key, self._adapter.to_hf({key: self._read(key, meta.shape)})
        yield self._converted[name]

    def _read(self, key: str, shape: torch.Size) -> torch.Tensor:
        """In the type of the export: what is saved is converted as it is copied, chunk by chunk."""
        tensor = torch.empty(shape, dtype=self._dtype)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as it is meant to be
                load_into({key: tensor}, self._reader, no_dist=True)
        except CheckpointError:
            raise
        except (Exception, CheckpointException) as error:  # whatever a damaged file makes of itself
            raise CheckpointError(
                f"{self._path} cannot be read at {key}, so it is damaged or was cut short: {type(error).__name__}: "
                f"{str(error)[:300]}. Restore it or take another step."
            ) from error
        return tensor


def _native_tensors(
    to_hf: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], model: Decoder
) -> Iterator[tuple[str, str, torch.Tensor]]:
    """Hugging Face name, own name and shape of every tensor."""
    for key, value in model.state_dict().items():
        for name in to_hf({key: value}):
            yield name, key, value
