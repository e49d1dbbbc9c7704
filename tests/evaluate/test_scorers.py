"""Scorers on clips whose right scores are known; recognizers are scripted, and error rates need a trusted one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support.evaluation_models import LoadedModel
from tests.support.runs import ROOT
from titan_speech.codec.load import load_codec
from titan_speech.errors import DataError
from titan_speech.evaluate.clip import SAMPLE_RATE, Clip, Score, Sound, mean, through_codec
from titan_speech.evaluate.models.base import Listen
from titan_speech.evaluate.normalization.lattice import Spellings
from titan_speech.evaluate.normalization.scoring import ScoringRules
from titan_speech.evaluate.scorer_choice import ScorerChoice, open_scorers
from titan_speech.evaluate.scorers.base import score_clips
from titan_speech.evaluate.scorers.edit_distance import count_errors
from titan_speech.evaluate.scorers.measures import CodeScorer, SoundScorer
from titan_speech.evaluate.scorers.voice import VoiceScorer
from titan_speech.evaluate.scorers.words import WordScorer, word_scores
from titan_speech.evaluate.trust import TrustTable, measure_trust, read_trust_table
from titan_speech.store.reader import open_store

RULES = ScoringRules("digits")
HINDI = "यह एक छोटा वाक्य है"


def tone(number: int, seconds: float = 1.0) -> NDArray[np.float32]:
    """A waveform that stands for the clip of this number."""
    time_T = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (0.3 * np.sin(2 * np.pi * 150 * time_T) + number / 1000).astype(np.float32)


@dataclass(frozen=True)
class ScriptedAsr:
    """Hears what the script says for the clip of a number."""

    script: Callable[[int, str], str]
    name: str = "scripted"
    version: str = "1"

    def load(self) -> Listen:
        return lambda wav_T, language: self.script(round(float(wav_T[0]) * 1000), language)


@dataclass(frozen=True)
class ScriptedVoices:
    """Embeds a sound as its first samples."""

    name: str = "voices"
    version: str = "1"
    asked: list[int] = field(default_factory=list)

    def load(self) -> Listen:
        def listen(wav_T: NDArray[np.float32], _: str) -> NDArray[np.float32]:
            self.asked.append(len(wav_T))
            return wav_T[:3]

        return listen


def recordings(language: str, text: str, count: int = 25) -> list[Clip]:
    return [
        Clip(prompt_id=f"{language}{i}", language=language, text=text, sound=Sound(tone(i)), made_by="recording")
        for i in range(count)
    ]


def plain(words: str) -> list[list[tuple[str, ...]]]:
    return [[(word,)] for word in words.split()]


@pytest.mark.parametrize(
    ("reference", "heard", "errors", "insertions"),
    [("a b c", "a b c", 0, 0), ("a b c", "a c", 1, 0), ("a b", "a x b y", 2, 2), ("a b", "", 2, 0), ("a", "x y", 2, 1)],
)
def test_errors_of_known_pairs(reference: str, heard: str, errors: int, insertions: int) -> None:
    found = count_errors(plain(reference), heard.split())
    assert (found.errors, found.insertions, found.num_reference) == (errors, insertions, len(reference.split()))


def levenshtein(one: str, other: str) -> int:
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        last, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (a != b))
    return row[-1]


@given(st.text("abc", max_size=12), st.text("abcd", max_size=12))
def test_errors_are_the_edit_distance(reference: str, heard: str) -> None:
    found = count_errors([[(letter,)] for letter in reference], heard)
    assert found.errors == levenshtein(reference, heard)
    assert max(0, len(heard) - len(reference)) <= found.insertions <= found.errors


@given(st.text("ab ", min_size=1, max_size=12), st.text("ab ", max_size=12))
def test_more_accepted_spellings_never_make_more_errors(reference: str, heard: str) -> None:
    slots = plain(reference)
    wider = [[*slot, ("a", "b")] for slot in slots]
    assert count_errors(wider, heard.split()).errors <= count_errors(slots, heard.split()).errors


def test_an_accepted_spelling_is_no_error() -> None:
    group = (("web", "site"), ("website",))
    spellings = Spellings({"en": {group[0]: group, group[1]: (group[1], group[0])}}, "v")
    assert word_scores("my web site", "my website", "en", RULES, spellings)["wer"].value == 0.0
    assert word_scores("my web site", "my website", "en", RULES)["wer"].value == pytest.approx(2 / 3)
    assert word_scores("my web site", "my website", "en", RULES)["cer"].value == 0.0


def test_a_mean_is_errors_per_word_of_all_clips() -> None:
    scores = [word_scores("a b c d", "a b c d", "en", RULES), word_scores("a b", "x y", "en", RULES)]
    assert mean([one["wer"] for one in scores]) == pytest.approx(2 / 6)
    assert mean([Score.missing("why")]) is None


def test_of_two_recognizers_the_better_trusted_one_judges_and_a_romanizing_one_is_refused() -> None:
    """Hindi with scripted recognizers: none that may be had here is trusted in it."""
    near = LoadedModel(ScriptedAsr(lambda i, _: HINDI if i % 4 else HINDI.replace("छोटा", "छोटी"), "near"))
    exact = LoadedModel(ScriptedAsr(lambda i, _: HINDI, "exact"))
    latin = LoadedModel(ScriptedAsr(lambda i, _: "yah ek chhota vakya hai", "latin"))
    table = measure_trust(recordings("hi", HINDI), [near, exact, latin], rules=RULES)
    assert {row.asr: row.is_trusted for row in table.rows} == {"exact": True, "latin": False, "near": True}
    refused = next(row for row in table.rows if row.asr == "latin")
    assert "0% in the right script" in "; ".join(refused.reasons)
    heard = word_scores_of([near, exact, latin], table, recordings("hi-IN", HINDI, 2))
    assert heard[0]["cer"].value == 0.0
    only_latin = word_scores_of([latin], table, recordings("hi", HINDI, 2))
    assert only_latin[0]["cer"].value is None
    assert only_latin[0]["cer"].reason.startswith("not measured: latin is not trusted in hi")
    assert word_scores_of([exact], table, recordings("ta", HINDI, 1))[0]["wer"].value is None


def word_scores_of(recognizers: list[LoadedModel], table: TrustTable, some: list[Clip]) -> list[dict[str, Score]]:
    return WordScorer(recognizers, table, RULES).score(some)


def test_trust_is_refused_for_few_clips_no_answers_many_errors_and_other_versions() -> None:
    asr = ScriptedAsr(lambda i, _: HINDI)
    few = measure_trust(recordings("hi", HINDI, 5), [LoadedModel(asr)], rules=RULES)
    assert "5 recordings, expected at least 20" in few.rows[0].reasons
    silent = measure_trust(recordings("hi", HINDI), [LoadedModel(ScriptedAsr(lambda i, _: ""))], rules=RULES)
    assert silent.rows[0].coverage == 0.0
    assert silent.rows[0].cer == 1.0
    wrong = measure_trust(recordings("hi", HINDI), [LoadedModel(ScriptedAsr(lambda i, _: HINDI[:9]))], rules=RULES)
    assert "expected at most 15%" in wrong.rows[0].reasons[-1]
    good = measure_trust(recordings("hi", HINDI), [LoadedModel(asr)], rules=RULES)
    assert good.chosen("hi", {"scripted": "1"}) == ("scripted", "")
    assert good.chosen("hi", {"scripted": "2"})[0] is None
    assert "other recognizers" in good.chosen("hi", {"scripted": "2"})[1]
    greek = measure_trust(recordings("el", "ένα"), [LoadedModel(ScriptedAsr(lambda i, _: "ένα"))], rules=RULES)
    assert greek.rows[0].reasons == ("the script of el is not known, so its transcripts cannot be checked",)
    latin = ScriptedAsr(lambda i, _: "a" if i % 5 == 0 else HINDI)
    share = measure_trust(recordings("hi", HINDI), [LoadedModel(latin)], rules=RULES).rows[0].script
    num_letters = 20 * sum(map(str.isalpha, HINDI))
    assert share == pytest.approx(num_letters / (num_letters + 5), abs=1e-6), "of letters, not of clips"


def test_a_trust_table_is_read_back_and_changes_the_series_of_a_result(tmp_path: Path) -> None:
    asr = LoadedModel(ScriptedAsr(lambda i, _: HINDI))
    table = measure_trust(recordings("hi", HINDI), [asr], recordings("hi", HINDI), rules=RULES, about="scripted")
    table.write(tmp_path / "trust.json")
    assert read_trust_table(tmp_path / "trust.json") == table
    assert table.rows[0].cer_codec == 0.0
    assert any("yes" in line for line in table.lines())
    other = replace(table, rows=())
    assert WordScorer([asr], table, RULES).version != WordScorer([asr], other, RULES).version
    (tmp_path / "trust.json").write_text('{"version": 1, "rows": 3}')
    with pytest.raises(DataError, match="damaged"):
        read_trust_table(tmp_path / "trust.json")


def test_a_silent_clip_has_every_word_wrong_and_one_without_sound_is_not_measured() -> None:
    asr = LoadedModel(ScriptedAsr(lambda i, _: HINDI))
    table = measure_trust(recordings("hi", HINDI), [asr], rules=RULES)
    silent = replace(recordings("hi", HINDI, 1)[0], sound=Sound(np.zeros(SAMPLE_RATE, np.float32)))
    lost = replace(silent, sound=Sound())
    stopped = replace(silent, sound=Sound(np.zeros(0, np.float32), np.zeros(0, np.uint16)))
    short = replace(silent, sound=Sound(tone(0, 0.08)))
    found = word_scores_of([asr], table, [silent, lost, stopped, short])
    assert [scores["wer"].value for scores in found] == [1.0, None, 1.0, 1.0]
    assert found[1]["wer"].reason == "scripted: no audio"


def test_similarity_is_of_the_reference_which_is_embedded_once() -> None:
    voices = ScriptedVoices()
    scorer = VoiceScorer(LoadedModel(voices))
    one = replace(recordings("en", "text", 1)[0], voice=Sound(tone(0, 2.0)))
    found = scorer.score([one, one, replace(one, voice=None), replace(one, voice=Sound(tone(0, 0.2)))])
    assert [scores["similarity"].value for scores in found] == [pytest.approx(1.0), pytest.approx(1.0), None, None]
    assert found[2]["similarity"].reason == "no reference voice"
    assert "at least 0.5 s" in found[3]["similarity"].reason
    assert voices.asked.count(2 * SAMPLE_RATE) == 1


def test_a_reference_that_could_not_be_embedded_is_tried_again() -> None:
    encoder = LoadedModel(ScriptedVoices())
    scorer = VoiceScorer(encoder)
    clip = replace(recordings("en", "text", 1)[0], voice=Sound(tone(0, 2.0)))
    works, encoder._listen = encoder._listen, fail
    assert scorer.score([clip])[0]["similarity"].failed
    encoder._listen = works
    assert scorer.score([clip])[0]["similarity"].value == pytest.approx(1.0)


def fail(*_: object) -> NDArray[np.float32]:
    raise RuntimeError("out of order")


def test_rate_duration_and_pauses_of_a_known_sound() -> None:
    speech = tone(0, 2.0)
    pause = np.zeros(SAMPLE_RATE, np.float32)
    clip = Clip(
        prompt_id="p",
        language="en",
        text="“twenty letters…” — abcdefg।",
        sound=Sound(np.concatenate((pause, speech, pause, speech, pause))),
        recording=Sound(codes_F=np.zeros(175, np.uint16)),
    )
    found = SoundScorer().score([clip])[0]
    assert found["duration_ratio"].value == pytest.approx(2.0)
    assert found["longest_pause_sec"].value == pytest.approx(1.0, abs=0.05)
    assert found["pause_share"].value == pytest.approx(1 / 7, abs=0.01)
    assert found["chars_per_sec"].value == pytest.approx(20 / 4, rel=0.05)
    assert found["silence"].value == pytest.approx(3 / 7, abs=0.03)
    silent = SoundScorer().score([replace(clip, sound=Sound(pause), recording=None)])[0]
    assert silent["silence"].value == 1.0
    assert silent["f0_range_semitones"].reason == "too little voice"
    assert silent["duration_ratio"].reason == "no recording"


def test_codes_show_loops_repeats_and_a_missing_stop() -> None:
    random = np.random.default_rng(0)
    steady = Sound(codes_F=random.integers(0, 65_536, 200).astype(np.uint16))
    looping = Sound(codes_F=np.tile(np.arange(10, dtype=np.uint16), 20))
    clip = Clip(prompt_id="p", language="en", text="t", sound=steady, stopped=True)
    good, bad, recorded = CodeScorer().score(
        [clip, replace(clip, sound=looping, stopped=False), replace(clip, sound=Sound(), stopped=None)]
    )
    assert (good["stop_failure"].value, good["loop"].value, good["ngram_repeats"].value) == (0.0, 0.0, 0.0)
    assert (bad["stop_failure"].value, bad["loop"].value) == (1.0, 1.0)
    assert recorded["stop_failure"].reason == "no model made it"


def test_the_ceiling_is_the_recording_through_the_codec() -> None:
    codec = load_codec("embedded")
    part = next(p for p in open_store(ROOT / "demo_data").parts if p.kind == "speech")
    codes_F = np.array(part.codes(0))[:60]
    wav_T = codec.decode(codes_F)
    clip = Clip(prompt_id="p", language="as", text="t", sound=Sound(codes_F=codes_F))
    decoded, encoded, lost = through_codec(
        [clip, replace(clip, sound=Sound(wav_T)), replace(clip, sound=Sound())], codec
    )
    assert decoded.sound.wav_T is not None
    np.testing.assert_array_equal(decoded.sound.wav_T, wav_T)
    assert encoded.sound.codes_F is not None
    assert len(encoded.sound.codes_F) == 60
    assert lost.sound.wav_T is None
    assert decoded.made_by == "codec"


def test_a_scorer_that_raises_leaves_the_others_their_scores() -> None:
    class Broken(SoundScorer):
        name = "broken"
        metrics = (replace(SoundScorer.metrics[0], name="broken"),)

        def score(self, clips: object) -> list[dict[str, Score]]:
            raise KeyError("gone")

    found = score_clips(recordings("en", "text", 2), [Broken(), CodeScorer()])
    assert "KeyError" in found[0]["broken"].reason
    assert found[1]["repeats"].reason == "no codes"


def test_a_recognizer_without_a_trust_table_and_metrics_of_one_name_are_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(DataError, match="trust table"), open_scorers(ScorerChoice(asr=(str(tmp_path),))):
        pass
    for name in ("a/x.pt", "b/x.pt", "silence.pt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    for names, message in ((("a/x.pt", "b/x.pt"), "two scorers give x"), (("silence.pt",), "two scorers give silence")):
        files = tuple(str(tmp_path / name) for name in names)
        with pytest.raises(DataError, match=message), open_scorers(ScorerChoice(opinion=files)):
            pass
    (tmp_path / "trust.json").write_text('{"version": 1, "rows": [], "bounds": {}, "rules": "older", "about": ""}')
    with open_scorers(ScorerChoice(asr=(str(tmp_path),), trust=tmp_path / "trust.json", numerals="digits")):
        assert "measured by other rules of text (older)" in caplog.text
    with open_scorers(ScorerChoice()) as (scorers, table):
        assert [one.name for one in scorers] == ["codes", "sound"]
        assert table is None
