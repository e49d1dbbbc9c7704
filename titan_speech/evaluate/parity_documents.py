"""Documents on which two engines are compared: every task, random content, the same on every machine.

In: the prompt grammar. Out: `ParityDocument`s. Content is drawn evenly from all text ids and all codes, since a wrong
row shows only where it is read; real text would read a few thousand rows of 193,920. Documents of one task have one
length, so that engines batch them without padding, whose handling differs between engines. 64 documents have 4,257
tokens after the first and read 2,582 different codes.

Shapes: T tokens of a document.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from titan_speech.tokenization.prompt_template import CODE_FIELDS, TEMPLATES, Grammar, Parts, Task
from titan_speech.tokenization.vocabulary import NUM_CODES

NUM_DOCUMENTS = 64
NUM_GREEDY = 16
"""Ids that engines generate after each prefix."""
_NUM_TEXT, _NUM_CODES = 20, 40


@dataclass(frozen=True, eq=False)
class ParityDocument:
    """A whole document, whose prefix is also what engines generate from."""

    task: Task
    ids_T: NDArray[np.int64]
    num_prefix_tokens: int

    @property
    def prefix(self) -> list[int]:
        return self.ids_T[: self.num_prefix_tokens].tolist()


def parity_documents(grammar: Grammar, count: int = NUM_DOCUMENTS, seed: int = 0) -> list[ParityDocument]:
    """Documents of all tasks in turn; every second tts document has a voice description.

    Args:
        grammar: of the model.
        count: number of documents.
        seed: of their content.
    """
    random = np.random.default_rng(seed)
    tasks = list(Task)
    documents = []
    for number in range(count):
        task, turn = tasks[number % len(tasks)], number // len(tasks)
        template = TEMPLATES[task]
        fields = [block.field for block in template.prefix if not block.optional or turn % 2]
        parts = Parts(**{field: _content(field, grammar, random) for field in (*fields, template.target)})
        document = grammar.document(task, parts)
        documents.append(ParityDocument(task, document.ids_T.astype(np.int64), document.num_prefix_tokens))
    return documents


def _content(field: str, grammar: Grammar, random: np.random.Generator) -> NDArray:
    if field in CODE_FIELDS:
        return random.integers(0, NUM_CODES, _NUM_CODES).astype(np.uint16)
    return random.integers(0, grammar.vocabulary.num_base, _NUM_TEXT).astype(np.uint32)
