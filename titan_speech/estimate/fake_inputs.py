"""A run that can be built on any machine: its own configuration over fake data and a fake tokenizer.

In: a configuration that this machine can build (offline.py), the vocabulary and a scratch folder. Out: TorchTitan's
configuration tree over a real data plan on a small store of random codes, made by the code that makes a run's. The
store has 64 samples of 6 s and is written in 0.1 s.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models

from titan_speech.checkpoint.choose_start import Start
from titan_speech.checkpoint.provenance import Provenance
from titan_speech.config.budget import Budget
from titan_speech.config.schema import SpeechConfig
from titan_speech.config.schema_data import DataConfig, SourceConfig
from titan_speech.config.schema_training import PreferenceConfig, TokenizerConfig
from titan_speech.data.plan import DataPlan
from titan_speech.model.backbones import BackboneShape
from titan_speech.store.manifest import CodecInfo
from titan_speech.store.sample import SampleInfo
from titan_speech.store.writer import StoreWriter
from titan_speech.tokenization.prompt_template import Grammar
from titan_speech.tokenization.text_tokenizer import TextTokenizer
from titan_speech.tokenization.vocabulary import NUM_CODES, Vocabulary
from titan_speech.trainer import SpeechTrainer
from titan_speech.trainer_config import trainer_config

NUM_SAMPLES, CODES_PER_SAMPLE = 64, 300


def fake_inputs(
    config: SpeechConfig, vocabulary: Vocabulary, shape: BackboneShape, world_size: int, folder: Path
) -> SpeechTrainer.Config:
    """Write random codes to `folder`, and make the run's configuration tree over them."""
    tokenizer = _tokenizer(vocabulary)
    _write_store(folder / "store", tokenizer)
    config = replace(
        config,
        job=replace(config.job, dump_folder=str(folder / "run")),
        tokenizer=TokenizerConfig(path=str(folder)),
        preference=PreferenceConfig(),  # pairs have a cross-entropy's memory; it computes the head once more
        data=DataConfig(
            source=(SourceConfig(name="fake", store=str(folder / "store"), task="speech", share=1.0),),
            seed=config.data.seed,
        ),
    )
    grammar = Grammar(tokenizer.vocabulary())
    plan = DataPlan.from_config(config, grammar, tokenizer)
    return trainer_config(
        config,
        plan=plan,
        validation_sets=(),
        generation_prompts=(),
        budget=Budget.from_config(config),
        tokenizer=tokenizer,
        provenance=Provenance(
            vocabulary=grammar.vocabulary.fingerprint,
            grammar=grammar.fingerprint,
            model=f"{config.model.family} {config.model.flavor}",
            global_batch_tokens=config.training.global_batch_tokens,
        ),
        world_size=world_size,
        shape=shape,
        start=Start(),
    )


def _tokenizer(vocabulary: Vocabulary) -> TextTokenizer:
    """As many base rows as the run's; it knows a single word."""
    only = Tokenizer(models.WordLevel({"<|fake|>": 0}, unk_token="<|fake|>"))  # noqa: S106  (a token of text)
    return TextTokenizer(only, bos_id=0, eos_id=1, num_base=vocabulary.num_base, identity="fake")


def _write_store(folder: Path, tokenizer: TextTokenizer) -> None:
    random = np.random.default_rng(0)
    writer = StoreWriter(
        folder,
        name="random codes",
        codec=CodecInfo("fake", "0" * 16),
        tokenizer=tokenizer,
        normalization_version="none",
        licence="CC0-1.0",
    )
    with writer:
        for i in range(NUM_SAMPLES):
            info = SampleInfo(sample_id=f"random-{i}", dataset_source="random", language="en")
            writer.add_speech(info, random.integers(0, NUM_CODES, CODES_PER_SAMPLE, dtype=np.uint16))
