"""Hugging Face Trainer with its padding collator or its packing one, on the same samples.

In: `padding` or `packing`, samples per batch, words of a configuration of ours. Out: windows. `packing` is
DataCollatorWithFlattening: a batch becomes one sequence without padding whose positions restart, and SDPA gets a mask
of documents. Both are transformers' own; the trainer's callback waits for the turn before each step.
"""

from __future__ import annotations

import sys
import tempfile
from typing import Any

import torch

from benchmarks.bundled import IGNORED, paired_samples
from benchmarks.loops.hf_model import fresh_model
from benchmarks.talker import Talker
from titan_speech.config.schema import SpeechConfig
from titan_speech.preflight.config_checks import load_config

LONGER_THAN_ANY_RUN = 10**7


def main(kind: str, batch_samples: int, words: list[str]) -> None:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    config = load_config(words).config
    talker = Talker()
    collate = collator(kind, config)

    class Turns(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if not talker.at_boundary():
                raise KeyboardInterrupt

    def counted(features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = collate(features)
        real = sum(len(feature["input_ids"]) for feature in features)
        size, labels_BL = batch["input_ids"].numel(), batch["labels"]
        trained = int((labels_BL[:, 1:] != IGNORED).sum())
        talker.count(size, trained, size - real)
        return batch

    samples = [{"input_ids": one.ids, "labels": one.labels} for one in paired_samples(config)]
    table = config.optimizer
    with tempfile.TemporaryDirectory(prefix="titan-speech-benchmark-") as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=batch_samples,
            max_steps=LONGER_THAN_ANY_RUN,
            learning_rate=table.lr,
            weight_decay=table.weight_decay,
            adam_beta1=table.betas[0],
            adam_beta2=table.betas[1],
            max_grad_norm=config.training.max_norm,
            optim="adamw_torch_fused",
            bf16=config.training.mixed_precision_param == "bfloat16",
            use_cpu=not torch.cuda.is_available(),
            logging_strategy="steps",
            logging_steps=config.metrics.log_every_steps,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            seed=config.data.seed,
        )
        trainer = Trainer(
            model=fresh_model(config),
            args=arguments,
            train_dataset=samples,  # type: ignore[arg-type]
            data_collator=counted,
            callbacks=[Turns()],
        )
        try:
            trainer.train()
        except KeyboardInterrupt:
            return


def collator(kind: str, config: SpeechConfig) -> Any:
    """transformers' own collator."""
    from transformers import DataCollatorForSeq2Seq, DataCollatorWithFlattening, PreTrainedTokenizerFast

    if kind == "packing":
        return DataCollatorWithFlattening()
    json_file = f"{config.tokenizer.path}/tokenizer.json"
    # any token will do for padding: it is neither seen nor trained
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=json_file, pad_token="<|end_of_text|>")
    return DataCollatorForSeq2Seq(tokenizer, padding=True, label_pad_token_id=IGNORED)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
