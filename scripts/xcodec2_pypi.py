"""Encode audio with the PyPI package `xcodec2`, in a separate environment, for `store build --from inworld`.

The package pins torch 2.5.0 and does not load under transformers 5, so it cannot share an environment with
titan_speech. This file imports nothing of titan_speech and can be copied anywhere:

    python3.11 -m venv xcodec2-env
    xcodec2-env/bin/pip install xcodec2==0.1.5 'transformers<5' soundfile soxr
    xcodec2-env/bin/python scripts/xcodec2_pypi.py --audio wavs --weights HKUSTAudio/xcodec2 --output vectorized

In: a folder of .wav and .flac, or a JSONL with `audio` (path relative to the JSONL), `id`, and optional fields:
`transcript`, `language`, `speaker_id`, ... Out, the layout of Inworld's vectorizer:

    train_codes.npy          int32, codes of all clips back to back, without a header
    train_codes_index.npy    int64, where each clip begins; written last
    train_samples.jsonl      one line per clip: id, sample_rate, num_codes, and the fields of the input
    codec.json               name and sha256 of the weights, for --codec-name and --codec-hash

The package encodes one clip at a time and pads it to `T // 320 + 1` frames: 16,000 samples give 51 codes. The last code
is dropped if the clip fills its frames exactly, so that there are `ceil(T / 320)`, as titan_speech counts. A killed run
resumes. Not run with real weights so far: see docs/data_preparation.md#xcodec2.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SAMPLE_RATE = 16_000
FRAME_SAMPLES = 320
SUFFIXES = (".wav", ".flac")
Encode = Callable[[np.ndarray], np.ndarray]
"""wav_T float32 at 16 kHz to all codes the package gives."""


@dataclass(frozen=True)
class Clip:
    """One file to encode; `fields` are written to its line."""

    id: str
    path: Path
    fields: dict


@dataclass(frozen=True)
class Output:
    """The files of one split."""

    folder: Path
    split: str

    @property
    def codes(self) -> Path:
        return self.folder / f"{self.split}_codes.npy"

    @property
    def index(self) -> Path:
        return self.folder / f"{self.split}_codes_index.npy"

    @property
    def samples(self) -> Path:
        return self.folder / f"{self.split}_samples.jsonl"


class InputError(Exception):
    """An error the caller can correct; printed without a traceback."""


def list_clips(audio: Path) -> list[Clip]:
    if not audio.exists():
        raise InputError(f"--audio {audio} does not exist")
    clips = list(_from_jsonl(audio) if audio.is_file() else _from_folder(audio))
    if not clips:
        raise InputError(f"--audio {audio} holds no {' or '.join(SUFFIXES)} file")
    seen: set[str] = set()
    for clip in clips:
        if clip.id in seen:
            raise InputError(f"id {clip.id!r} is a duplicate, found again for {clip.path}")
        seen.add(clip.id)
    return clips


def _from_folder(folder: Path) -> Iterator[Clip]:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            text = path.with_suffix(".txt")
            fields = {"transcript": text.read_text(encoding="utf-8").strip()} if text.is_file() else {}
            yield Clip(path.relative_to(folder).with_suffix("").as_posix(), path, fields)


def _from_jsonl(listing: Path) -> Iterator[Clip]:
    for number, line in enumerate(listing.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
            path = listing.parent / fields.pop("audio")
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise InputError(f"{listing}:{number}: expected an object with 'audio', a path ({error!r})") from error
        if not path.is_file():
            raise InputError(f"{listing}:{number}: {path} does not exist; paths are relative to {listing.parent}")
        yield Clip(str(fields.pop("id", Path(path).stem)), path, fields)


def read_audio(path: Path, max_sec: float) -> tuple[np.ndarray, int]:
    """wav_T at 16 kHz with channels averaged, and the file's own rate."""
    import soundfile
    import soxr

    try:
        samples_TC, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.LibsndfileError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    wav_T = samples_TC.mean(axis=1, dtype=np.float32)
    if len(wav_T) > max_sec * rate:
        raise InputError(f"{path} is {len(wav_T) / rate:.1f} s long, more than --max-sec {max_sec:g}: cut it first")
    if rate != SAMPLE_RATE and len(wav_T):
        wav_T = soxr.resample(wav_T, rate, SAMPLE_RATE, quality="VHQ").astype(np.float32)
    if len(wav_T) < FRAME_SAMPLES or not np.isfinite(wav_T).all():
        raise InputError(f"{path} has {len(wav_T)} samples at 16 kHz or values that are not finite: leave it out")
    return wav_T, rate


def trimmed(codes_F: np.ndarray, num_samples: int) -> np.ndarray:
    """ceil(T / 320) codes of the T // 320 + 1 that the package gives."""
    expected = num_samples // FRAME_SAMPLES + 1
    if codes_F.shape != (expected,):
        raise InputError(f"{num_samples} samples gave codes of shape {codes_F.shape}, expected ({expected},)")
    return codes_F[: -(-num_samples // FRAME_SAMPLES)].astype("<i4")


def finished(output: Output) -> tuple[list[dict], int]:
    """The complete lines, and their bytes."""
    if not output.samples.is_file():
        return [], 0
    data = output.samples.read_bytes()
    kept = data.rfind(b"\n") + 1
    return [json.loads(line) for line in data[:kept].splitlines()], kept


def resume(output: Output) -> list[dict]:
    """The complete lines; bytes that a killed run wrote after them are truncated."""
    lines, num_bytes = finished(output)
    if output.samples.is_file():
        num_codes = sum(line["num_codes"] for line in lines)
        if output.codes.stat().st_size < 4 * num_codes:
            raise InputError(f"{output.codes} is shorter than {output.samples} says: delete both and begin again")
        os.truncate(output.samples, num_bytes)
        os.truncate(output.codes, 4 * num_codes)
    return lines


def vectorize(clips: list[Clip], encode: Encode, output: Output, max_sec: float) -> int:
    """Encode the clips that are missing; the codes of a clip are on disk before its line."""
    output.folder.mkdir(parents=True, exist_ok=True)
    lines = resume(output)
    done = {line["id"] for line in lines}
    rest = [clip for clip in clips if clip.id not in done]
    began, seconds = time.monotonic(), 0.0
    with open(output.codes, "ab") as codes_file, open(output.samples, "a", encoding="utf-8") as samples_file:
        for number, clip in enumerate(rest, 1):
            wav_T, rate = read_audio(clip.path, max_sec)
            codes_F = trimmed(encode(wav_T), len(wav_T))
            line = {**clip.fields, "id": clip.id, "sample_rate": rate, "num_codes": len(codes_F)}
            codes_file.write(codes_F.tobytes())
            codes_file.flush()
            samples_file.write(json.dumps(line, ensure_ascii=False) + "\n")
            samples_file.flush()
            lines.append(line)
            seconds += len(wav_T) / SAMPLE_RATE
            _progress(number, len(rest), seconds, time.monotonic() - began)
    lengths_N = np.array([line["num_codes"] for line in lines], np.int64)
    np.save(output.index, np.cumsum(lengths_N) - lengths_N)
    return len(rest)


def _progress(number: int, total: int, seconds: float, elapsed: float) -> None:
    if number % 20 == 0 or number == total:
        left = elapsed / number * (total - number)
        rate = seconds / max(elapsed, 1e-9)
        print(f"{number:,} of {total:,} clips, {rate:.1f} s of audio per second, {left:,.0f} s left", file=sys.stderr)


def load_encoder(weights: str, device: str) -> Encode:
    try:
        import torch
        from xcodec2.modeling_xcodec2 import XCodec2Model  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(f"{error}: run this in the environment described at the top of this file") from error
    model = XCodec2Model.from_pretrained(weights).eval().to(device)

    def encode(wav_T: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model.encode_code(torch.from_numpy(wav_T)[None])[0, 0].cpu().numpy()

    return encode


def weights_hash(weights: str) -> str:
    """sha256 of the weights file; of several files, of one line `<sha256>  <name>` per file."""
    folder = Path(weights)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(weights, allow_patterns=["*.safetensors", "*.bin", "*.json"]))
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if not files:
        raise InputError(f"--weights {weights}: no .safetensors or .bin file in {folder}")
    sums = [_sha256(file) for file in files]
    lines = "".join(f"{digest}  {file.name}\n" for digest, file in zip(sums, files, strict=True))
    return sums[0] if len(sums) == 1 else hashlib.sha256(lines.encode()).hexdigest()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, required=True, help="folder of audio, or a JSONL that lists it")
    parser.add_argument("--weights", required=True, help="folder of the checkpoint, or its name on the Hub")
    parser.add_argument(
        "--output", type=Path, required=True, help="folder of the arrays; an unfinished one is continued"
    )
    parser.add_argument("--split", default="train", help="first part of the file names (default: train)")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, cpu (default: cuda)")
    parser.add_argument("--max-sec", type=float, default=40, help="longest clip (default: 40)")
    parser.add_argument(
        "--dry-run", action="store_true", help="list what would be encoded and read it, without the model"
    )
    return parser.parse_args()


def dry_run(clips: list[Clip], output: Output, max_sec: float) -> None:
    done = {line["id"] for line in finished(output)[0]}
    seconds = sum(len(read_audio(clip.path, max_sec)[0]) for clip in clips if clip.id not in done) / SAMPLE_RATE
    left = len(clips) - len(done)
    print(f"{len(clips):,} clips, {len(done):,} done, {left:,} to encode: {seconds:,.1f} s of audio")


def main() -> int:
    args = arguments()
    output = Output(args.output, args.split)
    try:
        clips = list_clips(args.audio)
        if args.dry_run:
            dry_run(clips, output, args.max_sec)
            return 0
        encode = load_encoder(args.weights, args.device)
        codec = {"name": "xcodec2", "hash": weights_hash(args.weights)}
        args.output.mkdir(parents=True, exist_ok=True)
        _keep_codec(args.output / "codec.json", codec)
        num_clips = vectorize(clips, encode, output, args.max_sec)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    given = f"--codec-name xcodec2 --codec-hash {codec['hash']}"
    print(f"{args.output}: {num_clips:,} clips encoded. Import them with")
    print(f"  titan-speech store build --from inworld --input {args.output} {given} ...")
    return 0


def _keep_codec(path: Path, codec: dict[str, str]) -> None:
    """A folder holds the codes of one checkpoint."""
    if path.is_file() and json.loads(path.read_text()) != codec:
        raise InputError(f"{path} names another codec than --weights: choose another --output")
    path.write_text(json.dumps(codec) + "\n")


if __name__ == "__main__":
    sys.exit(main())
