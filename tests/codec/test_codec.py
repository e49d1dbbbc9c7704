"""The codec room: shapes, indices, determinism, messages, and that codes carry the sound they came from."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from titan_speech.codec.base import Codec
from titan_speech.codec.demo.autoencoder import (
    CODEBOOK_SIZE,
    codes_to_values,
    quantize,
    stack_frames,
    unstack_frames,
    values_to_codes,
)
from titan_speech.codec.demo.mel import griffin_lim, istft, log_mel, mel_filters, mel_to_magnitude, stft
from titan_speech.codec.load import load_codec
from titan_speech.codec.wav import read_audio, write_wav
from titan_speech.errors import CodecError

ASSETS = Path(__file__).parents[1] / "assets"
CLIPS = ("en-pls-hold-while-try.wav", "hi-espeak-library-name.wav")
WEIGHTS = Path(__file__).parents[2] / "titan_speech/codec/demo/embedded.safetensors"


@pytest.fixture(scope="module")
def codec() -> Codec:
    return load_codec("embedded")


@pytest.fixture(scope="module", params=CLIPS, name="wav_T")
def speech(request: pytest.FixtureRequest) -> np.ndarray:
    return read_audio(ASSETS / request.param)


def mel_distance(a_T: np.ndarray, b_T: np.ndarray) -> float:
    """Mean absolute difference of log-mel in nepers, over the shorter of the two, in whole frames."""
    length = min(len(a_T), len(b_T)) // 320 * 320
    mels = [log_mel(torch.from_numpy(x[:length])[None], mel_filters()) for x in (a_T, b_T)]
    return float((mels[0] - mels[1]).abs().mean())


def test_codec_states_what_a_store_and_a_vocabulary_rely_on(codec: Codec) -> None:
    assert isinstance(codec, Codec)
    assert (codec.sample_rate, codec.frame_rate_hz, codec.codebook_size) == (16_000, 50, 65_536)


def test_codec_hash_is_the_sha256_of_the_weights_in_the_package(codec: Codec) -> None:
    assert codec.codec_hash == hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    assert WEIGHTS.stat().st_size <= 3_000_000


@pytest.mark.parametrize("num_samples", [320, 321, 639, 640, 16_000, 16_001])
def test_frames_are_the_ceiling_of_samples_over_320_and_decode_gives_whole_frames(
    codec: Codec, num_samples: int
) -> None:
    noise_T = np.random.default_rng(0).uniform(-0.1, 0.1, num_samples).astype(np.float32)
    codes_F = codec.encode(noise_T)
    assert codes_F.dtype == np.uint16
    assert len(codes_F) == -(-num_samples // 320)
    decoded_T = codec.decode(codes_F)
    assert decoded_T.dtype == np.float32
    assert decoded_T.shape == (320 * len(codes_F),)
    assert np.isfinite(decoded_T).all()
    assert np.abs(decoded_T).max() <= 1.0


def test_every_index_goes_through_fsq_and_back_by_its_base_4_digits() -> None:
    indices = np.arange(CODEBOOK_SIZE)
    digits = [[int(d) for d in np.base_repr(int(i), 4).zfill(8)[::-1]] for i in indices]  # least significant first
    expected_DF = (np.array(digits).T - 2) / 2
    values_BDF = codes_to_values(torch.from_numpy(indices)[None])
    assert np.array_equal(values_BDF[0].numpy(), expected_DF)
    assert np.array_equal(values_to_codes(values_BDF)[0].numpy(), indices)


def test_quantiser_gives_only_the_four_values_and_keeps_a_gradient() -> None:
    latent_BDF = torch.linspace(-6, 6, 800).reshape(1, 8, 100).requires_grad_()
    values_BDF = quantize(latent_BDF)
    values_BDF.sum().backward()
    assert set(values_BDF.detach().unique().tolist()) == {-1.0, -0.5, 0.0, 0.5}
    assert latent_BDF.grad is not None
    assert latent_BDF.grad.abs().sum() > 0


def test_stacked_frames_come_apart_in_order() -> None:
    mel_BMN = torch.arange(2 * 80 * 6, dtype=torch.float32).reshape(2, 80, 6)
    assert torch.equal(unstack_frames(stack_frames(mel_BMN)), mel_BMN)


def test_encoding_and_decoding_again_give_the_same(codec: Codec, wav_T: np.ndarray) -> None:
    codes_F = codec.encode(wav_T)
    assert np.array_equal(codes_F, load_codec("embedded").encode(wav_T))
    assert np.array_equal(codec.decode(codes_F), codec.decode(codes_F))


def test_codes_do_not_depend_on_the_number_of_threads(codec: Codec, wav_T: np.ndarray) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one_F = codec.encode(wav_T)
        torch.set_num_threads(2)
        assert np.array_equal(one_F, codec.encode(wav_T))
    finally:
        torch.set_num_threads(before)


def test_rounding_noise_in_the_audio_changes_hardly_any_code(codec: Codec, wav_T: np.ndarray) -> None:
    noise_T = np.random.default_rng(0).uniform(-1e-7, 1e-7, len(wav_T)).astype(np.float32)
    assert np.mean(codec.encode(wav_T) == codec.encode(wav_T + noise_T)) >= 0.999


def test_decoded_speech_is_close_to_the_original_and_shuffled_codes_are_not(codec: Codec, wav_T: np.ndarray) -> None:
    codes_F = codec.encode(wav_T)
    decoded = mel_distance(wav_T, codec.decode(codes_F))
    shuffled = mel_distance(wav_T, codec.decode(np.random.default_rng(0).permutation(codes_F)))
    assert decoded < 0.75
    assert decoded < 0.5 * shuffled


def test_speech_uses_many_codes(codec: Codec, wav_T: np.ndarray) -> None:
    codes_F = codec.encode(wav_T)
    assert len(np.unique(codes_F)) > 0.4 * len(codes_F)


def test_short_time_transform_is_inverted_exactly(wav_T: np.ndarray) -> None:
    whole_T = torch.from_numpy(wav_T[: len(wav_T) // 160 * 160])[None]
    assert torch.allclose(istft(stft(whole_T), whole_T.shape[1]), whole_T, atol=1e-5)


def test_vocoder_alone_gives_back_the_mel_it_is_given(wav_T: np.ndarray) -> None:
    whole_T = wav_T[: len(wav_T) // 320 * 320]
    mel_BMN = log_mel(torch.from_numpy(whole_T)[None], mel_filters())
    rebuilt_T = griffin_lim(mel_to_magnitude(mel_BMN, mel_filters()))[0].numpy()
    assert mel_distance(whole_T, rebuilt_T) < 0.35


def test_filters_average_magnitudes_and_rise_in_frequency() -> None:
    filters_MK = mel_filters(torch.float64)
    assert torch.allclose(filters_MK.sum(dim=1), torch.ones(80, dtype=torch.float64))
    centres = (filters_MK * torch.arange(513)).sum(dim=1)
    assert (centres.diff() > 0).all()


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (np.zeros(16_000, dtype=np.int16), "dtype int16, expected float32"),
        (np.zeros((2, 16_000), dtype=np.float32), r"shape \(2, 16000\), expected one channel"),
        (np.zeros(0, dtype=np.float32), "0 samples, expected at least 320"),
        (np.zeros(319, dtype=np.float32), "319 samples, expected at least 320"),
        (np.array([0.0] * 400 + [np.nan], dtype=np.float32), "not finite, first at sample 400"),
    ],
)
def test_audio_that_cannot_be_encoded_is_refused_with_its_reason(codec: Codec, audio: np.ndarray, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        codec.encode(audio)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.array([1, 65_536, 2]), "1 of 3 codes are outside 0..65535, first 65536 at frame 1"),
        (np.array([-1]), "first -1 at frame 0"),
        (np.zeros(0, dtype=np.uint16), "no codes to decode"),
        (np.array([0.5]), "dtype float64 and shape"),
        (np.zeros((1, 5), dtype=np.uint16), r"shape \(1, 5\), expected integers"),
    ],
)
def test_codes_that_cannot_be_decoded_are_refused_with_their_reason(
    codec: Codec, codes: np.ndarray, message: str
) -> None:
    with pytest.raises(CodecError, match=message):
        codec.decode(codes)


def test_unknown_codec_is_refused_with_what_there_is() -> None:
    with pytest.raises(CodecError, match="unknown codec 'encodec': expected 'embedded'"):
        load_codec("encodec")


def test_missing_and_foreign_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CodecError, match="not readable"):
        load_codec(tmp_path / "absent.safetensors")
    foreign = tmp_path / "foreign.safetensors"
    foreign.write_bytes(b"no weights at all")
    with pytest.raises(CodecError, match="does not hold the embedded codec's weights"):
        load_codec(foreign)


def test_wav_files_come_back_as_written_and_another_rate_is_refused(tmp_path: Path, wav_T: np.ndarray) -> None:
    write_wav(tmp_path / "a.wav", wav_T)
    assert np.abs(read_audio(tmp_path / "a.wav") - wav_T).max() < 1e-4
    write_wav(tmp_path / "b.wav", wav_T, sample_rate=8_000)
    with pytest.raises(CodecError, match=r"8000 Hz, expected 16000 Hz. Convert it: ffmpeg"):
        read_audio(tmp_path / "b.wav")
    with pytest.raises(CodecError, match="cannot read"):
        read_audio(tmp_path / "absent.wav")


def test_training_does_not_import_the_codec_room() -> None:
    program = (
        "import sys, titan_speech.trainer; print([m for m in sys.modules if m.startswith('titan_speech.codec.base')])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip().endswith("[]")


def test_a_wav_that_was_cut_short_is_refused_with_both_durations(tmp_path: Path) -> None:
    write_wav(tmp_path / "whole.wav", np.zeros(16_000, np.float32))
    (tmp_path / "cut.wav").write_bytes((tmp_path / "whole.wav").read_bytes()[:16_044])
    with pytest.raises(CodecError, match=r"announces 1\.00 s, it holds 0\.50 s"):
        read_audio(tmp_path / "cut.wav")
