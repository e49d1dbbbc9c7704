"""Public test sets in the layouts that they are published in; users download them, their licences apply.

In: a file or folder. Out: drafts.

seed-tts   Seed-TTS-eval: a list of `utt|prompt text|prompt wav|text`, paths from the list's folder; a fifth field, the
           wav of the text, is the recording where it exists
minimax    MiniMax multilingual: text/LANGUAGE.txt of `speaker|text`, speaker/LANGUAGE/SPEAKER/*.mp3 and a
           prompt_text.txt of `file|transcript` in any folder of speaker/
emergent   EmergentTTS-Eval: JSONL with `text_to_synthesize`, `category` (the subset) and `language`; English where it
           says none

The layouts are read as their authors describe them; none of the sets could be fetched where this was written, so their
tests write the layouts themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from titan_speech.errors import DataError
from titan_speech.evaluate.clip import Sound
from titan_speech.evaluate.prompt_packs.drafts import (
    Draft,
    checked,
    read_lines,
    read_reference,
    subset_name,
)
from titan_speech.tokenization.languages import to_tag
from titan_speech.utils.json_text import parse_json

AUDIO = (".mp3", ".wav", ".flac", ".ogg")


def seed_tts(path: Path, language: str) -> Iterator[Draft]:
    """Prompts of a list of Seed-TTS-eval.

    Args:
        path: meta.lst, or another list of that form.
        language: of the list: en or zh in the published ones.

    Raises:
        DataError: a line is not as expected, or there is no language.
    """
    if not language:
        raise DataError(f"{path}: a list of Seed-TTS-eval does not say its language; give --language")
    for _, where, line in read_lines(path):
        fields = line.split("|")
        if len(fields) not in (4, 5):
            raise DataError(f"{where}: found {len(fields)} fields, expected utt|prompt text|prompt wav|text")
        utterance, prompt_text, wav, text = (field.strip() for field in fields[:4])
        recording = None
        if len(fields) == 5 and _is_there(path.parent / fields[4].strip()):
            recording = read_reference(path.parent, fields[4].strip(), where)
        draft = Draft(
            utterance, language, text, voice=read_reference(path.parent, wav, where), voice_text=prompt_text,
            recording=recording,
        )  # fmt: skip
        yield checked(draft, where)


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file can have
        return False


def minimax(folder: Path, language: str = "") -> Iterator[Draft]:
    """Prompts of the MiniMax multilingual test set.

    Args:
        folder: with text/ and speaker/.
        language: only this one; all by default.

    Raises:
        DataError: the folder has no text/, or a line is not as expected.
    """
    files = sorted((folder / "text").glob("*.txt"))
    if not files:
        raise DataError(f"{folder} has no text/*.txt; expected the folder of the MiniMax multilingual test set")
    transcripts = _minimax_transcripts(folder / "speaker")
    for file in files:
        tag = to_tag(file.stem.title())
        if len(tag) > 3:  # a language that the table of languages does not know by name
            tag = _OTHER_NAMES.get(file.stem.lower(), tag)
        if language and tag != language:
            continue
        voices: dict[str, tuple[Sound, str]] = {}
        for number, where, line in read_lines(file):
            speaker, bar, text = line.partition("|")
            if not bar:
                raise DataError(f"{where}: found no |, expected the speaker's audio and the text")
            if speaker not in voices:
                voices[speaker] = _minimax_voice(folder, file.stem, speaker.strip(), transcripts, where)
            voice, voice_text = voices[speaker]
            yield checked(Draft(f"{file.stem}-{number:04d}", tag, text.strip(), "", voice, voice_text), where)


_OTHER_NAMES = {
    "cantonese": "yue", "chinese": "zh", "czech": "cs", "dutch": "nl", "finnish": "fi", "greek": "el",
    "indonesian": "id", "japanese": "ja", "korean": "ko", "polish": "pl", "romanian": "ro", "thai": "th",
    "turkish": "tr", "ukrainian": "uk", "vietnamese": "vi",
}  # fmt: skip


def _minimax_voice(
    folder: Path, language: str, speaker: str, transcripts: dict[str, str], where: str
) -> tuple[Sound, str]:
    """The audio whose name, or whose folder's name, is the speaker's."""
    stem = Path(speaker).stem
    found = [
        file
        for file in sorted((folder / "speaker" / language).rglob("*"))
        if file.suffix in AUDIO and stem in (file.stem, file.parent.name)
    ]
    if not found:
        raise DataError(f"{where}: no audio of {speaker!r} in {folder / 'speaker' / language}")
    sound = read_reference(folder, str(found[0].relative_to(folder)), where)
    return sound, transcripts.get(found[0].stem, transcripts.get(found[0].parent.name, ""))


def _minimax_transcripts(folder: Path) -> dict[str, str]:
    found = {}
    for file in sorted(folder.rglob("prompt_text.txt")):
        for _, _, line in read_lines(file):
            name, bar, text = line.partition("|")
            if bar:
                found[Path(name.strip()).stem] = text.strip()
    return found


def emergent(path: Path, language: str = "") -> Iterator[Draft]:
    """Prompts of EmergentTTS-Eval.

    Args:
        path: the JSONL file.
        language: of prompts that say none; English by default.

    Raises:
        DataError: a line is not as expected.
    """
    for number, where, line in read_lines(path):
        try:
            row = parse_json(line)
            text, category = row["text_to_synthesize"], row.get("category", "")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{where}: {error!r}; expected an object with text_to_synthesize and category") from error
        tag = to_tag(str(row.get("language") or language or "en"))
        name = str(row.get("unique_id_eval", row.get("id", number)))
        yield checked(Draft(f"emergent-{name}", tag, str(text), subset_name(str(category))), where)


LAYOUTS: dict[str, Callable[[Path, str], Iterator[Draft]]] = {
    "seed-tts": seed_tts,
    "minimax": minimax,
    "emergent": emergent,
}
"""By the name of `evaluate pack --layout`; each is called with the path and the language."""
