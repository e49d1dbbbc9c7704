"""Export a checkpoint as a Hugging Face folder that transformers loads.

In: .../step-N or a run folder, written by any number of ranks. Out: config.json with the extended vocabulary,
safetensors, tokenizer.json with every speech token by name, generation_config.json with the stop token, README.md (a
card that says where all of it came from), and records; model/exported_files.py lists the names.

A checkpoint is taken once its marker is there and its files have the sizes the marker says (one stat per file;
verifying checksums would read all of it again, 34 GB for 8B in float32). `titan-speech checkpoint mark` gives a
checkpoint of another program its marker.

Tensors are read, converted and written one by one. In memory at most are the embedding in the type of the export and
the piece of it that one rank saved, never the model: 2.33 GB for 0.6B (benchmarks/hf_memory.py). A LoRA checkpoint is
added to its base first, which takes the whole model in memory (`lora_export.py`). TorchTitan's adapters convert names;
rows of queries and keys are in Hugging Face's order already, or are reordered when they are read (`model/rotary.py`).
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from titan_speech.checkpoint.commit import (
    Checkpoint,
    committed_checkpoints,
    newest_unsuspected,
    step_from_name,
    suspicion,
)
from titan_speech.checkpoint.folders import lock_for_reading
from titan_speech.checkpoint.lora_base import weights_fingerprint
from titan_speech.checkpoint.provenance import Provenance, read_provenance
from titan_speech.checkpoint.verify import verify
from titan_speech.config.resolved import RESOLVED_NAME
from titan_speech.config.schema import SpeechConfig
from titan_speech.errors import CheckpointError, DataError
from titan_speech.hf.config_json import config_from_shape, trained_shape, write_json
from titan_speech.hf.expand import TRAINED_METHOD, Expansion
from titan_speech.hf.lora_export import TensorReader, base_of, holds_adapter, load_adapted
from titan_speech.hf.model_card import ModelRecord, model_card
from titan_speech.hf.model_folder import tensor_shapes
from titan_speech.hf.safetensors_writer import new_folder, num_weight_bytes, write_weights
from titan_speech.hf.tokenizer import (
    extended_tokenizer,
    extended_tokenizer_config,
    write_text_tokenizer,
)
from titan_speech.model.attention import attention_config
from titan_speech.model.backbones import BackboneShape
from titan_speech.model.exported_files import CARD_NAME, CONFIG_NAME, EVALUATION_FOLDER, GENERATION_NAME
from titan_speech.model.lora import is_of_base
from titan_speech.model.spec import HFAdapter, decoder_config
from titan_speech.preflight.config_checks import load_config
from titan_speech.store.reader import open_store
from titan_speech.tokenization.chat_template import chat_template
from titan_speech.tokenization.prompt_template import Grammar, Task
from titan_speech.tokenization.text_tokenizer import (
    JSON_NAME,
    TEXT_TOKENIZER,
    TOKENIZER_CONFIG_NAME,
    TextTokenizer,
    tokenizer_file,
    tokenizer_json,
)
from titan_speech.utils.files import write_atomically

logger = logging.getLogger(__name__)

EXPORT_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True)
class WeightsCheckpoint:
    """A complete checkpoint, with configuration and tokenizer of its run."""

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
        """Open a checkpoint.

        Args:
            path: .../step-N, or a run folder, whose newest checkpoint is taken.

        Raises:
            CheckpointError: there is no complete one, or it was trained with another vocabulary than its tokenizer has.
        """
        run_folder, checkpoint = _locate(path)
        config = load_config(["--job.config_file", str(run_folder / RESOLVED_NAME)]).config
        tokenizer = TextTokenizer.load(config.tokenizer.path)
        grammar = Grammar(tokenizer.vocabulary())
        provenance = read_provenance(checkpoint)
        if provenance is not None and provenance.vocabulary != grammar.vocabulary.fingerprint:
            raise CheckpointError(
                f"{checkpoint} was trained with vocabulary {provenance.vocabulary}; the tokenizer at "
                f"{config.tokenizer.path} gives {grammar.vocabulary.fingerprint}. Restore the one it was trained with."
            )
        step = Checkpoint.at(checkpoint).step
        shape = trained_shape(config.model, provenance)
        return cls(checkpoint, run_folder, step, config, tokenizer, grammar, shape, provenance)

    def merged_weights(self, base: Path | None = None) -> dict[str, torch.Tensor] | None:
        """The weights with the adapter added to them, by their names in a checkpoint; None if it has no adapter.

        Args:
            base: where the base of the adapter is; None: where it was when the adapter was trained.

        Raises:
            CheckpointError: the base is missing, is another one, or is given for a checkpoint without an adapter.
        """
        if self.provenance is None or not holds_adapter(self.provenance):
            if base is not None:
                raise CheckpointError(f"{self.path} holds a whole model, which has no base; leave --base out")
            return None
        found = base_of(self.path, self.run_folder, self.provenance, base)
        num_rows = self.grammar.vocabulary.num_rows
        model = load_adapted(self.path, found, self.config, self.shape, num_rows)
        return {name: value for name, value in model.state_dict().items() if is_of_base(name)}

    def evaluation_notes(self) -> str:
        """What the run folder has recorded about this step; empty if it has no notes."""
        file = self.run_folder / EVALUATION_FOLDER / f"{self.path.name}.md"
        return file.read_text(encoding="utf-8").strip() if file.is_file() else ""

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Keep retention from removing its files until the block ends.

        Raises:
            CheckpointError: it was removed, or is being removed.
        """
        with lock_for_reading(self.path) as is_there:
            if not is_there:
                raise CheckpointError(f"{self.path} was removed, or is being removed (retention); take another step")
            yield


def _locate(path: Path) -> tuple[Path, Path]:
    """Run folder and checkpoint folder."""
    if step_from_name(path.name) is not None:
        checkpoint = path.absolute()
        run_folder = next((p for p in checkpoint.parents if (p / RESOLVED_NAME).is_file()), None)
        if run_folder is None:
            raise CheckpointError(f"{path} does not belong to a run: expected {RESOLVED_NAME} in a folder above")
        _check_complete(checkpoint)
        if suspect := suspicion(checkpoint):
            logger.warning("%s is suspect: %s", checkpoint, suspect)
        return run_folder, checkpoint
    if not (path / RESOLVED_NAME).is_file():
        raise CheckpointError(f"{path} is neither a checkpoint (.../step-N) nor a run folder with {RESOLVED_NAME}")
    folder = path / load_config(["--job.config_file", str(path / RESOLVED_NAME)]).config.checkpoint.folder
    complete = committed_checkpoints(folder)
    if not complete:
        raise CheckpointError(f"no complete checkpoint in {folder}; has the run saved one yet?")
    found, remark = newest_unsuspected(complete)
    if remark:
        logger.warning("%s", remark)
    _check_complete(found.path)
    return path, found.path


def _check_complete(checkpoint: Path) -> None:
    found = verify(checkpoint, checksums=False)
    if not found.is_sound:
        raise CheckpointError(f"{checkpoint} is not a complete checkpoint: {'; '.join(found.problems)}")


def exported_config(checkpoint: WeightsCheckpoint) -> dict[str, Any]:
    """config.json of the export of a checkpoint, in float32."""
    return config_from_shape(
        checkpoint.shape, checkpoint.grammar.vocabulary.num_rows, **_special_ids(checkpoint.grammar)
    )


def _special_ids(grammar: Grammar) -> dict[str, int]:
    """Generation ends where speech ends."""
    vocabulary = grammar.vocabulary
    return {"bos_id": vocabulary.bos_id, "eos_id": grammar.stop_id(Task.TTS), "pad_id": vocabulary.pad_id}


def export(
    checkpoint: WeightsCheckpoint,
    output: Path,
    dtype: torch.dtype = torch.bfloat16,
    base: Path | None = None,
    check: Callable[[Path], str] | None = None,
) -> None:
    """Write the folder `output`, which appears when it is complete.

    Args:
        checkpoint: what is exported.
        output: must not exist.
        dtype: of the exported weights.
        base: where the base of a LoRA checkpoint is; None: where it was when the adapter was trained.
        check: compares the finished folder with the checkpoint before it appears (evaluate/parity.py); what it
            returns goes into the card. None: the card says that nothing was compared.

    Raises:
        ModelError: the output exists, the disk is too small, or the check failed.
        CheckpointError: the checkpoint lacks a tensor of the model or is damaged.
    """
    vocabulary, shape = checkpoint.grammar.vocabulary, checkpoint.shape
    shapes = tensor_shapes(shape, vocabulary.num_rows)
    ids = _special_ids(checkpoint.grammar)
    config = exported_config(checkpoint)
    source = tokenizer_file(Path(checkpoint.config.tokenizer.path))
    with checkpoint.kept(), new_folder(output, num_weight_bytes(shapes, dtype)) as partial:
        merged = checkpoint.merged_weights(base)
        write_weights(partial, shapes, dtype, _ConvertedTensors(checkpoint, dtype, merged).pieces)
        write_json(partial / CONFIG_NAME, config | {"dtype": str(dtype).removeprefix("torch.")})
        write_json(partial / GENERATION_NAME, _generation_config(ids))
        write_json(partial / JSON_NAME, extended_tokenizer(json.loads(tokenizer_json(source)), vocabulary))
        max_length = checkpoint.config.training.seq_len
        names = extended_tokenizer_config(checkpoint.tokenizer, vocabulary, ids["eos_id"], max_length)
        template = chat_template(checkpoint.tokenizer.token(vocabulary.bos_id), checkpoint.tokenizer.special_tokens)
        write_json(partial / TOKENIZER_CONFIG_NAME, names | {"chat_template": template})
        write_text_tokenizer(checkpoint.tokenizer, source, partial / TEXT_TOKENIZER)
        codecs = _codecs(checkpoint)
        ModelRecord(
            step=checkpoint.step,
            vocabulary=vocabulary.fingerprint,
            grammar=checkpoint.grammar.fingerprint,
            codecs=codecs,
            weights=weights_fingerprint(checkpoint.path),
        ).write(partial)
        _expansion_record(checkpoint).write(partial)
        parity = check(partial) if check is not None else ""
        card = model_card(
            checkpoint.config,
            checkpoint.step,
            shape,
            vocabulary,
            checkpoint.provenance,
            checkpoint.tokenizer.token(vocabulary.bos_id),
            codecs,
            checkpoint.evaluation_notes(),
            parity,
        )
        write_atomically(partial / CARD_NAME, card)


def _expansion_record(checkpoint: WeightsCheckpoint) -> Expansion:
    """The record by which a run that starts from the export knows that it has rows for speech tokens."""
    vocabulary, provenance = checkpoint.grammar.vocabulary, checkpoint.provenance
    origin = f" that began from {provenance.initial}" if provenance is not None and provenance.initial else ""
    return Expansion(
        source=f"step {checkpoint.step} of a run{origin}",
        source_sha256="",
        num_base=vocabulary.num_base,
        num_rows=vocabulary.num_rows,
        method=TRAINED_METHOD,
        scale=0.0,
        seed=0,
        vocabulary=vocabulary.fingerprint,
    )


def _codecs(checkpoint: WeightsCheckpoint) -> tuple[str, ...]:
    """Hashes of the codecs of the run's stores; empty if the stores cannot be read."""
    found: set[str] = set()
    for store in {source.store for source in checkpoint.config.data.source}:
        try:
            codec = open_store(store, checkpoint.config.storage).manifest.codec
        except DataError:
            continue
        found |= {codec.hash} if codec is not None else set()
    return tuple(sorted(found))


def _generation_config(ids: dict[str, int]) -> dict[str, object]:
    """Decoding stops where generated speech ends; sampling settings are those of the project's own decoding."""
    return {
        "bos_token_id": ids["bos_id"],
        "eos_token_id": ids["eos_id"],
        "pad_token_id": ids["pad_id"],
        "do_sample": True,
        "temperature": 0.8,
        "top_k": 50,
        "top_p": 1.0,
    }


class _ConvertedTensors:
    """Tensors of a checkpoint by their Hugging Face names."""

    def __init__(
        self, checkpoint: WeightsCheckpoint, dtype: torch.dtype, merged: dict[str, torch.Tensor] | None
    ) -> None:
        """Args:
        checkpoint: what is read.
        dtype: of the tensors.
        merged: the weights of a LoRA checkpoint, which are not in one place on the disk.
        """
        self._merged, self._dtype = merged, dtype
        self._reader = TensorReader(checkpoint.path, checkpoint.shape)
        self._key, self._converted = "", dict[str, torch.Tensor]()
        config = decoder_config(checkpoint.shape, checkpoint.grammar.vocabulary.num_rows, attention_config("dense"))
        with torch.device("meta"):
            model = config.build()
        self._adapter = HFAdapter(config, None)  # pyright: ignore[reportArgumentType]
        self._native = {
            name: (key, value)
            for key, value in model.state_dict().items()
            for name in self._adapter.to_hf({key: value})
        }
        """Our name, and the tensor on the meta device, of every tensor."""

    def pieces(self, name: str) -> Iterator[torch.Tensor]:
        key, meta = self._native[name]
        if key != self._key:  # query, key and value are one tensor in the checkpoint, read once for the three
            self._converted.clear()
            self._key, self._converted = key, self._adapter.to_hf({key: self._read(key, meta.shape)})
        yield self._converted[name]

    def _read(self, key: str, shape: torch.Size) -> torch.Tensor:
        """A tensor in the type of the export: what is saved is converted while it is copied, chunk by chunk."""
        if self._merged is not None:
            return self._merged[key].to(self._dtype)
        tensor = torch.empty(shape, dtype=self._dtype)
        self._reader.read({key: tensor})
        return tensor
