"""The prompt of one utterance of a trained run, and the codec its codes are decoded with.

In: a run, and a text (or none, for speech without one). Out: task and parts of the prompt. The codec is the one the
run's stores were made with, checked by its hash: codes of another codec would decode to noise.
"""

from __future__ import annotations

import numpy as np

from titan_speech.codec.base import Codec
from titan_speech.errors import CodecError, DataError
from titan_speech.generate.load import TrainedRun
from titan_speech.store.manifest import CodecInfo
from titan_speech.store.reader import open_store
from titan_speech.tokenization.prompt_template import Parts, Task


def prompt_parts(trained: TrainedRun, text: str) -> tuple[Task, Parts]:
    """TTS of the text, or free speech when there is none."""
    if not text:
        return Task.SPEECH, Parts()
    return Task.TTS, Parts(text_ids=np.array(trained.tokenizer.encode(text), np.uint32))


def check_codec(codec: Codec, trained: TrainedRun) -> None:
    """Refuse a codec other than the one the run's codes come from.

    Raises:
        CodecError: names both codecs.
    """
    for info in store_codecs(trained):
        if info.hash != codec.codec_hash:
            raise CodecError(
                f"the run was trained on codes of codec {info.name} ({info.hash}), but {codec.name} has hash "
                f"{codec.codec_hash}; its decoder would make noise of them. Give the run's codec with --codec."
            )


def store_codecs(trained: TrainedRun) -> list[CodecInfo]:
    """Codecs of the run's stores; text stores have none."""
    places = sorted({source.store for source in trained.config.data.source})
    manifests = [open_store(place, trained.config.storage).manifest for place in places]
    codecs = [manifest.codec for manifest in manifests if manifest.codec is not None]
    if not codecs:
        raise DataError("the run was trained on text only; it has no codec to decode with")
    return codecs
