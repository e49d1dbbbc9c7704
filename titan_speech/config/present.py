"""Folders that a run needs and this machine does not have, all told before anything is opened.

In: a configuration. Out: findings, at the line that names the folder: a recipe's places are found in one go and not one
start after another. Only asked of runs and of `config check --here`: a configuration is checked, planned and shown on
machines without data as well. What lies at s3:// is found out by those who open it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from titan_speech.config.finding import Finding
from titan_speech.config.tables import SpeechConfig

STORE = "a token store there (titan-speech store build makes one), or another folder or s3://bucket/prefix here"
GOLD = "a gold pack there (titan-speech store gold makes one), or another place here, or no held_out"
TOKENIZER = "the folder of the backbone's tokenizer"
STAGE = "the run folder of the stage before or one of its checkpoints (.../checkpoint/step-N), or s3://bucket/prefix"
INITIAL = "the backbone's Hugging Face folder (config.json, safetensors), or another here"


def check_present(config: SpeechConfig) -> Iterator[Finding]:
    needed = [("tokenizer.path", config.tokenizer.path, TOKENIZER)]
    if config.model.initial and not config.stage.from_:
        needed.append(("model.initial", config.model.initial, INITIAL))
    if _begins_from_the_stage_before(config):
        needed.append(("stage.from", config.stage.from_, STAGE))
    stores = config.data.stores
    uses = [(f"data.source.{i}.store", source.store, STORE) for i, source in enumerate(config.data.source)]
    uses += [(f"data.held_out.{i}", place, GOLD) for i, place in enumerate(config.data.held_out)]
    needed += [
        (f"data.stores.{place}" if place in stores else key, stores.get(place, place), what)
        for key, place, what in uses
    ]
    for key, place, expected in dict.fromkeys(needed):
        if place and "://" not in place and not Path(place).exists():
            yield Finding((key,), f'no folder "{place}"', expected)


def _begins_from_the_stage_before(config: SpeechConfig) -> bool:
    """A run with checkpoints of its own, here or perhaps where it uploads them to, goes on from those."""
    table = config.checkpoint
    if table.create_seed_checkpoint or config.upload.to:
        return False
    return not any((Path(config.job.dump_folder) / table.folder).glob("step-*"))
