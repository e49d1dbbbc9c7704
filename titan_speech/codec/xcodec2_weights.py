"""Finding, hashing and loading XCodec2's weights.

In: a folder that `Xcodec2Model.save_pretrained` wrote, or a name on the Hugging Face Hub (`HKUSTAudio/xcodec2-hf`).
Out: the model in float32, with every weight taken from the files, and their hash.

The hash is the sha256 of `model.safetensors`, which the Hub shows beside the file. Of weights in several files it is
the sha256 of one line `<sha256>  <name>` a file, by name: what `sha256sum model-*.safetensors | sha256sum` prints.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from titan_speech.errors import CodecError

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_MODEL_TYPE = "xcodec2"


def find_weights(name_or_path: str | Path) -> Path:
    """The folder with config.json and safetensors files; fetched from the Hub if it is no folder."""
    folder = Path(name_or_path)
    if not folder.is_dir():
        folder = _fetch(str(name_or_path))
    try:
        config = json.loads((folder / "config.json").read_bytes())
        model_type = config.get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise CodecError(
            f"{folder} has no config.json of a codec ({error}): expected a folder of Xcodec2Model"
        ) from error
    if model_type != _MODEL_TYPE:
        hint = (
            " That is the PyPI package's checkpoint: scripts/xcodec2_pypi.py reads it" if "codec" in str(config) else ""
        )
        raise CodecError(f"{folder} holds a model of type {model_type!r}, expected {_MODEL_TYPE!r}.{hint}")
    if not list(folder.glob("*.safetensors")):
        raise CodecError(f"{folder} has no .safetensors file: save the model with save_pretrained")
    return folder


def _fetch(name: str) -> Path:
    if not _HUB_NAME.fullmatch(name):
        raise CodecError(f"codec {name!r} is neither a folder nor a name on the Hugging Face Hub (owner/model)")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise CodecError("XCodec2 needs transformers: pip install 'titan-speech[xcodec2]'") from error
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:  # of many libraries
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CodecError(
            f"codec {name!r} is no folder here and was not fetched from the Hugging Face Hub: {reason}. "
            "Fetch it where there is a network (hf download) and give the folder"
        ) from error


def weights_hash(folder: Path) -> str:
    files = sorted(folder.glob("*.safetensors"), key=lambda file: file.name)
    sums = [_sha256(file) for file in files]
    if len(files) == 1:
        return sums[0]
    lines = "".join(f"{digest}  {file.name}\n" for digest, file in zip(sums, files, strict=True))
    return hashlib.sha256(lines.encode()).hexdigest()


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_model(folder: Path) -> Any:
    """In float32; a weight that the files lack would be random, so it is an error."""
    try:
        import torch
        from transformers import Xcodec2Model
        from transformers.utils import logging
    except ImportError as error:
        raise CodecError("XCodec2 needs transformers: pip install 'titan-speech[xcodec2]'") from error
    logging.disable_progress_bar()
    try:
        loaded: Any = Xcodec2Model.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # of many libraries
        raise CodecError(f"{folder} does not load as Xcodec2Model: {str(error).strip().splitlines()[0]}") from error
    model, report = loaded
    for what in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        names = sorted(str(name) for name in report[what])
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CodecError(f"{folder}: weights do not fit config.json, {what.replace('_', ' ')}: {names[0]}{more}")
    return model.eval()
