"""Write a small raw corpus of two languages, in formats that importers read.

In: the bundled store. Out: OUTPUT/speech/<language>.jsonl, one sample per line with its codec codes and, where it has
one, its transcript; OUTPUT/text/<language>.jsonl, one document per line.

    python3 examples/two_languages/make_corpus.py --store demo_data --languages en hi --output corpus
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from titan_speech.store.reader import Part, open_store
from titan_speech.tokenization.text_tokenizer import TextTokenizer


def speech_lines(part: Part) -> Iterator[dict[str, object]]:
    for i in range(part.num_samples):
        row = part.row(i)
        yield {
            "sample_id": row.sample_id,
            "dataset_source": row.dataset_source,
            "language": row.language,
            "speaker_id": row.speaker_id,
            "transcript": row.transcript_native,
            "codes": part.codes(i).tolist(),
        }


def text_lines(part: Part, tokenizer: TextTokenizer) -> Iterator[dict[str, object]]:
    for i in range(part.num_samples):
        row = part.row(i)
        text = tokenizer.decode(part.tokens(i).tolist())
        yield {"sample_id": row.sample_id, "dataset_source": row.dataset_source, "language": row.language, "text": text}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("demo_data"))
    parser.add_argument("--tokenizer", type=Path, default=Path("tokenizer/tiny"))
    parser.add_argument("--languages", nargs="+", default=["en", "hi"])
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    tokenizer = TextTokenizer.load(arguments.tokenizer)
    counts: dict[str, int] = {}
    for part in open_store(arguments.store).parts:
        if part.language not in arguments.languages:
            continue
        lines = speech_lines(part) if part.kind == "speech" else text_lines(part, tokenizer)
        path = arguments.output / part.kind / f"{part.language}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        counts[str(path)] = counts.get(str(path), 0) + part.num_samples
    for name, count in sorted(counts.items()):
        print(f"{name}: {count} lines")


if __name__ == "__main__":
    main()
