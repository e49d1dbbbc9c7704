"""In: a sentence and a voice. Out: its 16 kHz samples, spoken by espeak-ng or by festival.

espeak-ng reads eleven Indic languages from their script with formant synthesis (0.02 s per sentence). The
festvox NSK voices join recorded human diphones for Hindi, Marathi and Telugu (about 1 s per sentence); the
packaged voices leave festival's intonation module unset, which fails silently, so it is set here.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from titan_speech.errors import DataError

from .audio import decode_wav_bytes


@dataclass(frozen=True)
class EspeakVoice:
    """A variant of espeak-ng's speaker, the same speaker in every language."""

    variant: str
    pitch: int
    words_per_minute: int

    @property
    def speaker_id(self) -> str:
        return f"espeak-{self.variant}"

    def speak(self, text: str, language: str) -> np.ndarray:
        options = [
            "-v",
            f"{language}+{self.variant}",
            "-p",
            str(self.pitch),
            "-s",
            str(self.words_per_minute),
        ]
        command = ["espeak-ng", *options, "--stdout", "--stdin"]
        result = subprocess.run(command, input=text.encode(), capture_output=True)
        if result.returncode != 0 or len(result.stdout) < 1000:
            raise DataError(f"espeak-ng gave no audio for {text!r} ({language}): {result.stderr.decode()}")
        return decode_wav_bytes(result.stdout, f"espeak-ng {self.variant} {text!r}")


ESPEAK_VOICES = (EspeakVoice("m3", 45, 150), EspeakVoice("f2", 55, 160), EspeakVoice("m7", 35, 140))

FESTVOX_NAMES = {"hi": "hindi", "mr": "marathi", "te": "telugu"}
FESTVOX_SPEAKER = "festvox-nsk"
UNREADABLE = re.compile(r"[\"'\\\\()`‘’“”|-]")
FESTIVAL_SCRIPT = """(voice_{voice}_NSK_diphone)
(Parameter.set 'Int_Method 'Simple)
(set! int_simple_params '((f0_mean 120) (f0_std 15)))
(utt.save.wave (utt.synth (Utterance Text "{text}")) "{wav}" 'riff)
"""


def speak_festvox(text: str, language: str) -> np.ndarray:
    """Samples, or none where festival cannot read the sentence: it exits with 0 then too, so the file is checked."""
    with tempfile.TemporaryDirectory() as folder:
        wav, script = Path(folder, "out.wav"), Path(folder, "say.scm")
        script.write_text(
            FESTIVAL_SCRIPT.format(voice=FESTVOX_NAMES[language], text=UNREADABLE.sub(" ", text), wav=wav)
        )
        subprocess.run(["festival", "-b", str(script)], capture_output=True)
        if not wav.is_file() or wav.stat().st_size < 1000:
            return np.zeros(0, dtype=np.float32)
        return decode_wav_bytes(wav.read_bytes(), f"festival {text!r}")


def require_festvox() -> None:
    """Stop before hours of work when a festvox voice is not installed."""
    for language, sentence in (("hi", "यह एक वाक्य है"), ("mr", "हे एक वाक्य आहे"), ("te", "ఇది ఒక వాక్యం")):
        if not len(speak_festvox(sentence, language)):
            raise DataError(
                f"festival has no working voice for {language}. Install the voices with: "
                "apt-get install festival festvox-hi-nsk festvox-mr-nsk festvox-te-nsk"
            )
