"""Build the real speech and text corpus of the demo from Debian packages.

In: package names and versions (scripts/corpus/packages.py), downloaded with apt-get. Out: DIR/wavs/**.wav
(16 kHz mono), DIR/corpus.jsonl (2.1 h of human speech in en es fr it ru and about 1.4 h of synthetic Indic
speech, with transcripts) and DIR/text.jsonl. The same packages give the same files in the same order. About
4 minutes on two cores, 0.5 GB.

    apt-get install ffmpeg espeak-ng festival festvox-hi-nsk festvox-mr-nsk festvox-te-nsk
    pip install -r scripts/corpus/requirements.txt
    python scripts/build_corpus.py --output corpus
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from corpus import packages, plan
from corpus.audio import SAMPLE_RATE, trim_silence, wav_seconds, write_wav
from corpus.glosses import read_documents
from corpus.packages import CATALOGUE_PACKAGES, GLOSSES, PAGES, PROMPT_LANGUAGES, Package
from corpus.pages import PAGE_LANGUAGES, read_pages
from corpus.prompts import read_prompts
from corpus.romanise import romanise
from corpus.rows import SpeechRow, TextRow, write_jsonl
from corpus.split import heldout_keys
from corpus.strings import read_short_strings, read_strings
from corpus.voices import require_festvox

MIN_SECONDS, MAX_SECONDS = 0.25, 40.0
TEXT_DOCUMENT_CHARS = 700


class Sources:
    """The unpacked packages, read."""

    def __init__(self, cache: Path, any_version: bool) -> None:
        def folder(package: Package) -> Path:
            return packages.unpacked(package, cache, any_version)

        self.prompts = read_prompts(
            {lang: folder(packages.prompt_text(lang)) for lang in PROMPT_LANGUAGES},
            {lang: folder(packages.prompt_audio(lang)) for lang in PROMPT_LANGUAGES},
        )
        catalogues = {lang: folder(packages.catalogue(lang)) for lang in CATALOGUE_PACKAGES}
        self.strings = {lang: read_strings(path, lang) for lang, path in catalogues.items()}
        self.short_strings = {lang: read_short_strings(path, lang) for lang, path in catalogues.items()}
        self.pages = {lang: read_pages(folder(PAGES), lang) for lang in ("en", *PAGE_LANGUAGES)}
        self.glosses = read_documents(folder(GLOSSES))


def utterances(sources: Sources) -> list[plan.Utterance]:
    found = list(plan.human(sources.prompts))
    for language in CATALOGUE_PACKAGES:
        found += plan.synthetic(language, sources.pages.get(language, []), sources.strings[language])
    return found


def speak(utterance: plan.Utterance, output: Path) -> float:
    """Synthesize and write one wav; returns its duration in seconds, 0 if it is too short or too long to keep.

    An existing wav is kept, so an interrupted build resumes.
    """
    path = output / wav_name(utterance)
    if path.is_file():
        return wav_seconds(path)
    samples_T = trim_silence(utterance.make_samples())
    seconds = len(samples_T) / SAMPLE_RATE
    if not MIN_SECONDS <= seconds <= MAX_SECONDS:
        return 0.0
    write_wav(path, samples_T)
    return seconds


def wav_name(utterance: plan.Utterance) -> str:
    return f"wavs/{utterance.sample_id}.wav"


def speech_rows(found: list[plan.Utterance], durations: list[float], heldout: set[str]) -> list[SpeechRow]:
    """Rows in plan order. Segments of one source follow each other on that source's time line."""
    clock: dict[str, float] = defaultdict(float)
    order: Counter[str] = Counter()
    rows = []
    for u, seconds in zip(found, durations, strict=True):
        if seconds == 0.0:
            continue
        start = clock[u.source_video_id]
        clock[u.source_video_id] = end = round(start + seconds, 4)
        rows.append(
            SpeechRow(
                u.sample_id, wav_name(u), u.language, u.speaker_id, u.dataset_source, u.source_video_id,
                order[u.source_video_id], start, end, SAMPLE_RATE, u.transcript, romanise(u.transcript, u.language),
                u.licence, "heldout" if u.prompt_key in heldout else "train",
            )
        )  # fmt: skip
        order[u.source_video_id] += 1
    return rows


def text_rows(sources: Sources, spoken: set[str], heldout: set[str]) -> list[TextRow]:
    """Documents of text that is not spoken anywhere in the corpus, English first."""
    rows = []
    for language, pages in sources.pages.items():
        for page in pages:
            if language == "en" or not plan.is_for_speech(page):
                side = "heldout" if page.key in heldout else "train"
                text = "\n".join(page.paragraphs)
                rows.append(TextRow(f"{page.key}/{language}", language, text, "gnome-help", PAGES.licence, side))
    for document_id, text in sources.glosses:
        rows.append(TextRow(document_id, "en", text, "wordnet", GLOSSES.licence, "train"))
    for language in CATALOGUE_PACKAGES:
        rows += _string_documents(language, sources, spoken, heldout)
    return rows


def _string_documents(language: str, sources: Sources, spoken: set[str], heldout: set[str]) -> list[TextRow]:
    """Unspoken sentences and short messages of one catalogue, joined to documents one side at a time."""
    licence = packages.catalogue(language).licence
    unused = [s for s in sources.strings[language] + sources.short_strings[language] if s.text not in spoken]
    rows = []
    for side in ("train", "heldout"):
        lines: list[str] = []
        for text in dict.fromkeys(s.text for s in unused if (plan.string_key(s) in heldout) == (side == "heldout")):
            lines.append(text)
            if sum(map(len, lines)) >= TEXT_DOCUMENT_CHARS:
                name = f"libreoffice/{language}/{side}-{len(rows):05d}"
                rows.append(TextRow(name, language, "\n".join(lines), "libreoffice-ui", licence, side))
                lines = []
    return rows


def prompt_triples(sources: Sources, found: list[plan.Utterance]) -> list[tuple[str, str, str]]:
    """All keys the held-out split is decided on: of spoken prompts, and of pages and messages that are text only."""
    triples = [(u.prompt_key, u.language, u.transcript) for u in found]
    triples += [(p.key, lang, p.paragraphs[0]) for lang, pages in sources.pages.items() for p in pages]
    strings = [s for table in (sources.strings, sources.short_strings) for rows in table.values() for s in rows]
    return triples + [(plan.string_key(s), s.language, s.text) for s in strings]


def report(rows: list[SpeechRow], texts: list[TextRow]) -> None:
    hours: dict[tuple[str, str, str], float] = defaultdict(float)
    for row in rows:
        hours[row.language, row.dataset_source, row.split] += (row.end_time - row.start_time) / 3600
    for (language, source, split), value in hours.items():
        print(f"speech  {language}  {source:16s} {split:8s} {value * 60:6.1f} min")
    chars: Counter[tuple[str, str]] = Counter()
    for text in texts:
        chars[text.language, text.dataset_source] += len(text.text)
    for (language, source), count in chars.items():
        print(f"text    {language}  {source:16s} {count:9,d} characters")
    print(f"{len(rows)} utterances, {sum(hours.values()):.2f} h; {len(texts)} text documents")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the corpus")
    parser.add_argument("--packages", type=Path, help="folder for downloaded packages (default: OUTPUT/packages)")
    parser.add_argument("--any-version", action="store_true", help="take package versions other than the pinned ones")
    parser.add_argument("--threads", type=int, default=2, help="synthesiser and ffmpeg processes at a time")
    arguments = parser.parse_args()
    for program, package in (("ffmpeg", "ffmpeg"), ("espeak-ng", "espeak-ng"), ("festival", "festival")):
        packages.require_tool(program, package)
    require_festvox()
    sources = Sources(arguments.packages or arguments.output / "packages", arguments.any_version)
    found = utterances(sources)
    print(f"{len(found)} utterances to make", flush=True)
    with ThreadPoolExecutor(arguments.threads) as pool:
        durations = list(pool.map(lambda u: speak(u, arguments.output), found))
    heldout = heldout_keys(prompt_triples(sources, found))
    rows = speech_rows(found, durations, heldout)
    texts = text_rows(sources, {u.transcript for u in found}, heldout)
    write_jsonl(arguments.output / "corpus.jsonl", rows)
    write_jsonl(arguments.output / "text.jsonl", texts)
    report(rows, texts)


if __name__ == "__main__":
    main()
