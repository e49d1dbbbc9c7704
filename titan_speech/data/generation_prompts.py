"""Fixed prompts for generation: samples that a held-out set has chosen for decoding, up to where the target begins.

In: the sets of `[data] held_out` and the streams of the data plan. Out: `GenerationPrompt`s, the same at every start:
the prefix in the prompt template of a task that the run trains, the number of codes of the recording, and codes of the
voice that ought to be heard: the reference that a clone prompt has in it, else the recording. Speech without text has
no prefix to tell samples apart and is left out. Of each language and task, prompts whose recording is shorter than
`max_codes` come first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from titan_speech.config.schema import SpeechConfig
from titan_speech.data.documents import Documents
from titan_speech.data.plan import DataPlan
from titan_speech.data.validation_set import documents_of_stream
from titan_speech.errors import ConfigError
from titan_speech.store.held_out_set import read_held_out_set
from titan_speech.store.reader import open_store
from titan_speech.tokenization.prompt_template import Task, template_task

MAX_PART = 0.8
"""Of `max_codes`, that a recording takes: another reading of the text may be longer."""
PROMPTED = (Task.TTS, Task.CLONE, Task.CONTINUATION)


@dataclass(frozen=True, eq=False)
class GenerationPrompt:
    """What is generated from, and what it is compared with."""

    sample_id: str
    task: str
    language: str
    ids_T: NDArray[np.int64]
    """The prefix."""
    num_target_codes: int
    """Codes of the recorded sample."""
    voice_codes_F: NDArray[np.uint16]
    """Of a recording of the voice that ought to be heard."""
    text: str = ""
    """Its transcript."""


def generation_prompts(config: SpeechConfig, plan: DataPlan) -> tuple[GenerationPrompt, ...]:
    """The prompts of a run, spread over languages and tasks; none without an interval or a set.

    Args:
        config: of the run.
        plan: of the run.

    Raises:
        ConfigError: no held-out set has a prompt of a task that the run trains.
    """
    wanted = config.generation_check
    if not wanted.every_steps or not config.data.held_out:
        return ()
    by_stream: dict[tuple[str, str], list[GenerationPrompt]] = defaultdict(list)
    for path in config.data.held_out:
        store, chosen = open_store(path, config.storage), read_held_out_set(path, config.storage)
        ids = {prompt.sample_id for prompt in chosen.decode}
        for stream in plan.streams:
            if template_task(stream.task) in PROMPTED:
                for documents in documents_of_stream(stream, store, plan):
                    prompts = _prompts_of(documents, ids, plan.seq_len)
                    by_stream[stream.language, stream.task].extend(prompts)
    # A recording that is longer than what is generated cannot end in a stop, however sound the model is.
    groups = [
        sorted(by_stream[key], key=lambda prompt: prompt.num_target_codes > MAX_PART * wanted.max_codes)
        for key in sorted(by_stream)
    ]
    prompts = _in_turn(groups, wanted.num_prompts)
    if not prompts:
        raise ConfigError(
            f"generation_check.every_steps = {wanted.every_steps}: data.held_out = {list(config.data.held_out)!r} has "
            f"no prompt of a task that this run trains ({', '.join(PROMPTED)}); make a set with titan-speech store "
            "held-out --num-decode, or set generation_check.every_steps = 0"
        )
    return tuple(prompts)


def _prompts_of(documents: Documents, ids: set[str], seq_len: int) -> Iterator[GenerationPrompt]:
    """The documents whose target is one of these samples and that fit a sequence."""
    part = documents.part
    length_N = documents.lengths(0, documents.num_documents)
    for i in np.flatnonzero((length_N > 0) & (length_N <= seq_len)).tolist():
        samples = documents.samples(i)
        row = part.row(samples[-1])
        if row.sample_id in ids:
            document = documents.document(i)
            yield GenerationPrompt(
                sample_id=row.sample_id,
                task=documents.task,
                language=part.language,
                ids_T=document.ids_T[: document.num_prefix_tokens].astype(np.int64),
                num_target_codes=len(document.ids_T) - document.num_prefix_tokens - 1,
                voice_codes_F=np.array(part.codes(samples[0]), np.uint16),
                text=row.transcript_native or "",
            )


def _in_turn(groups: list[list[GenerationPrompt]], count: int) -> list[GenerationPrompt]:
    """The first of each group, then the second of each, up to `count`; none twice."""
    chosen: dict[tuple[str, str], GenerationPrompt] = {}
    for rank in range(max(map(len, groups), default=0)):
        for group in groups:
            if rank < len(group) and len(chosen) < count:
                chosen.setdefault((group[rank].sample_id, group[rank].task), group[rank])
    return list(chosen.values())
