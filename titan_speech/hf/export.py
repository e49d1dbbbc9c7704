"""A checkpoint that is to be exported, with what its run says of it.

In: .../step-N or a run folder. Out: the step, its configuration, vocabulary and sizes, once its marker is there and its
files have the sizes the marker says (one stat a file; checksums would read all of it, 34 GB for 8B in float32, once
more). `titan-speech checkpoint mark` gives a checkpoint of another program its marker.

A checkpoint as a Hugging Face folder that transformers loads.

In: a DCP checkpoint, written by any number of ranks, and its run's configuration. Out: config.json with the grown
vocabulary, safetensors, tokenizer.json with every speech token by name, generation_config.json with the stop token,
and README.md, a card that says where all of it came from.

Tensors are read, converted and written one by one. At the highest there is the embedding in the type of the export and
the piece of it that one rank saved, never the model. TorchTitan's adapters convert names and the order of rotary
halves.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torchtitan.models.common.decoder import Decoder

from titan_speech.checkpoint.dcp_index import SafeFileSystemReader, load_into
from titan_speech.checkpoint.provenance import Provenance, read_provenance
from titan_speech.checkpoint.start import complete_steps
from titan_speech.checkpoint.upload.local import kept_for_upload
from titan_speech.checkpoint.verify import verify
from titan_speech.config.resolved import RESOLVED_NAME
from titan_speech.config.schema import SpeechConfig
from titan_speech.errors import CheckpointError, DataError
from titan_speech.hf.expand import TRAINED, Expansion
from titan_speech.hf.initial import trained_shape
from titan_speech.hf.model_card import ModelRecord, model_card, weights_fingerprint
from titan_speech.hf.model_folder import config_from_shape, tensor_shapes
from titan_speech.hf.safetensors_writer import new_folder, num_weight_bytes, write_json, write_weights
from titan_speech.hf.tokenizer import (
    extended_tokenizer,
    extended_tokenizer_config,
    write_text_tokenizer,
)
from titan_speech.model.attention import attention_config
from titan_speech.model.backbones import BackboneShape
from titan_speech.model.exported_files import CARD_NAME, CONFIG_NAME, EXPANSION_NAME, GENERATION_NAME
from titan_speech.model.spec import ADAPTERS, decoder_config
from titan_speech.preflight.config_checks import load_config
from titan_speech.store.reader import open_store
from titan_speech.tokenization.prompt_template import Grammar, Task
from titan_speech.tokenization.text_tokenizer import (
    JSON_NAME,
    TEXT_TOKENIZER,
    TOKENIZER_CONFIG_NAME,
    TextTokenizer,
    tokenizer_file,
    tokenizer_json,
)

EVALUATION_FOLDER = "evaluation"
"""Of a run folder: step-N.md has what was measured of a step, for the card of its export."""


@dataclass(frozen=True)
class WeightsCheckpoint:
    """A complete checkpoint with what its run says of it."""

    path: Path
    run_folder: Path
    step: int
    config: SpeechConfig
    tokenizer: TextTokenizer
    grammar: Grammar
    shape: BackboneShape
    provenance: Provenance | None

    @classmethod
    def open(cls, path: Path) -> WeightsCheckpoint:
        """`path` is .../step-N, or a run folder, whose newest checkpoint is taken.

        Raises:
            CheckpointError: there is none, or it was trained with another vocabulary than its tokenizer gives.
        """
        run_folder, checkpoint = _located(path)
        config = load_config(["--job.config_file", str(run_folder / RESOLVED_NAME)]).config
        tokenizer = TextTokenizer.load(config.tokenizer.path)
        grammar = Grammar(tokenizer.vocabulary())
        provenance = read_provenance(checkpoint)
        if provenance is not None and provenance.vocabulary != grammar.vocabulary.fingerprint:
            raise CheckpointError(
                f"{checkpoint} was trained with vocabulary {provenance.vocabulary}; the tokenizer at "
                f"{config.tokenizer.path} gives {grammar.vocabulary.fingerprint}. Restore the one it was trained with."
            )
        step = int(checkpoint.name.removeprefix("step-"))
        shape = trained_shape(config.model, provenance)
        return cls(checkpoint, run_folder, step, config, tokenizer, grammar, shape, provenance)

    def evaluation_notes(self) -> str:
        """What the run folder has on this step; empty where it has nothing."""
        file = self.run_folder / EVALUATION_FOLDER / f"{self.path.name}.md"
        return file.read_text(encoding="utf-8").strip() if file.is_file() else ""

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Retention leaves its files alone until the block ends.

        Raises:
            CheckpointError: it is gone, or being removed.
        """
        with kept_for_upload(self.path) as is_there:
            if not is_there:
                raise CheckpointError(f"{self.path} was removed, or is being removed (retention); take another step")
            yield


def _located(path: Path) -> tuple[Path, Path]:
    """Run folder and checkpoint folder."""
    if path.name.startswith("step-"):
        checkpoint = path.absolute()
        run_folder = next((p for p in checkpoint.parents if (p / RESOLVED_NAME).is_file()), None)
        if run_folder is None:
            raise CheckpointError(f"{path} belongs to no run: expected {RESOLVED_NAME} in a folder above")
        _check_whole(checkpoint)
        return run_folder, checkpoint
    if not (path / RESOLVED_NAME).is_file():
        raise CheckpointError(f"{path} is neither a checkpoint (.../step-N) nor a run folder with {RESOLVED_NAME}")
    folder = path / load_config(["--job.config_file", str(path / RESOLVED_NAME)]).config.checkpoint.folder
    steps = complete_steps(folder)
    if not steps:
        raise CheckpointError(f"no complete checkpoint in {folder}; has the run saved one yet?")
    _check_whole(folder / f"step-{steps[-1]}")
    return path, folder / f"step-{steps[-1]}"


def _check_whole(checkpoint: Path) -> None:
    found = verify(checkpoint, checksums=False)
    if not found.is_sound:
        raise CheckpointError(f"{checkpoint} is no complete checkpoint: {'; '.join(found.problems)}")


EXPORT_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}


def export(checkpoint: WeightsCheckpoint, output: Path, dtype: torch.dtype = torch.bfloat16) -> None:
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
        write_json(partial_folder / JSON_NAME, extended_tokenizer(json.loads(tokenizer_json(source)), vocabulary))
        names = extended_tokenizer_config(checkpoint.tokenizer, vocabulary, stop_id, checkpoint.config.training.seq_len)
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
        write_json(partial_folder / EXPANSION_NAME, asdict(_as_start(checkpoint)))
        about = (checkpoint.config, checkpoint.step, shape, vocabulary, checkpoint.provenance)
        card = model_card(*about, bos, codecs, notes)
        (partial_folder / CARD_NAME).write_text(card, encoding="utf-8")


def _as_start(checkpoint: WeightsCheckpoint) -> Expansion:
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


def _codecs(checkpoint: WeightsCheckpoint) -> tuple[str, ...]:
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

    def __init__(self, checkpoint: WeightsCheckpoint, dtype: torch.dtype) -> None:
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
