"""Real models on the bundled speech: scores are in the expected order, and an ASR that romanizes is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from tests.support.evaluation_models import package, random_whisper, whisper_base, whisper_tiny_en
from tests.support.runs import ROOT
from titan_speech.codec.load import load_codec
from titan_speech.config.schema_training import GenerationCheckConfig
from titan_speech.data.generation_prompts import GenerationPrompt
from titan_speech.errors import BoundsLeftError
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
from titan_speech.generate.generation_check import GenerationCheck, Ranks
from titan_speech.generate.generation_check_sound import CheckSound
from titan_speech.store.reader import open_store
from titan_speech.tokenization.prompt_template import Grammar, Task
from titan_speech.tokenization.vocabulary import Vocabulary
from titan_speech.training.callback import RunEnd

pytestmark = pytest.mark.slow


def clips(part_name: str, count: int, seed: int = 0) -> list[Clip]:
    """Recordings of the demo as its codec gives them, each with another one of its speaker as the voice."""
    codec = load_codec("embedded")
    part = next(part for part in open_store(ROOT / "demo_data").parts if part.name == part_name)
    long_enough = np.flatnonzero((part.code_len_N > 100) & (part.code_len_N < 250))
    numbers = np.random.default_rng(seed).permutation(long_enough)[:count].tolist()
    codes = [np.array(part.codes(i)) for i in numbers]
    sounds = [Sound(codec.decode(codes_F), codes_F) for codes_F in codes]
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


def codes_of(sound: Sound) -> NDArray[np.uint16]:
    assert sound.codes_F is not None
    return sound.codes_F


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


@pytest.fixture
def one_process() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_process")
def test_a_check_of_a_run_keeps_its_bounds_in_the_own_voice_and_leaves_them_in_another(
    tmp_path: Path, english: list[Clip]
) -> None:
    """A model that says recordings of a speaker, where another recording of the speaker is asked for, or of another."""
    package("resemblyzer")
    grammar = Grammar(Vocabulary(400, bos_id=0, eos_id=1))
    stop, num_codes = grammar.stop_id(Task.TTS), max(len(codes_of(clip.sound)) for clip in english[:4])
    config = GenerationCheckConfig(
        every_steps=1,
        max_codes=num_codes + 1,
        temperature=0.0,
        codec="embedded",
        voice="resemblyzer",
        stop_below={"similarity": 0.78},
    )
    said = [[*grammar.vocabulary.codes_to_ids(codes_of(clip.sound)).tolist(), stop] for clip in english[:4]]
    encoder = IsolatedModel(open_voice_encoder(config.voice))
    encoder.load()
    scorer = VoiceScorer(encoder)
    logged: list[float] = []

    def speak(ids_BL: torch.Tensor, last_B: torch.Tensor) -> torch.Tensor:
        logits_BV = torch.zeros(len(ids_BL), grammar.vocabulary.num_rows)
        for row, last in enumerate(last_B.tolist()):
            logits_BV[row, said[row][min(last, len(said[row]) - 1)]] = 1.0
        return logits_BV

    def check(voices: list[Sound]) -> GenerationCheck:
        prompts = [
            GenerationPrompt(clip.prompt_id, "tts", "en", np.zeros(1, np.int64), len(codes) - 1, codes_of(asked))
            for clip, codes, asked in zip(english, said, voices, strict=False)
        ]
        return GenerationCheck(
            config,
            prompts,
            grammar,
            speak,
            lambda event, step, metrics, lines, sec: logged.append(metrics["generation/similarity"]),
            lambda what, step, text: None,
            lambda event, step, samples: None,
            Ranks(0, 1, torch.device("cpu")),
            tmp_path,
            num_steps=9,
            sound=CheckSound(load_codec("embedded"), tmp_path, 600.0, scorer),
        )

    own = [clip.voice for clip in english[:4] if clip.voice is not None]
    other = [clip.sound for clip in clips("asterisk.ru.speech", 4)]
    check(own).step_boundary(0)
    with pytest.raises(BoundsLeftError, match="similarity"):
        check(other).step_boundary(1)
    print("similarity to the own voice, to another", logged)
    check(own).finish(RunEnd.COMPLETE)


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
