"""Loading a codec by its name, the file of its weights, or its folder.

In: `embedded`, a path, or a name on the Hugging Face Hub. Out: a `Codec`. Its module is imported only when it is asked
for, so the embedded codec does not need transformers.
"""

from __future__ import annotations

from pathlib import Path

from titan_speech.codec.base import Codec
from titan_speech.errors import CodecError


def load_codec(name_or_path: str | Path = "embedded", device: str | None = None) -> Codec:
    """Load a codec.

    Args:
        name_or_path: `embedded`, a .safetensors file of its weights, or XCodec2 as a folder or a name on the Hub.
        device: for XCodec2, `cpu`, `cuda` or `cuda:1`; CUDA by default if there is one.

    Raises:
        CodecError: there is no such codec, or it cannot be loaded.
    """
    from titan_speech.codec.demo.embedded import EmbeddedCodec

    name = str(name_or_path)
    if name == EmbeddedCodec.name:
        return EmbeddedCodec()
    if name.endswith(".safetensors"):
        return EmbeddedCodec(Path(name_or_path))
    if Path(name).is_dir() or "/" in name:
        from titan_speech.codec.xcodec2 import XCodec2

        return XCodec2(name_or_path, device)
    raise CodecError(
        f"unknown codec {name!r}: expected 'embedded', a .safetensors file that scripts/fit_codec.py wrote, or "
        "XCodec2 as a folder or a name on the Hugging Face Hub (HKUSTAudio/xcodec2-hf)"
    )
