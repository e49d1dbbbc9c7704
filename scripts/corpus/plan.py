"""In: what the readers found. Out: the utterances to make, in a fixed order, before any audio exists.

The amount of speech per language is set in minutes and reached by an estimate of 13 characters per second, so
that the list of sentences does not depend on a synthesiser. Help pages go to speech and to text in halves; a
catalogue sentence that is not spoken is text. No sentence is in both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from .audio import decode_g722
from .packages import PAGES, PROMPT_LICENCE, catalogue
from .pages import Page
from .prompts import Prompt
from .sentences import is_readable_sentence, readable_pieces
from .split import stable_order
from .strings import CatalogueString
from .voices import ESPEAK_VOICES, FESTVOX_NAMES, FESTVOX_SPEAKER, speak_festvox

CHARS_PER_SECOND = 13.0
ESPEAK_MINUTES = {lang: 9.0 for lang in ("hi", "ta", "te", "bn")}
ESPEAK_MINUTES |= {lang: 5.0 for lang in ("mr", "gu", "kn", "ml", "pa", "as", "or")}
FESTVOX_MINUTES = 4.0


@dataclass(frozen=True)
class Utterance:
    """What will become one speech row, and how to make its audio."""

    sample_id: str
    prompt_key: str
    language: str
    speaker_id: str
    dataset_source: str
    source_video_id: str
    segment_order: int
    transcript: str
    licence: str
    make_samples: Callable[[], np.ndarray]


def is_for_speech(page: Page) -> bool:
    return stable_order(f"use/{page.key}") % 2 == 0


def human(prompts: list[Prompt]) -> Iterator[Utterance]:
    for p in prompts:
        sample_id = f"asterisk-{p.language}/{p.key}"
        yield Utterance(
            sample_id, f"asterisk/{p.key}", p.language, p.speaker_id, f"asterisk-{p.language}", sample_id, 0,
            p.transcript, PROMPT_LICENCE, lambda audio=p.audio: decode_g722(audio),
        )  # fmt: skip


def espeak_pages(pages: list[Page]) -> Iterator[Utterance]:
    """Each page read by one voice, its pieces in order: the one source of adjacent segments."""
    for page in pages:
        voice = ESPEAK_VOICES[stable_order(f"voice/{page.key}") % len(ESPEAK_VOICES)]
        pieces = [piece for paragraph in page.paragraphs for piece in readable_pieces(paragraph)]
        source = f"{page.key}/{page.language}"
        for order, text in enumerate(p for p in pieces if is_readable_sentence(p, page.language)):
            yield Utterance(
                f"espeak-pages/{page.language}/{page.key.split('/')[1]}-{order:02d}", page.key, page.language,
                voice.speaker_id, "espeak-pages", source, order, text, PAGES.licence,
                lambda v=voice, t=text, lang=page.language: v.speak(t, lang),
            )  # fmt: skip


def espeak_strings(strings: Iterable[CatalogueString]) -> Iterator[Utterance]:
    for s in strings:
        voice = ESPEAK_VOICES[stable_order(f"voice/{s.english}") % len(ESPEAK_VOICES)]
        sample_id = f"espeak-strings/{s.language}/{string_name(s)}"
        yield Utterance(
            sample_id, string_key(s), s.language, voice.speaker_id, "espeak-strings", sample_id, 0,
            s.text, catalogue(s.language).licence, lambda v=voice, s=s: v.speak(s.text, s.language),
        )  # fmt: skip


def festvox_strings(strings: Iterable[CatalogueString]) -> Iterator[Utterance]:
    for s in strings:
        sample_id = f"festvox-nsk/{s.language}/{string_name(s)}"
        yield Utterance(
            sample_id, string_key(s), s.language, FESTVOX_SPEAKER, "festvox-nsk", sample_id, 0,
            s.text, "GPL-2.0-or-later", lambda s=s: speak_festvox(s.text, s.language),
        )  # fmt: skip


def synthetic(language: str, pages: list[Page], strings: list[CatalogueString]) -> list[Utterance]:
    """The spoken Indic part of one language: half its minutes from pages where there are pages, strings, festvox."""
    budget = ESPEAK_MINUTES[language] * 60 * CHARS_PER_SECOND
    spoken_pages = sorted(filter(is_for_speech, pages), key=lambda p: stable_order(p.key))
    chosen = list(_until(espeak_pages(spoken_pages), budget / 2))
    queue = iter(sorted(strings, key=lambda s: stable_order(s.english)))
    chosen += _until(espeak_strings(queue), budget - sum(len(u.transcript) for u in chosen))
    if language in FESTVOX_NAMES:
        chosen += _until(festvox_strings(queue), FESTVOX_MINUTES * 60 * CHARS_PER_SECOND)
    return chosen


def string_key(string: CatalogueString) -> str:
    return f"libreoffice/{string.english}"


def string_name(string: CatalogueString) -> str:
    return f"{stable_order(string.english):016x}"


def _until(utterances: Iterator[Utterance], budget_chars: float) -> Iterator[Utterance]:
    while budget_chars > 0:
        utterance = next(utterances, None)
        if utterance is None:
            return
        budget_chars -= len(utterance.transcript)
        yield utterance
