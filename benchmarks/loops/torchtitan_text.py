"""Plain TorchTitan, with its own text loader, trainer and loss, on equal shapes.

In: a JSONL file of text, and words of a configuration of ours, of which sizes, lengths, batch, precision and
compilation are read. Out: windows. Model, chunked loss, optimizer, metrics and loader are TorchTitan's classes. On a
CPU it gets what makes TorchTitan run there at all (titan_speech/utils/cpu.py) and our dense attention,
since it has none.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import torch

from benchmarks.talker import Talker
from titan_speech.preflight.config_checks import load_config
from titan_speech.utils.logging import silence_library_warnings


def main(text_file: Path, words: list[str]) -> None:
    silence_library_warnings()
    if not torch.cuda.is_available():
        from titan_speech.utils import cpu

        cpu.prepare()
    from torchtitan.tools.logging import init_logger

    init_logger()
    talker = Talker()
    with tempfile.TemporaryDirectory(prefix="titan-speech-benchmark-") as folder:
        trainer = _config(text_file, words, Path(folder)).build()
        batches_of = trainer.batch_generator

        def counted(data: Iterable[Any]) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
            batches = batches_of(data)
            while True:
                began = time.perf_counter()
                inputs, labels_BL = next(batches)
                talker.waited(time.perf_counter() - began)
                talker.count(labels_BL.numel(), int((labels_BL >= 0).sum()), 0)
                yield inputs, labels_BL

        trainer.batch_generator = counted
        trainer.should_continue_training = talker.at_boundary
        trainer.train()
        trainer.close()


def _config(text_file: Path, words: list[str], folder: Path) -> Any:
    from datasets import load_dataset
    from torchtitan.components.checkpoint import CheckpointManager
    from torchtitan.components.loss import ChunkedLossWrapper, CrossEntropyLoss
    from torchtitan.components.metrics import MetricsProcessor
    from torchtitan.components.optimizer import default_adamw
    from torchtitan.components.tokenizer import HuggingFaceTokenizer
    from torchtitan.config.configs import CommConfig, TrainingConfig
    from torchtitan.hf_datasets import DatasetConfig
    from torchtitan.hf_datasets.text_datasets import DATASETS, HuggingFaceTextDataLoader
    from torchtitan.trainer import Trainer

    from titan_speech import trainer_config
    from titan_speech.config.budget import Budget
    from titan_speech.estimate.offline import run_shape, run_vocabulary

    speech = load_config(words).config
    shape, vocabulary, budget = run_shape(speech)[0], run_vocabulary(speech).vocabulary, Budget.from_config(speech)
    DATASETS["benchmark"] = DatasetConfig(
        path=str(text_file),
        loader=lambda path: load_dataset("json", data_files=path, split="train", cache_dir=str(folder / "datasets")),
        sample_processor=lambda sample: sample["text"],
    )
    return Trainer.Config(
        model_spec=_model_spec(shape, speech.model.attention, vocabulary.num_rows),
        hf_assets_path=speech.tokenizer.path,
        dump_folder=str(folder),
        tokenizer=HuggingFaceTokenizer.Config(),
        dataloader=HuggingFaceTextDataLoader.Config(dataset="benchmark"),
        loss=ChunkedLossWrapper.Config(
            num_chunks=speech.loss.num_chunks,
            loss_fn=CrossEntropyLoss.Config(global_vocab_size=vocabulary.num_rows),
        ),
        optimizer=default_adamw(lr=speech.optimizer.lr),
        training=TrainingConfig(
            local_batch_size=speech.training.local_batch_packs,
            global_batch_size=budget.packs_per_step,
            seq_len=budget.seq_len,
            max_norm=speech.training.max_norm,
            steps=budget.num_steps,
            dtype=speech.training.dtype,
            mixed_precision_param=speech.training.mixed_precision_param,
            disable_cuda_graphs=not (speech.training.cuda_graphs and torch.cuda.is_available()),
        ),
        parallelism=trainer_config.parallelism(speech.parallelism),
        activation_checkpoint=trainer_config.activation_checkpointing(speech.activation_checkpoint),
        compile=trainer_config.compilation(speech.compile),
        checkpoint=CheckpointManager.Config(enable=False),
        comm=CommConfig(
            train_timeout_seconds=speech.comm.train_timeout_seconds,
            trace_buf_size=20_000 if torch.cuda.is_available() else 0,
        ),
        metrics=MetricsProcessor.Config(log_freq=speech.metrics.log_every_steps),
    )


def _model_spec(shape: Any, attention: str, num_rows: int) -> Any:
    """TorchTitan's own decoder of that shape: our configuration with its class, which ties as TorchTitan does."""
    from torchtitan.models.llama3 import Llama3Model, parallelize_llama
    from torchtitan.protocols.model_spec import ModelSpec

    from titan_speech.model.spec import model_spec

    ours = model_spec(shape, attention, num_rows)
    values = {field.name: getattr(ours.model, field.name) for field in fields(Llama3Model.Config) if field.init}
    parallelize = parallelize_llama
    if not torch.cuda.is_available():
        from titan_speech.utils import cpu

        parallelize = cpu.use_plain_sum_reduction(parallelize_llama)
    return ModelSpec(
        name="llama3",
        flavor="benchmark",
        model=Llama3Model.Config(**cast(dict[str, Any], values)),
        parallelize_fn=parallelize,
        pipelining_fn=None,
        post_optimizer_build_fn=None,
        state_dict_adapter=None,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
