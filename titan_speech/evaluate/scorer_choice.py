"""The scorers that are asked for: by a command line, the watcher, or the alignment.

In: `ScorerChoice`, names of models and files as a user gives them. Out: scorers, each model in a process of its own,
which starts when its first clip comes. What needs no model is always scored.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from titan_speech.errors import DataError
from titan_speech.evaluate.models.isolation import LIMIT_SEC, IsolatedModel
from titan_speech.evaluate.models.opinions import open_opinion_model
from titan_speech.evaluate.models.recognizers import open_recognizer
from titan_speech.evaluate.models.voices import open_voice_encoder
from titan_speech.evaluate.normalization.lattice import Spellings, read_spellings
from titan_speech.evaluate.normalization.numerals import Numerals
from titan_speech.evaluate.normalization.scoring import ScoringRules
from titan_speech.evaluate.scorers.base import Scorer
from titan_speech.evaluate.scorers.measures import CodeScorer, SoundScorer
from titan_speech.evaluate.scorers.opinion import OpinionScorer
from titan_speech.evaluate.scorers.voice import VoiceScorer
from titan_speech.evaluate.scorers.words import WordScorer
from titan_speech.evaluate.trust import TrustTable, read_trust_table

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScorerChoice:
    """Which models score, as a user names them."""

    asr: tuple[str, ...] = ()
    """Folders or hub ids of recognizers."""
    trust: Path | None = None
    """The trust table; needed with `asr`."""
    voice: str = ""
    """Speaker encoder: resemblyzer, a folder or a hub id."""
    opinion: tuple[str, ...] = ()
    """dnsmos, or TorchScript files."""
    spellings: Path | None = None
    numerals: Numerals = "words"
    device: str = "cpu"
    limit_sec: float = LIMIT_SEC
    """Longest time of a model for one clip."""

    @property
    def rules(self) -> ScoringRules:
        return ScoringRules(self.numerals)

    def read_spellings(self) -> Spellings:
        """The accepted spellings; none without a file."""
        return Spellings() if self.spellings is None else read_spellings(self.spellings, self.rules)

    def recognizers(self) -> list[IsolatedModel]:
        """The recognizers.

        Raises:
            DataError: two have one name.
            ModelError: one is not there.
        """
        opened = [IsolatedModel(open_recognizer(name, self.device), self.limit_sec) for name in self.asr]
        names = [one.model.name for one in opened]
        if len(set(names)) < len(names):
            raise DataError(f"two recognizers have one name ({', '.join(names)}); give folders of different names")
        return opened


@contextmanager
def open_scorers(choice: ScorerChoice) -> Iterator[tuple[list[Scorer], TrustTable | None]]:
    """The scorers, closed at the end; and the trust table that decides over error rates.

    Raises:
        DataError: recognizers without a trust table, or a file that cannot be read.
        ModelError: a model is not there.
    """
    scorers: list[Scorer] = [CodeScorer(), SoundScorer()]
    table = None if choice.trust is None else read_trust_table(choice.trust)
    if choice.asr:
        if table is None:
            raise DataError(
                f"a recognizer ({choice.asr[0]}) without a trust table: titan-speech evaluate trust measures on "
                "recordings which languages it may judge; give its output with --trust"
            )
        scorers.append(WordScorer(choice.recognizers(), table, choice.rules, choice.read_spellings()))
        if table.rules != choice.rules.version:
            logger.warning(
                "the trust table %s was measured by other rules of text (%s) than are used (%s); measure it again",
                choice.trust,
                table.rules,
                choice.rules.version,
            )
    if choice.voice:
        scorers.append(VoiceScorer(IsolatedModel(open_voice_encoder(choice.voice, choice.device), choice.limit_sec)))
    for name in choice.opinion:
        scorers.append(OpinionScorer(IsolatedModel(open_opinion_model(name, choice.device), choice.limit_sec)))
    names = Counter(name for one in scorers for name in (one.name, *(metric.name for metric in one.metrics)))
    names.subtract({one.name for one in scorers if one.name in {metric.name for metric in one.metrics}})
    if twice := [name for name, count in names.items() if count > 1]:
        raise DataError(f"two scorers give {', '.join(twice)}; rename the file of one predictor")
    try:
        yield scorers, table
    finally:
        for scorer in scorers:
            scorer.close()
