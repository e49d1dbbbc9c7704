"""Decode prompts of a store to wav files with transcripts: example recordings.

In: a store made by the embedded codec. Out: OUTPUT/<speaker>/<name>.wav and .txt, the layout of docs/tutorial_voice.md.
Decoding takes 0.1 to 0.4 s per second of audio on one core.

    python3 examples/own_voice/make_recordings.py --store demo_data --language en --number 60 --output recordings
"""

from __future__ import annotations

import argparse
from pathlib import Path

from titan_speech.codec.load import load_codec
from titan_speech.codec.wav import write_wav
from titan_speech.errors import DataError
from titan_speech.store.reader import Part, Store, open_store

MIN_CODES, MAX_CODES = 40, 250
"""0.8 to 5 s: single letters say little, and long prompts take long to decode."""


def paired_part(store: Store, language: str) -> Part:
    for part in store.parts:
        if part.language == language and "native" in part.variants:
            return part
    known = sorted({part.language for part in store.parts if "native" in part.variants})
    raise DataError(f"{store.path} has no transcribed speech in {language!r}; it has {', '.join(known)}")


def write_wavs(store: Store, language: str, number: int, output: Path) -> int:
    """Write the first prompts in stored order, which is shuffled. Returns their number."""
    codec = load_codec("embedded")
    if store.manifest.codec is None or store.manifest.codec.hash != codec.codec_hash:
        raise DataError(f"{store.path} was not made by the embedded codec: only its codes can be decoded here")
    part = paired_part(store, language)
    chosen = [i for i in range(part.num_samples) if MIN_CODES <= part.code_len_N[i] <= MAX_CODES][:number]
    for i in chosen:
        row = part.row(i)
        folder = output / str(row.speaker_id)
        folder.mkdir(parents=True, exist_ok=True)
        wav = folder / f"{row.sample_id.replace('/', '_')}.wav"
        write_wav(wav, codec.decode(part.codes(i)))
        wav.with_suffix(".txt").write_text(f"{row.transcript_native}\n", encoding="utf-8")
    return len(chosen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("demo_data"))
    parser.add_argument("--language", default="en")
    parser.add_argument("--number", type=int, default=60, help="prompts to decode (default: 60)")
    parser.add_argument("--output", type=Path, required=True, help="folder, which must not exist")
    arguments = parser.parse_args()
    try:
        if arguments.output.exists():
            raise DataError(f"{arguments.output} exists already; choose another folder")
        written = write_wavs(open_store(arguments.store), arguments.language, arguments.number, arguments.output)
    except DataError as error:
        raise SystemExit(str(error)) from error
    print(f"wrote {written} wav files with transcripts under {arguments.output}")


if __name__ == "__main__":
    main()
