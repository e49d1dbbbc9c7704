"""Whether the words are right: WER, CER, and words that nobody asked for, by the ASR that is trusted for a language.

In: clips with texts, recognizers, and the trust table (evaluate/trust.py), which says who may judge which language.
Out: error rates with the transcript; "not measured" where no recognizer is trusted, never zero.

Rates are errors over units of the reference, weighted by these units, so that the mean over clips is the rate over all
their words. A clip without sound is not measured; one that is silent or shorter than 0.1 s, as of a model that stops
at once, says no word, so every word of its text is an error.
CER counts letters, marks and digits without spaces, since Indic compounds are written with and without them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Protocol

from titan_speech.evaluate.clip import Clip, Score
from titan_speech.evaluate.models.base import Answer, Failure
from titan_speech.evaluate.models.isolation import RunningModel
from titan_speech.evaluate.normalization.lattice import NO_SPELLINGS, Spellings
from titan_speech.evaluate.normalization.scoring import DEFAULT_RULES, ScoringRules, share_in_script
from titan_speech.evaluate.scorers.base import Metric, ask, says_nothing
from titan_speech.evaluate.scorers.edit_distance import Errors, count_errors

NOT_MEASURED = "not measured"
RULES = 2
"""Increased whenever the same transcript, or the same sound, gives other rates."""
METRICS = (
    Metric("wer", "lower", "word error rate"),
    Metric("cer", "lower", "character error rate, without spaces"),
    Metric("insertions", "lower", "words that nobody asked for, per word asked for"),
    Metric("asr_script", "", "share of the transcript's letters in the language's script"),
)


class Trust(Protocol):
    """Which recognizer judges a language."""

    def chosen(self, language: str, versions: Mapping[str, str]) -> tuple[str | None, str]:
        """The name of the recognizer, or None and the reason."""
        ...


class WordScorer:
    """Error rates of what recognizers hear."""

    name = "words"
    metrics = METRICS

    def __init__(
        self,
        recognizers: Sequence[RunningModel],
        trust: Trust,
        rules: ScoringRules = DEFAULT_RULES,
        spellings: Spellings = NO_SPELLINGS,
    ) -> None:
        """Args:
        recognizers: with different names.
        trust: which of them judges a language.
        rules: how texts are compared.
        spellings: accepted spellings.
        """
        self.recognizers = {one.model.name: one for one in recognizers}
        self.trust, self.rules, self.spellings = trust, rules, spellings

    @property
    def version(self) -> str:
        versions = "; ".join(f"{name}: {version}" for name, version in sorted(self._versions().items()))
        texts = f"rules {RULES}; {self.rules.version}; spellings {self.spellings.version or 'none'}"
        return f"{texts}; trust {self.trust}; {versions}"

    def _versions(self) -> dict[str, str]:
        return {name: one.model.version for name, one in self.recognizers.items()}

    def score(self, clips: Sequence[Clip]) -> list[dict[str, Score]]:
        """Scores of each clip; clips of one recognizer are sent to it together."""
        versions = self._versions()
        found: list[dict[str, Score]] = [{} for _ in clips]
        by_recognizer: dict[str, list[int]] = defaultdict(list)
        for number, clip in enumerate(clips):
            name, reason = self.trust.chosen(clip.language, versions)
            if name is None:
                found[number] = _missing(f"{NOT_MEASURED}: {reason}")
            elif not clip.text.strip():
                found[number] = _missing("no text to compare with")
            else:
                by_recognizer[name].append(number)
        for name, numbers in by_recognizer.items():
            chosen = [clips[number] for number in numbers]
            for number, clip, heard in zip(numbers, chosen, transcribe(self.recognizers[name], chosen), strict=True):
                found[number] = (
                    {metric.name: Score.failure(f"{name}: {heard.reason}") for metric in METRICS}
                    if isinstance(heard, Failure)
                    else word_scores(clip.text, heard, clip.language, self.rules, self.spellings)
                )
        return found

    def close(self) -> None:
        """End the recognizers' processes."""
        for one in self.recognizers.values():
            one.close()


def transcribe(recognizer: RunningModel, clips: Sequence[Clip]) -> list[str | Failure]:
    """What a recognizer hears in each clip; nothing in silence, which it is not asked about."""
    answers = ask(recognizer, [clip.sound for clip in clips], [clip.language for clip in clips])
    return ["" if says_nothing(clip.sound) else _text(answer) for clip, answer in zip(clips, answers, strict=True)]


def _text(answer: Answer | Failure) -> str | Failure:
    return answer if isinstance(answer, str | Failure) else Failure(f"answered {type(answer).__name__}, expected text")


def word_scores(
    text: str, heard: str, language: str, rules: ScoringRules, spellings: Spellings = NO_SPELLINGS
) -> dict[str, Score]:
    """The scores of one transcript.

    Args:
        text: what ought to be heard.
        heard: what an ASR wrote.
        language: BCP 47 tag.
        rules: how texts are compared.
        spellings: accepted spellings.
    """
    words, letters = text_errors(text, heard, language, rules, spellings)
    if not words.num_reference:
        return _missing("the text has no letter or digit")
    share, num_letters = share_in_script(heard, language), sum(map(str.isalpha, heard))
    return {
        "wer": Score(words.rate, words.num_reference, detail=heard),
        "cer": Score(letters.rate, letters.num_reference, detail=heard),
        "insertions": Score(words.insertions / words.num_reference, words.num_reference),
        "asr_script": Score.missing("no letters of a known script") if share is None else Score(share, num_letters),
    }


def text_errors(
    text: str, heard: str, language: str, rules: ScoringRules, spellings: Spellings = NO_SPELLINGS
) -> tuple[Errors, Errors]:
    """Errors in words and in characters without spaces."""
    slots = spellings.slots(tuple(rules(text, language).split()), language)
    said = rules(heard, language).split()
    in_letters = [[tuple("".join(reading)) for reading in slot] for slot in slots]
    return count_errors(slots, said), count_errors(in_letters, "".join(said))


def _missing(reason: str) -> dict[str, Score]:
    return {metric.name: Score.missing(reason) for metric in METRICS}
