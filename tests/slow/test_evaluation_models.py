"""Real models on the bundled speech: scores are in the expected order, and an ASR that romanizes is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation_models import package, random_whisper, whisper_base, whisper_tiny_en
from tests.runs import ROOT
from titan_speech.codec.load import load_codec
from titan_speech.evaluate.clip import Clip, Sound, mean
from titan_speech.evaluate.models.isolation import IsolatedModel
from titan_speech.evaluate.models.opinions import open_opinion_model
from titan_speech.evaluate.models.recognizers import open_recognizer
from titan_speech.evaluate.models.voices import open_voice_encoder
from titan_speech.evaluate.scorers.base import Scorer
from titan_speech.evaluate.scorers.opinion import OpinionScorer
from titan_speech.evaluate.scorers.voice import VoiceScorer
from titan_speech.evaluate.scorers.words import WordScorer
from titan_speech.evaluate.trust import TrustBounds, measure_trust
from titan_speech.store.reader import open_store

pytestmark = pytest.mark.slow


def clips(part_name: str, count: int, seed: int = 0) -> list[Clip]:
    """Recordings of the demo as its codec gives them, each with another one of its speaker as the voice."""
    codec = load_codec("embedded")
    part = next(part for part in open_store(ROOT / "demo_data").parts if part.name == part_name)
    long_enough = np.flatnonzero((part.code_len_N > 100) & (part.code_len_N < 250))
    numbers = np.random.default_rng(seed).permutation(long_enough)[:count].tolist()
    sounds = [Sound(codec.decode(np.array(part.codes(i)))) for i in numbers]
    return [
        Clip(
            prompt_id=part.row(i).sample_id,
            language=part.language,
            text=part.row(i).transcript_native or "",
            sound=sound,
            voice=sounds[(at + 1) % count],
        )
        for at, (i, sound) in enumerate(zip(numbers, sounds, strict=True))
    ]


@pytest.fixture(scope="module")
def english() -> list[Clip]:
    return clips("asterisk.en.speech", 12)


def noisy(clip: Clip) -> Clip:
    wav_T = clip.sound.wav_T
    assert wav_T is not None
    noise_T = np.random.default_rng(0).normal(0, float(np.std(wav_T)) / 2, len(wav_T))
    return replace(clip, sound=Sound((wav_T + noise_T).astype(np.float32).clip(-1, 1)))


def mean_of(scorer: Scorer, some: list[Clip], metric: str) -> float:
    value = mean([scores[metric] for scores in scorer.score(some)])
    assert value is not None
    return value


def test_words_are_heard_and_other_words_are_errors(english: list[Clip]) -> None:
    with IsolatedModel(open_recognizer(str(whisper_tiny_en()))) as recognizer:
        table = measure_trust(english, [recognizer], bounds=TrustBounds(max_cer=0.4, min_prompts=5))
        assert table.rows[0].is_trusted, table.lines()
        scorer = WordScorer([recognizer], table)
        shuffled = [replace(clip, text=other.text) for clip, other in zip(english, english[5:] + english, strict=False)]
        right, wrong = mean_of(scorer, english, "wer"), mean_of(scorer, shuffled, "wer")
        assert right < 0.3 < 0.7 < wrong


def test_another_speaker_is_less_alike(english: list[Clip]) -> None:
    package("resemblyzer")
    other = clips("asterisk.ru.speech", 1)[0].sound
    with IsolatedModel(open_voice_encoder()) as encoder:
        scorer = VoiceScorer(encoder)
        same = mean_of(scorer, english, "similarity")
        assert same > mean_of(scorer, [replace(clip, voice=other) for clip in english], "similarity") + 0.05


def test_noise_lowers_the_opinion(english: list[Clip]) -> None:
    package("speechmos")
    with IsolatedModel(open_opinion_model()) as model:
        scorer = OpinionScorer(model)
        assert mean_of(scorer, english, "dnsmos") > mean_of(scorer, [noisy(clip) for clip in english], "dnsmos") + 0.2


def test_a_recognizer_that_writes_hindi_in_latin_letters_is_refused(tmp_path: Path) -> None:
    hindi = clips("espeak.hi.speech", 6)
    with IsolatedModel(open_recognizer(str(whisper_base(tmp_path / "base")))) as recognizer:
        row = measure_trust(hindi, [recognizer], bounds=TrustBounds(min_prompts=6)).rows[0]
    assert not row.is_trusted
    assert row.cer is not None
    assert row.cer > 0.15


def test_a_recognizer_in_a_transformers_folder_answers_and_a_random_one_is_refused(
    tmp_path: Path, english: list[Clip]
) -> None:
    with IsolatedModel(open_recognizer(str(random_whisper(tmp_path / "whisper")))) as recognizer:
        row = measure_trust(english[:5], [recognizer], bounds=TrustBounds(min_prompts=5)).rows[0]
        answers = recognizer([(np.zeros(16_000, np.float32), language) for language in ("hi", "en")])
    assert (row.asr, row.num_prompts, row.coverage) == ("whisper", 5, 1.0)
    assert not row.is_trusted
    assert all(isinstance(answer, str) and answer.strip() for answer in answers), answers
