"""Build the bundled token stores, on which a first run trains without downloads.

In: DIR of scripts/build_corpus.py, the embedded codec, the tiny tokenizer. Out: OUTPUT, a token store of the train
split, and OUTPUT/heldout, a store of prompts that the train split has in no language and no voice; at most 3 MB
together.

    asterisk, espeak                     paired: transcripts native, and romanised if the script is not Latin
    asterisk-speech, espeak-speech       speech only, other samples than the paired ones
    gnome-help, wordnet, libreoffice-ui  text only, not spoken anywhere in the store

Half of the samples are paired, decided by a hash of the sample id; segments of one help page stay together.
The festvox voices are left out: they are GPL. The codes are the embedded codec's, not XCodec2's.

    python scripts/build_demo_data.py --corpus corpus --output demo_data
"""

from __future__ import annotations

import argparse
import shutil
from collections import Counter
from pathlib import Path

from corpus.rows import SpeechRow, TextRow, read_speech, read_text
from corpus.split import stable_order
from demo_readme import readme

from titan_speech.codec.base import Codec
from titan_speech.codec.load import load_codec
from titan_speech.codec.wav import read_audio
from titan_speech.errors import DataError
from titan_speech.store.manifest import CodecInfo, Manifest
from titan_speech.store.sample import SampleInfo
from titan_speech.store.writer import StoreWriter
from titan_speech.tokenization.text_tokenizer import TextTokenizer

MAX_BYTES = 3_000_000
NORMALIZATION_VERSION = "demo-nfc-1"  # Unicode NFC, one space between words
LICENCE = "CC-BY-SA-3.0 AND MPL-2.0 AND WordNet-3.0; see README.md"
VOICES = ("asterisk", "espeak")
TEXT_IDS_PER_LANGUAGE = 12_000
ENGLISH_TEXT_IDS = 45_000
MIN_TEXT_CHARS = 128


def demo_speech(corpus: Path, split: str) -> list[SpeechRow]:
    return [row for row in read_speech(corpus, split) if row.dataset_source.split("-")[0] in VOICES]


def is_paired(row: SpeechRow) -> bool:
    return row.split == "heldout" or stable_order(f"paired/{row.source_video_id}") % 2 == 0


def add_speech(writer: StoreWriter, codec: Codec, corpus: Path, row: SpeechRow) -> None:
    voice = row.dataset_source.split("-")[0]
    info = SampleInfo(
        sample_id=row.sample_id,
        dataset_source=voice if is_paired(row) else f"{voice}-speech",
        language=row.language,
        speaker_id=row.speaker_id,
        source_video_id=row.source_video_id,
        segment_order=row.segment_order,
        start_time=row.start_time,
        end_time=row.end_time,
        sample_rate=row.sample_rate,
    )
    writer.add_speech(info, codec.encode(read_audio(corpus / row.wav)), transcripts(row) if is_paired(row) else None)


def transcripts(row: SpeechRow) -> dict[str, str]:
    """The romanised variant only where it differs."""
    texts = {"native": row.transcript_native}
    if row.transcript_romanized and row.transcript_romanized != row.transcript_native:
        texts["romanized"] = row.transcript_romanized
    return texts


def choose_text(documents: list[TextRow], tokenizer: TextTokenizer) -> list[TextRow]:
    """Documents in hashed order up to each language's share; of English, help pages and glosses as they come."""
    left = Counter({row.language: TEXT_IDS_PER_LANGUAGE for row in documents}) | Counter(en=ENGLISH_TEXT_IDS)
    chosen = []
    for row in sorted(documents, key=lambda row: stable_order(row.document_id)):
        if left[row.language] > 0 and len(row.text) >= MIN_TEXT_CHARS:
            left[row.language] -= len(tokenizer.encode(row.text))
            chosen.append(row)
    return chosen


def add_text(writer: StoreWriter, row: TextRow) -> None:
    info = SampleInfo(sample_id=row.document_id, dataset_source=row.dataset_source, language=row.language)
    writer.add_text(info, row.text)


def build(corpus: Path, split: str, output: Path, codec: Codec, tokenizer: TextTokenizer) -> Manifest:
    texts = choose_text(read_text(corpus, "train"), tokenizer) if split == "train" else []
    with StoreWriter(
        output,
        name=f"demo-{split}",
        codec=CodecInfo(codec.name, codec.codec_hash),
        tokenizer=tokenizer,
        normalization_version=NORMALIZATION_VERSION,
        licence=LICENCE,
    ) as writer:
        for number, row in enumerate(demo_speech(corpus, split)):
            add_speech(writer, codec, corpus, row)
            if number % 500 == 0:
                print(f"{split}: {number} utterances encoded", flush=True)
        for row in texts:
            add_text(writer, row)
    return writer.manifest


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="must not exist")
    parser.add_argument("--tokenizer", type=Path, default=Path("tokenizer/tiny"))
    arguments = parser.parse_args()
    codec, tokenizer = load_codec("embedded"), TextTokenizer.load(arguments.tokenizer)
    train = build(arguments.corpus, "train", arguments.output, codec, tokenizer)
    heldout = build(arguments.corpus, "heldout", arguments.output / "heldout", codec, tokenizer)
    (arguments.output / "README.md").write_text(readme(train, heldout), encoding="utf-8")
    size = folder_bytes(arguments.output)
    print(f"wrote {arguments.output}: {size:,d} bytes, fingerprints {train.fingerprint} and {heldout.fingerprint}")
    if size > MAX_BYTES:
        shutil.rmtree(arguments.output)
        raise DataError(f"the stores take {size:,d} bytes, more than {MAX_BYTES:,d}: lower TEXT_IDS_PER_LANGUAGE")


if __name__ == "__main__":
    main()
