r"""Train the tiny byte-level BPE tokenizer of the demo.

In: the train split of DIR (scripts/build_corpus.py), transcripts and text. Out: OUTPUT/tokenizer.json,
4,096 entries: 256 bytes, merges, and <|begin_of_text|> (0) and <|end_of_text|> (1) as the only special
tokens. Byte level, so no text is unknown.

Every language gives the same number of bytes (repeated where it has less), otherwise English takes most merges and
Tamil stays at one token per byte. Vowel signs and viramas (\p{M}) count as part of a word: GPT-2's pattern splits at
each of them, which gives Hindi text half as many tokens again (1.37 characters per token against 2.14).

    python scripts/train_tokenizer.py --corpus corpus --output tokenizer/tiny
"""

from __future__ import annotations

import argparse
import hashlib
from collections import defaultdict
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

from corpus.rows import read_speech, read_text
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

VOCABULARY_SIZE = 4096
BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
BYTES_PER_LANGUAGE = 400_000
WORDS = r" ?[\p{L}\p{M}\x{200C}\x{200D}]+| ?\p{N}{1,3}| ?[^\s\p{L}\p{M}\p{N}\x{200C}\x{200D}]+|\s+(?!\S)|\s+"


def texts_by_language(corpus: Path) -> dict[str, list[str]]:
    """Transcripts first, then text documents, in corpus order."""
    texts: dict[str, list[str]] = defaultdict(list)
    for speech in read_speech(corpus, "train"):
        texts[speech.language].append(speech.transcript_native)
    for document in read_text(corpus, "train"):
        texts[document.language].append(document.text)
    return dict(texts)


def balanced(texts: dict[str, list[str]]) -> Iterator[str]:
    for language in sorted(texts):
        left = BYTES_PER_LANGUAGE
        for text in cycle(texts[language]):
            yield text
            left -= len(text.encode())
            if left <= 0:
                break


def train(texts: dict[str, list[str]]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(balanced(texts), trainer)
    return tokenizer


def characters_per_token(tokenizer: Tokenizer, corpus: Path) -> dict[str, float]:
    """On held-out transcripts."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for row in read_speech(corpus, "heldout"):
        counts[row.language][0] += len(row.transcript_native)
        counts[row.language][1] += len(tokenizer.encode(row.transcript_native).ids)
    return {language: chars / tokens for language, (chars, tokens) in sorted(counts.items())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    tokenizer = train(texts_by_language(arguments.corpus))
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "tokenizer.json"
    tokenizer.save(str(path), pretty=False)
    print(f"wrote {path}: {tokenizer.get_vocab_size()} entries, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}")
    for language, value in characters_per_token(tokenizer, arguments.corpus).items():
        print(f"{language}  {value:.2f} characters per token (held-out transcripts)")


if __name__ == "__main__":
    main()
