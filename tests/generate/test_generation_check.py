"""The generation check with a scripted model: what it samples, what it warns of, when it stops the run."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from tests.support.evaluation_models import LoadedModel
from tests.support.runs import ROOT
from titan_speech.codec.load import load_codec
from titan_speech.codec.wav import read_audio
from titan_speech.config.schema_training import GenerationCheckConfig
from titan_speech.data.generation_prompts import GenerationPrompt
from titan_speech.errors import BoundsLeftError, ConfigError, HealthError
from titan_speech.evaluate.models.base import Listen
from titan_speech.evaluate.scorers.voice import VoiceScorer
from titan_speech.generate.generation_check import GenerationCheck, LastLogits, Ranks
from titan_speech.generate.generation_check_sound import CheckSound
from titan_speech.store.reader import open_store
from titan_speech.tokenization.prompt_template import Grammar, Task
from titan_speech.tokenization.vocabulary import Vocabulary
from titan_speech.training.sinks.sink import Sample

GRAMMAR = Grammar(Vocabulary(400, bos_id=0, eos_id=1))
STOP = GRAMMAR.stop_id(Task.TTS)
FIRST_CODE = GRAMMAR.vocabulary.first_code_id
PROMPTS = tuple(
    GenerationPrompt(
        f"sample-{i}", "tts", language, np.arange(3 + i, dtype=np.int64), 20, np.arange(99, dtype=np.uint16)
    )
    for i, language in enumerate(("en", "hi", "en"))
)


@pytest.fixture(autouse=True)
def one_process() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def scripted(next_id_of: dict[int, int] | None = None, otherwise: int = FIRST_CODE) -> LastLogits:
    """A model that says `next_id_of[position]`, else `otherwise`, whatever it reads."""

    def logits(ids_BL: torch.Tensor, last_B: torch.Tensor) -> torch.Tensor:
        logits_BV = torch.zeros(len(ids_BL), GRAMMAR.vocabulary.num_rows)
        for row, last in enumerate(last_B.tolist()):
            logits_BV[row, (next_id_of or {}).get(last, otherwise)] = 100.0
        return logits_BV

    return logits


def run(
    model: LastLogits, folder: Path, step: int = 0, config: GenerationCheckConfig | None = None
) -> dict[str, float]:
    logged: list[Mapping[str, float]] = []

    def log(event: str, step: int, metrics: Mapping[str, float], lines: Sequence[str], sec: float) -> None:
        assert event == "generation"
        assert all(len(line) <= 100 for line in lines)
        logged.append(metrics)

    config = replace(config or GenerationCheckConfig(max_codes=64), every_steps=5)
    ranks = Ranks(0, 1, torch.device("cpu"))

    def no_show(event: str, step: int, samples: Sequence[Sample]) -> None:
        assert [sample.audio_T for sample in samples] == [None] * len(PROMPTS)

    def flag(what: str, step: int, text: str) -> None:
        logging.getLogger("flagged").warning(f"{what} at {step}: {text}")

    GenerationCheck(config, PROMPTS, GRAMMAR, model, log, flag, no_show, ranks, folder, num_steps=12).step_boundary(
        step
    )
    return dict(logged[0]) if logged else {}


def test_it_is_due_before_the_first_step_at_the_interval_and_after_the_last(tmp_path: Path) -> None:
    assert [step for step in range(13) if run(scripted(otherwise=STOP), tmp_path, step)] == [0, 5, 10, 12]


def test_the_stop_token_ends_a_prompt_and_other_rows_go_on(tmp_path: Path) -> None:
    metrics = run(scripted({22: STOP}), tmp_path)
    sampled = [record["sampled_ids"] for record in json.loads((tmp_path / "generation" / "step-0.json").read_text())]
    # prompt i has 3 + i tokens and sees position 22 after 20 - i codes
    assert [len(ids) for ids in sampled] == [21, 20, 19]
    assert all(ids[-1] == STOP and set(ids[:-1]) == {FIRST_CODE} for ids in sampled)
    assert metrics["generation/stop_failure"] == 0
    assert metrics["generation/length_ratio"] == pytest.approx((20 + 19 + 18) / 60)


def test_a_loop_without_a_stop_is_measured_by_language_and_stops_at_the_limit(tmp_path: Path) -> None:
    metrics = run(scripted(), tmp_path)
    assert metrics["generation/stop_failure"] == metrics["generation/loop"] == 1
    assert metrics["generation/language/hi/loop"] == 1
    records = json.loads((tmp_path / "generation" / "step-0.json").read_text())
    assert {len(record["sampled_ids"]) for record in records} == {65}


def test_a_bound_warns_or_stops_from_its_step_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        run(scripted(), tmp_path, 5, GenerationCheckConfig(max_codes=64, warn={"loop": 0.5}))
    assert "loop 1 is above 0.5" in caplog.text
    with pytest.raises(HealthError, match=r"step 5 left its bounds: stop_failure 1 is above 0\.3"):
        run(scripted(), tmp_path, 5, GenerationCheckConfig(max_codes=64, stop={"stop_failure": 0.3}))
    run(scripted(), tmp_path, 5, GenerationCheckConfig(max_codes=64, stop={"stop_failure": 0.3}, bounds_from_step=6))


def test_a_lower_bound_sees_what_has_become_too_small(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One code over and over, and no sound at all: nothing is above a bound."""
    few = GenerationCheckConfig(max_codes=64, warn_below={"code_entropy_bits": 4.0, "length_ratio": 0.3})
    with caplog.at_level(logging.WARNING):
        run(scripted(), tmp_path, 5, few)
    assert "code_entropy_bits 0 is below 4" in caplog.text
    assert "length_ratio" not in caplog.text
    with pytest.raises(HealthError, match=r"length_ratio 0 is below 0\.3"):
        run(scripted(otherwise=STOP), tmp_path, 5, replace(few, warn_below={}, stop_below={"length_ratio": 0.3}))
    with pytest.raises(ConfigError, match="warn_below"):
        run(scripted(), tmp_path, config=GenerationCheckConfig(every_steps=4, warn_below={"silence": 0.5}))


def test_sampling_depends_on_prompt_and_step_alone(tmp_path: Path) -> None:
    def flat(ids_BL: torch.Tensor, last_B: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(ids_BL), GRAMMAR.vocabulary.num_rows)

    def ids(step: int) -> list[list[int]]:
        run(flat, tmp_path, step, GenerationCheckConfig(max_codes=8))
        records = json.loads((tmp_path / "generation" / f"step-{step}.json").read_text())
        return [record["sampled_ids"] for record in records]

    first = ids(0)
    torch.manual_seed(9)
    assert ids(0) == first
    assert ids(5) != first
    assert len({tuple(some) for some in first}) == 3


def test_with_a_codec_each_sample_is_kept_as_sound_and_measured(tmp_path: Path) -> None:
    codec = load_codec("embedded")
    config = GenerationCheckConfig(every_steps=4, max_codes=40, temperature=0.0, codec="embedded")
    logged: list[Mapping[str, float]] = []
    shown: list[Sample] = []
    check = GenerationCheck(
        config,
        PROMPTS[:2],
        GRAMMAR,
        scripted({30: STOP}),
        lambda event, step, metrics, lines, sec: logged.append(metrics),
        lambda what, step, text: None,
        lambda event, step, samples: shown.extend(samples),
        Ranks(0, 1, torch.device("cpu")),
        tmp_path,
        num_steps=12,
        sound=CheckSound(codec, tmp_path / "generation", max_sec=60.0),
    )
    check.step_boundary(4)
    assert [len(sample.audio_T) for sample in shown if sample.audio_T is not None] == [
        len(read_audio(tmp_path / "generation" / "step-4" / f"{number}.wav")) for number in range(2)
    ]
    records = json.loads((tmp_path / "generation" / "step-4.json").read_text())
    for number, record in enumerate(records):
        num_codes = len(record["sampled_ids"]) - 1
        wav_T = read_audio(tmp_path / "generation" / "step-4" / f"{number}.wav")
        assert len(wav_T) == num_codes * codec.sample_rate // codec.frame_rate_hz
        assert 0 <= record["silence"] <= 1
    assert logged[0]["generation/silence"] == pytest.approx(np.mean([record["silence"] for record in records]))


class Spectrum:
    """A voice is its mean spectrum in 64 bands."""

    name, version = "spectrum", "1"

    def load(self) -> Listen:
        def listen(wav_T: NDArray[np.float32], _: str) -> NDArray[np.float64]:
            return np.abs(np.fft.rfft(wav_T[: len(wav_T) // 128 * 128].reshape(-1, 128))).mean(0)

        return listen


def says_recording(
    folder: Path, recorded: NDArray[np.uint16], voice: NDArray[np.uint16], config: GenerationCheckConfig
) -> dict[str, float]:
    """The metrics of a check of a model that says a recording, in the voice of another one."""
    logged: list[Mapping[str, float]] = []
    prompt = replace(PROMPTS[0], voice_codes_F=voice)
    said = [*GRAMMAR.vocabulary.codes_to_ids(recorded).tolist(), STOP]
    GenerationCheck(
        config,
        [prompt],
        GRAMMAR,
        scripted({len(prompt.ids_T) - 1 + i: next_id for i, next_id in enumerate(said)}),
        lambda event, step, metrics, lines, sec: logged.append(metrics),
        lambda what, step, text: None,
        lambda event, step, samples: None,
        Ranks(0, 1, torch.device("cpu")),
        folder,
        num_steps=12,
        sound=CheckSound(load_codec("embedded"), folder / "generation", 60.0, VoiceScorer(LoadedModel(Spectrum()))),
    ).step_boundary(0)
    return dict(logged[0])


def test_another_voice_than_the_one_of_the_prompt_leaves_the_bounds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parts = {part.name: part for part in open_store(ROOT / "demo_data").parts}
    own, other = (
        part.codes(int(np.flatnonzero(part.code_len_N > 60)[0]))[:60]
        for part in (parts["asterisk.en.speech"], parts["espeak.hi.speech"])
    )
    bounds = {"similarity": 0.999}
    config = GenerationCheckConfig(every_steps=4, max_codes=64, codec="embedded", voice="spectrum", stop_below=bounds)
    assert says_recording(tmp_path, own, own, config)["generation/similarity"] == pytest.approx(1)
    with pytest.raises(BoundsLeftError, match=r"similarity 0\.\d+ is below 0\.999"):
        says_recording(tmp_path, own, other, config)
    [record] = json.loads((tmp_path / "generation" / "step-0.json").read_text())
    assert 0 < record["similarity"] < 0.999
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]
    with caplog.at_level(logging.WARNING):  # a voice of 0.2 s is none, and a bound of what nobody measured is not left
        metrics = says_recording(tmp_path, own, other[:10], config)
    assert "generation/similarity" not in metrics
    assert "No sample of the generation check at step 0 has a voice to compare (the reference voice" in caplog.text


def test_a_folder_that_cannot_be_written_costs_one_warning_for_ids_and_one_for_sound(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "generation").write_text("a file in the place of the folder")
    shown: list[Sample] = []
    check = GenerationCheck(
        GenerationCheckConfig(every_steps=4, max_codes=40, temperature=0.0, codec="embedded"),
        PROMPTS[:2],
        GRAMMAR,
        scripted({30: STOP}),
        lambda event, step, metrics, lines, sec: None,
        lambda what, step, text: None,
        lambda event, step, samples: shown.extend(samples),
        Ranks(0, 1, torch.device("cpu")),
        tmp_path,
        num_steps=12,
        sound=CheckSound(load_codec("embedded"), tmp_path / "generation", max_sec=60.0),
    )
    with caplog.at_level(logging.WARNING):
        for step in (4, 8):
            check.step_boundary(step)
    assert [sample.audio_T for sample in shown] == [None] * 4
    assert len(caplog.messages) == 2, caplog.messages
    assert "The sound of sample 0 of the generation check at step 4 is missing" in caplog.messages[0]
    assert "cannot be written" in caplog.messages[1]


def test_a_stop_knows_the_last_step_whose_check_kept_the_bounds(tmp_path: Path) -> None:
    """Also where that check was one of an earlier start of the run."""
    config = GenerationCheckConfig(every_steps=4, max_codes=16, temperature=0.0, stop={"stop_failure": 0.5})
    said = [STOP]

    def start() -> GenerationCheck:
        return GenerationCheck(
            config,
            PROMPTS[:2],
            GRAMMAR,
            lambda ids_BL, last_B: scripted(otherwise=said[0])(ids_BL, last_B),
            lambda event, step, metrics, lines, sec: None,
            lambda what, step, text: None,
            lambda event, step, samples: None,
            Ranks(0, 1, torch.device("cpu")),
            tmp_path,
            num_steps=12,
        )

    check = start()
    for step in (0, 4):
        check.step_boundary(step)
    resumed = start()
    resumed.step_boundary(5)
    said[0] = FIRST_CODE
    for one in (check, resumed):
        with pytest.raises(BoundsLeftError, match=r"stop_failure 1 is above 0\.5") as left:
            one.step_boundary(8)
        assert (left.value.found, left.value.step, left.value.within_step) == ("stop_failure 1 is above 0.5", 8, 4)
    again = start()
    with pytest.raises(BoundsLeftError) as left:
        again.step_boundary(8)
    assert left.value.within_step == 4


def test_a_check_that_takes_too_long_is_given_up_without_measures_and_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What was cut short would count as speech without a stop."""
    config = GenerationCheckConfig(max_codes=64, max_sec=1e-9, stop={"stop_failure": 0.5}, stop_below={"loop": 0.5})
    with caplog.at_level(logging.WARNING):
        metrics = run(scripted(), tmp_path, 5, config)
    assert list(metrics) == ["generation/sec"]
    (warning,) = caplog.messages
    assert warning.startswith("The generation check at step 5 was given up after ")
    assert not (tmp_path / "generation").exists()


def test_a_bound_that_is_no_measure_is_refused(tmp_path: Path) -> None:
    config = GenerationCheckConfig(every_steps=4, warn={"silence": 0.5})
    with pytest.raises(
        ConfigError, match=r"found 'silence', expected one of stop_failure.*with generation_check.codec"
    ):
        run(scripted(), tmp_path, config=config)
    of_voice = GenerationCheckConfig(every_steps=4, codec="embedded", stop_below={"similarity": 0.5})
    with pytest.raises(ConfigError, match=r"found 'similarity', .*; with generation_check.voice also similarity"):
        run(scripted(), tmp_path, config=of_voice)
