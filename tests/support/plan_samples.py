"""A store with every task's data in several languages, and configurations over it, for tests of plans and loaders."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tests.support.store_samples import CODEC, write_tokenizer
from titan_speech.config.schema import SpeechConfig
from titan_speech.config.schema_data import DataConfig, LanguageRuleConfig, SourceConfig
from titan_speech.config.schema_training import TokenizerConfig, TrainingConfig
from titan_speech.store.manifest import CodecInfo
from titan_speech.store.sample import SampleInfo
from titan_speech.store.writer import StoreWriter
from titan_speech.tokenization.text_tokenizer import TextTokenizer

SEQ_LEN = 128
LANGUAGES = ("en", "hi", "ta")
NUM_SPEAKERS = 5


@dataclass(frozen=True)
class World:
    """Where tokenizer and store lie."""

    tokenizer: Path
    store: Path

    def source(self, task: str, share: float, **kwargs) -> SourceConfig:
        return SourceConfig(**{"name": task, "store": str(self.store), "task": task, "share": share} | kwargs)

    def config(self, *sources: SourceConfig, rules: tuple[LanguageRuleConfig, ...] = (), **data) -> SpeechConfig:
        return SpeechConfig(
            tokenizer=TokenizerConfig(path=str(self.tokenizer)),
            data=DataConfig(source=sources, language_rule=rules, **data),
            training=TrainingConfig(
                seq_len=SEQ_LEN, global_batch_tokens=12 * SEQ_LEN, target_tokens=10**6, local_batch_packs=2
            ),
        )

    def three_tasks(self, **data) -> SpeechConfig:
        return self.config(
            self.source("speech", 0.6, datasets=("wild",)),
            self.source("tts", 0.3, datasets=("prompts",)),
            self.source("text", 0.1, datasets=("wiki",)),
            **data,
        )


def with_training(config: SpeechConfig, **training) -> SpeechConfig:
    return replace(config, training=replace(config.training, **training))


def make_world(folder: Path, *, num_samples: int = 60, codec: CodecInfo = CODEC, name: str = "store") -> World:
    """Parts prompts (paired), wild (speech only), wiki (text) and chat (instructions) in three languages."""
    tokenizer = folder / "tokenizer"
    if not tokenizer.exists():
        write_tokenizer(tokenizer)
    writer = StoreWriter(
        folder / name,
        name="several tasks",
        codec=codec,
        tokenizer=TextTokenizer.load(tokenizer),
        normalization_version="nfc-1",
        licence="CC0-1.0",
        shard_bytes=4_000,
    )
    with writer:
        for language in LANGUAGES:
            for i in range(num_samples):
                _add(writer, language, i)
    return World(tokenizer, folder / name)


def _add(writer: StoreWriter, language: str, i: int) -> None:
    rng = np.random.default_rng([i, LANGUAGES.index(language)])

    def info(source: str, speaker: str | None = None) -> SampleInfo:
        sample_id = f"{source}-{language}-{i}"
        return SampleInfo(sample_id=sample_id, dataset_source=source, language=language, speaker_id=speaker)

    def codes() -> np.ndarray:
        return rng.integers(0, 65_536, rng.integers(2, 60), dtype=np.uint16)

    transcripts = {"native": f"press {i} to hear", "romanized": f"press {i}"}
    writer.add_speech(info("prompts", f"speaker-{i % NUM_SPEAKERS}"), codes(), transcripts)
    writer.add_speech(info("wild"), codes())
    writer.add_text(info("wiki"), f"the store keeps plain codes {i} " * int(rng.integers(1, 6)))
    writer.add_text(info("chat"), f"the answer is {i}", user=f"what is {i}?")
