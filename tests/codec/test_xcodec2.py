"""XCodec2 through transformers, with a tiny random model: padding rule, batches, hash, weights that do not fit.

The real weights are not here; what these tests cannot say is listed in docs/status.md.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from tests.support.xcodec2_folder import write_xcodec2
from titan_speech.codec import xcodec2 as room
from titan_speech.codec.base import Codec
from titan_speech.codec.demo.autoencoder import codes_to_values
from titan_speech.codec.load import load_codec
from titan_speech.codec.wav import read_audio
from titan_speech.codec.xcodec2 import XCodec2
from titan_speech.errors import CodecError

ROOT = Path(__file__).parents[2]
ASSETS = Path(__file__).parents[1] / "assets"
LENGTHS = (38_798, 320, 321, 16_000, 16_001, 25_599, 639, 640, 32_000)


@pytest.fixture(scope="module", name="folder")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_xcodec2(tmp_path_factory.mktemp("codec") / "xcodec2")


@pytest.fixture(scope="module", name="codec")
def loaded_codec(folder: Path) -> XCodec2:
    codec = load_codec(folder, "cpu")
    assert isinstance(codec, XCodec2)
    return codec


@pytest.fixture(scope="module", name="wav_T")
def speech() -> np.ndarray:
    return read_audio(ASSETS / "en-pls-hold-while-try.wav")


def reference_codes(codec: XCodec2, wav_T: np.ndarray) -> np.ndarray:
    """As the authors' code pads one clip and as transformers' `encode` takes it: T // 320 + 1 codes."""
    padded_W = torch.nn.functional.pad(torch.from_numpy(wav_T), (0, 320 - len(wav_T) % 320))
    around = torch.nn.functional.pad(padded_W, (160, 160)).numpy()
    features_BFM = codec._extractor(around, sampling_rate=16_000, return_tensors="pt").input_features
    with torch.no_grad():
        return codec._model.encode(padded_W[None, None], features_BFM).audio_codes[0, 0].numpy()


def test_it_is_a_codec_of_50_codes_a_second(codec: XCodec2) -> None:
    assert isinstance(codec, Codec)
    assert (codec.sample_rate, codec.frame_rate_hz, codec.codebook_size) == (16_000, 50, 65_536)


@pytest.mark.parametrize("num_samples", LENGTHS)
def test_codes_are_the_models_own_with_the_frame_of_mere_padding_left_out(
    codec: XCodec2, wav_T: np.ndarray, num_samples: int
) -> None:
    codes_F = codec.encode(wav_T[:num_samples])
    reference_F = reference_codes(codec, wav_T[:num_samples])
    assert codes_F.dtype == np.uint16
    assert len(codes_F) == -(-num_samples // 320)
    assert len(reference_F) == num_samples // 320 + 1
    assert np.array_equal(codes_F, reference_F[: len(codes_F)])


def test_a_batch_of_many_lengths_gives_the_codes_of_each_alone(codec: XCodec2, wav_T: np.ndarray) -> None:
    wavs = [wav_T[:length] for length in LENGTHS]
    batch = codec.encode_batch(wavs)
    assert all(np.array_equal(codes_F, codec.encode(one_T)) for codes_F, one_T in zip(batch, wavs, strict=True))
    assert len(np.unique(np.concatenate(batch))) > 15


def test_padding_a_clip_to_the_length_of_another_would_change_its_codes(codec: XCodec2, wav_T: np.ndarray) -> None:
    """Why the convolutions run clip by clip; also shows that the tests above can fail."""
    alone = codec.encode(wav_T[:16_000])
    padded = codec.encode(np.pad(wav_T[:16_000], (0, 22_400)))[: len(alone)]
    assert not np.array_equal(alone, padded)


def test_batches_hold_every_clip_once_and_stay_within_their_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "BATCH_FRAMES", 100)
    lengths = [320 * frames for frames in (10, 99, 3, 50, 49, 3, 200, 1)]
    batches = list(room._batches(lengths))
    assert sorted(index for batch in batches for index in batch) == list(range(8))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * (max(lengths[i] for i in batch) // 320 + 1) <= 100
    assert list(room._batches([])) == []


def test_codes_decode_to_whole_frames(codec: XCodec2, wav_T: np.ndarray) -> None:
    decoded_T = codec.decode(codec.encode(wav_T[:16_001]))
    assert decoded_T.dtype == np.float32
    assert decoded_T.shape == (51 * 320,)
    assert np.isfinite(decoded_T).all()
    assert np.abs(decoded_T).max() <= 1
    with pytest.raises(CodecError, match=r"outside 0..65535"):
        codec.decode(np.array([70_000]))


def test_every_code_means_the_same_values_as_in_the_embedded_codec(codec: XCodec2) -> None:
    """One index convention: base-4 digits, dimension 0 least significant."""
    ours_BDF = codes_to_values(torch.arange(65_536)[None])
    assert torch.equal(codec._model.quantizer.quantizer.codebook, ours_BDF[0].T)


def test_saving_and_loading_again_gives_the_same_codes_and_hash(
    codec: XCodec2, folder: Path, tmp_path: Path, wav_T: np.ndarray
) -> None:
    codec._model.save_pretrained(tmp_path / "again")
    again = XCodec2(tmp_path / "again", "cpu")
    assert again.codec_hash == codec.codec_hash
    assert codec.codec_hash == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert np.array_equal(again.encode(wav_T), codec.encode(wav_T))


def test_other_weights_have_another_hash_and_shards_are_hashed_together(
    codec: XCodec2, tmp_path: Path, wav_T: np.ndarray
) -> None:
    assert XCodec2(write_xcodec2(tmp_path / "other", seed=1), "cpu").codec_hash != codec.codec_hash
    codec._model.save_pretrained(tmp_path / "parts", max_shard_size="200KB")
    files = sorted((tmp_path / "parts").glob("*.safetensors"))
    assert len(files) > 1
    lines = "".join(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files)
    parts = XCodec2(tmp_path / "parts", "cpu")
    assert parts.codec_hash == hashlib.sha256(lines.encode()).hexdigest()
    assert np.array_equal(parts.encode(wav_T), codec.encode(wav_T))


def test_folders_that_do_not_hold_the_codec_are_refused(folder: Path, tmp_path: Path, wav_T: np.ndarray) -> None:
    with pytest.raises(CodecError, match=r"unknown codec 'xcodec2': expected 'embedded'.*or XCodec2 as a folder"):
        load_codec("xcodec2")
    with pytest.raises(CodecError, match=r"has no config.json of a codec"):
        load_codec(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(CodecError, match="holds a model of type 'llama', expected 'xcodec2'"):
        load_codec(tmp_path)
    shutil.copy(folder / "config.json", tmp_path)
    with pytest.raises(CodecError, match=r"has no .safetensors file"):
        load_codec(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(CodecError, match="does not load as Xcodec2Model"):
        load_codec(tmp_path).encode(wav_T)


def test_weights_that_the_files_lack_are_never_made_up(folder: Path, tmp_path: Path, wav_T: np.ndarray) -> None:
    shutil.copytree(folder, tmp_path / "deeper")
    config = json.loads((folder / "config.json").read_text())
    config["semantic_model_config"]["num_hidden_layers"] = 3
    (tmp_path / "deeper/config.json").write_text(json.dumps(config))
    with pytest.raises(CodecError, match=r"do not fit config.json, missing keys: semantic_encoder.*and \d+ more"):
        load_codec(tmp_path / "deeper").encode(wav_T)


def test_bad_audio_in_a_batch_is_refused(codec: XCodec2, wav_T: np.ndarray) -> None:
    with pytest.raises(CodecError, match="319 samples, expected at least 320"):
        codec.encode_batch([wav_T, wav_T[:319]])
    assert codec.encode_batch([]) == []


@pytest.fixture(scope="module", name="script")
def pypi_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("xcodec2_pypi", ROOT / "scripts/xcodec2_pypi.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_script_for_the_pypi_package_lists_its_work_and_says_what_it_lacks(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--weights", "w", "--output", str(tmp_path / "out"), "--audio"]
    monkeypatch.setattr(sys, "argv", ["xcodec2_pypi.py", *words, str(ASSETS), "--dry-run"])
    assert script.main() == 0
    assert capsys.readouterr().out == "2 clips, 0 done, 2 to encode: 5.5 s of audio\n"
    monkeypatch.setattr(sys, "argv", ["xcodec2_pypi.py", *words, str(ASSETS)])
    assert script.main() == 2
    assert capsys.readouterr().err.startswith("error: No module named 'xcodec2'")
    monkeypatch.setattr(sys, "argv", ["xcodec2_pypi.py", *words, str(tmp_path / "absent")])
    assert script.main() == 2
    assert capsys.readouterr().err.endswith("absent does not exist\n")
    assert not (tmp_path / "out").exists()


def test_the_script_imports_nothing_of_the_package(script: ModuleType) -> None:
    program = f"import sys, runpy; runpy.run_path({script.__file__!r}); print('titan_speech' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


def test_the_script_goes_on_after_a_kill_and_writes_arrays_of_whole_frames(
    script: ModuleType, codec: XCodec2, tmp_path: Path
) -> None:
    """Transformers' model with the package's padding stands in for the package; the files are the script's own."""
    clips = script.list_clips(ASSETS)
    expected = [codec.encode(read_audio(clip.path)) for clip in clips]
    output = script.Output(tmp_path / "out", "train")

    def dies_at_the_second(wav_T: np.ndarray) -> np.ndarray:
        if output.samples.stat().st_size:
            raise KeyboardInterrupt
        return reference_codes(codec, wav_T)

    with pytest.raises(KeyboardInterrupt):
        script.vectorize(clips, dies_at_the_second, output, 40)
    assert not output.index.exists()
    with open(output.codes, "ab") as codes, open(output.samples, "ab") as samples:  # torn ends, as a kill leaves them
        codes.write(b"\x01\x02\x03")
        samples.write(b'{"id": "hi')
    assert script.vectorize(clips, lambda wav_T: reference_codes(codec, wav_T), output, 40) == 1
    assert np.array_equal(np.fromfile(output.codes, "<i4"), np.concatenate(expected))
    assert np.load(output.index).tolist() == [0, len(expected[0])]
    lines = [json.loads(line) for line in output.samples.read_text().splitlines()]
    assert [line["id"] for line in lines] == [clip.id for clip in clips]
    assert [line["num_codes"] for line in lines] == [len(codes_F) for codes_F in expected]


def test_the_script_drops_the_code_of_mere_padding_and_refuses_other_counts(script: ModuleType) -> None:
    assert len(script.trimmed(np.zeros(51, np.int64), 16_000)) == 50
    assert len(script.trimmed(np.zeros(51, np.int64), 16_001)) == 51
    with pytest.raises(script.InputError, match=r"16000 samples gave codes of shape \(50,\), expected \(51,\)"):
        script.trimmed(np.zeros(50, np.int64), 16_000)
