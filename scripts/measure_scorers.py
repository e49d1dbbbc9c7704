"""Measure the scorers on speech of known quality, and the trust of recognizers by language.

In: a corpus (scripts/build_corpus.py), recognizers, and a codec. Out: two JSON files.

order.json     English recordings under treatments whose order is known: as recorded, through the codec, with another
               text, with the voice of another speaker as reference, with noise at 5 dB, twice as fast, every 0.3 s
               silenced; means with intervals by scorer, and whether each scorer puts them in the expected order
trust.json     the trust table of the recognizers in each language (human: en es fr it ru; espeak: hi ta te bn)

    pip install 'titan-speech[eval-tests]'
    python scripts/measure_scorers.py --corpus corpus --english-asr whisper-tiny.en --asr whisper-base \\
        --output benchmarks/reports/scorers
"""

from __future__ import annotations

import argparse
import datetime
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from corpus.rows import SpeechRow, read_speech
from numpy.typing import NDArray

from titan_speech.codec.base import Codec
from titan_speech.codec.load import load_codec
from titan_speech.codec.wav import read_audio
from titan_speech.evaluate.clip import SAMPLE_RATE, Clip, Sound, through_codec
from titan_speech.evaluate.models.isolation import IsolatedModel
from titan_speech.evaluate.models.opinions import open_opinion_model
from titan_speech.evaluate.models.recognizers import FasterWhisper, open_recognizer
from titan_speech.evaluate.models.voices import open_voice_encoder
from titan_speech.evaluate.normalization.scoring import DEFAULT_RULES
from titan_speech.evaluate.result import Result, ResultKey, make_result
from titan_speech.evaluate.scorer_choice import ScorerChoice
from titan_speech.evaluate.scorers.base import Scorer, score_clips, versions_of
from titan_speech.evaluate.scorers.measures import CodeScorer, SoundScorer
from titan_speech.evaluate.scorers.opinion import OpinionScorer
from titan_speech.evaluate.scorers.voice import VoiceScorer
from titan_speech.evaluate.scorers.words import WordScorer
from titan_speech.evaluate.statistics import compare, intervals
from titan_speech.evaluate.trust import TrustBounds, TrustRow, TrustTable, measure_trust, read_trust_table

LANGUAGES = ("en", "es", "fr", "it", "ru", "hi", "ta", "te", "bn")
MIN_SEC, MAX_SEC, MIN_WORDS = 1.5, 8.0, 3
NOISE_DB, CUT_SEC = 5.0, 0.3

ABOUT = "Debian asterisk-core-sounds (human: en es fr it ru) and espeak-ng (hi ta te bn), scripts/build_corpus.py"
EXPECTED = {
    "wer": [("recording", "codec"), ("codec", "other text"), ("recording", "noise")],
    "cer": [("recording", "codec"), ("codec", "other text"), ("recording", "noise")],
    "similarity": [("codec", "recording"), ("other speaker", "codec")],
    "dnsmos": [("codec", "recording"), ("noise", "codec")],
    "chars_per_sec": [("recording", "twice as fast")],
    "syllables_per_sec": [("recording", "twice as fast")],
    "duration_ratio": [("twice as fast", "recording")],
    "silence": [("recording", "cut")],
    "pause_share": [("recording", "cut")],
    "f0_range_semitones": [("monotone", "recording")],
    "repeats": [("codec", "frozen codes")],
    "ngram_repeats": [("codec", "looping codes")],
    "loop": [("codec", "looping codes")],
}
"""By metric, pairs of treatments: the first has the smaller value."""


def needed(name: str, scorers: Sequence[Scorer]) -> list[Scorer]:
    """The scorers with a metric in which a treatment is compared: models are slow on a CPU."""
    compared = {metric for metric, pairs in EXPECTED.items() if name in {one for pair in pairs for one in pair}}
    return [scorer for scorer in scorers if compared & {metric.name for metric in scorer.metrics}]


def recordings(corpus: Path, language: str, count: int) -> list[Clip]:
    """Recordings of a language that are long enough to judge; at most `count`, spread over the corpus."""
    rows = [row for row in read_speech(corpus) if row.language == language and _is_usable(row)]
    human = [row for row in rows if row.dataset_source.startswith("asterisk")]
    rows = human or [row for row in rows if row.dataset_source.startswith("espeak")]
    step = max(1, len(rows) // count)
    return [
        Clip(
            prompt_id=row.sample_id,
            language=language,
            text=row.transcript_native,
            sound=Sound(read_audio(corpus / row.wav)),
            made_by="recording",
        )
        for row in rows[::step][:count]
    ]


def _is_usable(row: SpeechRow) -> bool:
    return MIN_SEC <= row.end_time - row.start_time <= MAX_SEC and len(row.transcript_native.split()) >= MIN_WORDS


def with_references(clips: Sequence[Clip]) -> list[Clip]:
    """Each clip with the next one as reference voice (one speaker), and itself as the recording of its text."""
    others = [*clips[1:], clips[0]]
    return [replace(clip, voice=other.sound, recording=clip.sound) for clip, other in zip(clips, others, strict=True)]


def noisy(wav_T: NDArray[np.float32]) -> NDArray[np.float32]:
    level = float(np.sqrt(np.mean(wav_T**2))) * 10 ** (-NOISE_DB / 20)
    return (wav_T + np.random.default_rng(0).normal(0, level, len(wav_T))).astype(np.float32).clip(-1, 1)


def cut(wav_T: NDArray[np.float32]) -> NDArray[np.float32]:
    """Every second stretch of 0.3 s silent."""
    is_kept = (np.arange(len(wav_T)) // round(CUT_SEC * SAMPLE_RATE)) % 2 == 0
    return wav_T * is_kept


def monotone(wav_T: NDArray[np.float32]) -> NDArray[np.float32]:
    """The envelope of the clip on a buzz of 120 Hz: a voice without melody."""
    phase = 2 * np.pi * 120 * np.arange(len(wav_T)) / SAMPLE_RATE
    buzz = np.sum([np.sin(k * phase) / k for k in range(1, 15)], axis=0)
    size = SAMPLE_RATE // 50
    envelope = np.sqrt(np.convolve(wav_T**2, np.ones(size) / size, "same"))
    return (buzz * envelope / 1.2).astype(np.float32).clip(-1, 1)


def treatments(clips: list[Clip], codec: Codec, other_voice: Sound) -> dict[str, list[Clip]]:
    """The clips under each treatment."""

    def each(name: str, change: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> list[Clip]:
        return [
            replace(clip, sound=Sound(change(clip.sound.wav_T)), made_by=name)
            for clip in clips
            if clip.sound.wav_T is not None
        ]

    decoded = through_codec(clips, codec)
    texts = [clip.text for clip in clips]
    codes = [clip.sound.codes_F for clip in decoded]
    return {
        "recording": clips,
        "codec": decoded,
        "other text": [
            replace(clip, text=text) for clip, text in zip(decoded, texts[len(texts) // 2 :] + texts, strict=False)
        ],
        "other speaker": [replace(clip, voice=other_voice) for clip in decoded],
        "noise": each("noise", noisy),
        "twice as fast": each("twice as fast", lambda wav_T: wav_T[::2]),
        "cut": each("cut", cut),
        "monotone": each("monotone", monotone),
        "frozen codes": [
            replace(clip, sound=Sound(codes_F=np.repeat(one[::10], 10)))
            for clip, one in zip(decoded, codes, strict=True)
            if one is not None
        ],
        "looping codes": [
            replace(clip, sound=Sound(codes_F=np.tile(one[:20], 8)))
            for clip, one in zip(decoded, codes, strict=True)
            if one is not None
        ],
    }


def in_order(results: dict[str, Result]) -> list[dict[str, object]]:
    """For every expected pair the paired comparison, and whether its difference has the expected sign at p < .05."""
    rows = []
    for metric, pairs in EXPECTED.items():
        for low, high in pairs:
            found = compare(results[low], results[high], [metric])[0]
            rows.append(
                {
                    "metric": metric,
                    "smaller": low,
                    "larger": high,
                    "means": [found.first, found.second],
                    "interval_of_difference": [found.low, found.high],
                    "p": found.p,
                    "clips": found.num_prompts,
                    "as_expected": found.difference is not None and found.difference > 0 and (found.p or 1.0) < 0.05,
                }
            )
    return rows


def measure_order(clips: list[Clip], codec: Codec, other_voice: Sound, choice: ScorerChoice, path: Path) -> TrustTable:
    """Score every treatment and write order.json; the trust table of English that it used."""
    recognizers = choice.recognizers()
    table = measure_trust(clips, recognizers, through_codec(clips, codec), about=ABOUT)
    print("\n".join(table.lines()), flush=True)
    words = WordScorer(recognizers, table, choice.rules)
    scorers: list[Scorer] = [
        CodeScorer(),
        SoundScorer(),
        VoiceScorer(IsolatedModel(open_voice_encoder())),
        OpinionScorer(IsolatedModel(open_opinion_model())),
    ]
    results, began = {}, time.monotonic()
    for name, treated in treatments(with_references(clips), codec, other_voice).items():
        key = ResultKey("treatments", "corpus", {}, dict(versions_of([*scorers, words])))
        results[name] = make_result(key, treated, score_clips(treated, needed(name, [*scorers, words])), name=name)
        print(f"scored {name}, {time.monotonic() - began:.0f} s", flush=True)
    report = {
        "date": datetime.date.today().isoformat(),
        "codec": {"name": codec.name, "hash": codec.codec_hash},
        "scorers": dict(versions_of([*scorers, words])),
        "expected_order": in_order(results),
        "means": {
            name: {one.metric: asdict(one) for one in intervals(result) if one.language == ""}
            for name, result in results.items()
        },
        "missing": {name: result.missing() for name, result in results.items()},
    }
    for scorer in (*scorers, words):
        scorer.close()
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    for row in report["expected_order"]:
        print(row["metric"], row["smaller"], "<", row["larger"], row["means"], "yes" if row["as_expected"] else "NO")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--english-asr", help="folder of the recognizer of English; makes order.json")
    parser.add_argument("--asr", help="folder of a multilingual Whisper for faster-whisper; makes trust.json")
    parser.add_argument("--codec", default="embedded")
    parser.add_argument("--clips", type=int, default=24, help="per language (default: 24)")
    parser.add_argument("--decoded-clips", type=int, default=24, help="of these, also through the codec (default: 24)")
    parser.add_argument("--languages", nargs="+", default=LANGUAGES, help="of the multilingual recognizer")
    parser.add_argument("--min-prompts", type=int, default=20, help="recordings that trust needs (default: 20)")
    parser.add_argument("--beam-size", type=int, default=5, help="of the multilingual recognizer (default: 5)")
    parser.add_argument("--output", type=Path, required=True, help="folder")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    codec = load_codec(arguments.codec)
    arguments.output.mkdir(parents=True, exist_ok=True)
    trust, order = arguments.output / "trust.json", arguments.output / "order.json"
    if arguments.asr:
        measure_languages(arguments, codec, trust)
    if arguments.english_asr:
        english, other = (recordings(arguments.corpus, *one) for one in (("en", arguments.clips), ("ru", 1)))
        found = measure_order(english, codec, other[0].sound, ScorerChoice(asr=(arguments.english_asr,)), order)
        if trust.exists():
            rows = (*read_trust_table(trust).rows, *found.rows)
            found = replace(found, rows=tuple(sorted(rows, key=lambda row: (row.language, row.asr))))
        found.write(trust)


def measure_languages(arguments: argparse.Namespace, codec: Codec, path: Path) -> None:
    """The trust table of the multilingual recognizer, written after each language: it takes long on a CPU. Rows of
    other languages, by the same rules and bounds, stay in it: languages may be measured one after the other."""
    model = open_recognizer(arguments.asr)
    assert isinstance(model, FasterWhisper)
    bounds, rows = TrustBounds(min_prompts=arguments.min_prompts), list[TrustRow]()
    if path.exists():
        before = read_trust_table(path)
        if (before.bounds, before.rules) == (bounds, DEFAULT_RULES.version):
            rows += [row for row in before.rows if row.language not in arguments.languages]
    with IsolatedModel(replace(model, beam_size=arguments.beam_size)) as recognizer:
        for language in arguments.languages:
            clips = recordings(arguments.corpus, language, arguments.clips)
            decoded = through_codec(clips[: arguments.decoded_clips], codec)
            found = measure_trust(clips, [recognizer], decoded, bounds, about=ABOUT)
            rows += found.rows
            replace(found, rows=tuple(sorted(rows, key=lambda row: (row.language, row.asr)))).write(path)
            print("\n".join(found.lines()), flush=True)


if __name__ == "__main__":
    main()
