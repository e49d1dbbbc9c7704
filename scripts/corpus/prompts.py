"""In: unpacked asterisk-core-sounds packages. Out: prompts, each a g722 file of a human voice with its
transcript.

About 560 prompts per language, most of one to five words, some of 60 s. Prompts that any language marks as
not speech (`[this is a simple beep tone]`) are dropped in all of them. The Italian list has lost some
accented letters to question marks, which are put back.
"""

from __future__ import annotations

import gzip
import re
from dataclasses import dataclass
from pathlib import Path

from .packages import PROMPT_LANGUAGES
from .sentences import clean

NOT_SPEECH = frozenset({"beep", "beeperr", "ascending-2tone", "descending-2tone"})
LOST_LETTERS = {
    r" \? (?=[a-z])": " è ",
    r"\bpu\?": "può",
    r"\bsar\?": "sarà",
    r"\bcos\?": "così",
    r"\bpi\?": "più",
}


@dataclass(frozen=True)
class Prompt:
    key: str  # file name without suffix, the same in every language
    language: str
    speaker_id: str
    transcript: str
    audio: Path


def read_prompts(text_folders: dict[str, Path], audio_folders: dict[str, Path]) -> list[Prompt]:
    """Prompts of all languages that have both a transcript and audio, by language and key."""
    transcripts = {lang: _transcripts(text_folders[lang], lang) for lang in PROMPT_LANGUAGES}
    marked = {key for table in transcripts.values() for key, text in table.items() if "[" in text}
    prompts = []
    for language in PROMPT_LANGUAGES:
        for key in sorted(set(transcripts[language]) - marked - NOT_SPEECH):
            prompts += _with_audio(key, language, transcripts[language][key], audio_folders[language])
    return prompts


def _transcripts(folder: Path, language: str) -> dict[str, str]:
    path = folder / f"usr/share/doc/asterisk-core-sounds-{language}/core-sounds-{language}.txt.gz"
    lines = gzip.decompress(path.read_bytes()).decode("utf-8-sig").splitlines()
    pairs = (line.split(":", 1) for line in lines if ":" in line and not line.startswith(";"))
    cleaned = {key.strip(): clean(text) for key, text in pairs if clean(text)}
    return {key: _restored(text) for key, text in cleaned.items()} if language == "it" else cleaned


def _restored(text: str) -> str:
    for lost, letters in LOST_LETTERS.items():
        text = re.sub(lost, letters, text)
    return text


def _with_audio(key: str, language: str, transcript: str, folder: Path) -> list[Prompt]:
    (voice,) = (folder / "usr/share/asterisk/sounds").iterdir()
    audio = voice / f"{key}.g722"
    speaker = f"asterisk-{voice.name.rsplit('_', 1)[-1].lower()}"
    return [Prompt(key, language, speaker, transcript, audio)] if audio.is_file() else []
