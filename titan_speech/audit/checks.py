"""One function a check: what is wrong with one sample.

In: a sample and what is usual around it (`Context`). Out: an `Answer` whose severity orders the worst samples (0 is
sound), or None where the check does not apply. All checks of a sample of 500 codes and a sentence take 0.1 ms.

Shapes: T codes of a sample.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from titan_speech.audit.measures import Spread, expected_scripts, plain_name, script_counts
from titan_speech.audit.sample import AuditSample
from titan_speech.store.sample import describe_duration_mismatch, duration_mismatch
from titan_speech.tokenization.text_tokenizer import TextTokenizer

MAX_SEGMENT_SEC = 40.0
MAX_SPREADS = 5.0
"""One in 1.7 million of a normal distribution; real rates have longer tails, which the threshold allows for."""
RATE_SLACK_SEC = 1.0
"""A letter read out takes five times as long as its character would: only a second too many or too few is judged."""
STUCK_SEC = 2.0
STUCK_SHARE = 0.5
MIN_STUCK_CODES = 10


@dataclass(frozen=True)
class Answer:
    """0 is sound; `detail` says what was found and what was expected."""

    severity: float
    detail: str = ""


SOUND = Answer(0.0)


@dataclass(frozen=True)
class AuditContext:
    """What a sample is compared with; spreads by language."""

    codes_per_sec: float
    num_codes: int
    tokenizer: TextTokenizer | None
    chars_per_sec: Mapping[str, Spread | None] = field(default_factory=dict)
    chars_per_code: Mapping[str, Spread | None] = field(default_factory=dict)


def codes_in_range(sample: AuditSample, context: AuditContext) -> Answer | None:
    if not sample.is_speech:
        return None
    wrong_T = np.flatnonzero(sample.tokens_T >= context.num_codes)
    if not wrong_T.size:
        return SOUND
    first = f"code {sample.tokens_T[wrong_T[0]]} at frame {wrong_T[0]}"
    return Answer(float(wrong_T.size), f"{wrong_T.size} codes beyond 0..{context.num_codes - 1}, first {first}")


def tokens_known(sample: AuditSample, context: AuditContext) -> Answer | None:
    """Ids must give the transcript back; without a transcript (text parts) they must at least be characters."""
    if context.tokenizer is None or sample.text_ids_T is None or (sample.is_speech and sample.text is None):
        return None
    unknown = int(np.count_nonzero(sample.text_ids_T == context.tokenizer.unknown_id))
    if unknown:
        return Answer(float(unknown), f"{unknown} of {len(sample.text_ids_T)} ids are the tokenizer's unknown token")
    decoded = context.tokenizer.decode(sample.text_ids_T.tolist())
    if not sample.is_speech:
        broken = decoded.count("\N{REPLACEMENT CHARACTER}")
        return Answer(float(broken), f"{broken} characters cannot be decoded") if broken else SOUND
    expected, found = _plain(sample.text or ""), _plain(decoded)
    if expected == found:
        return SOUND
    at = next((i for i, pair in enumerate(zip(expected, found, strict=False)) if pair[0] != pair[1]), None)
    at = min(len(expected), len(found)) if at is None else at
    return Answer(
        float(abs(len(expected) - len(found)) + 1), f"ids decode to “{found[at : at + 30]}” at character {at}"
    )


def _plain(text: str) -> str:
    """Tokenizers may compose characters and touch spaces; neither loses a word."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def duration_fits(sample: AuditSample, context: AuditContext) -> Answer | None:
    if not sample.is_speech or sample.duration_sec is None:
        return None
    lengths = len(sample.tokens_T), sample.duration_sec, context.codes_per_sec
    severity = duration_mismatch(*lengths)
    return SOUND if severity <= 1 else Answer(severity, describe_duration_mismatch(*lengths))


def length_fits(sample: AuditSample, context: AuditContext) -> Answer | None:
    if not sample.is_speech:
        return None
    seconds = len(sample.tokens_T) / context.codes_per_sec
    found = f"{len(sample.tokens_T):,} codes, {seconds:.2f} s"
    return Answer(seconds, found) if seconds > MAX_SEGMENT_SEC else SOUND


def transcript_has_words(sample: AuditSample, context: AuditContext) -> Answer | None:
    """A danda, a dash or an emoji is no word in any script."""
    if not sample.is_paired:
        return None
    if not (sample.text or "").strip():
        return Answer(2.0, "no transcript, in a part that has them")
    if any(unicodedata.category(character)[0] in "LN" for character in sample.text or ""):
        return SOUND
    return Answer(1.0, "neither letter nor digit in the transcript")


def script_fits(sample: AuditSample, context: AuditContext) -> Answer | None:
    """At least half of the letters; names and loan words in Latin are usual in every language."""
    expected = expected_scripts(sample.language)
    counts = script_counts(sample.text or "")
    if expected is None or not counts:
        return None
    right, total = sum(counts[script] for script in expected), counts.total()
    if 2 * right >= total:
        return SOUND
    script, number = counts.most_common(1)[0]
    wanted = " or ".join(sorted(map(plain_name, expected)))
    return Answer((total - right) / total, f"{number} of {total} letters are {plain_name(script)}, expected {wanted}")


def chars_per_sec(sample: AuditSample, context: AuditContext) -> Answer | None:
    usual, seconds = context.chars_per_sec.get(sample.language), sample.duration_sec
    if rate_per_sec(sample) is None or usual is None or seconds is None:
        return None
    return _rate_answer(sample.num_chars, seconds, usual, "second", RATE_SLACK_SEC)


def chars_per_code(sample: AuditSample, context: AuditContext) -> Answer | None:
    usual = context.chars_per_code.get(sample.language)
    if rate_per_code(sample) is None or usual is None:
        return None
    return _rate_answer(sample.num_chars, len(sample.tokens_T), usual, "code", RATE_SLACK_SEC * context.codes_per_sec)


def rate_per_sec(sample: AuditSample) -> float | None:
    if not sample.is_speech or not sample.text or not sample.duration_sec or sample.duration_sec <= 0:
        return None
    return sample.num_chars / sample.duration_sec


def rate_per_code(sample: AuditSample) -> float | None:
    return sample.num_chars / len(sample.tokens_T) if sample.is_speech and sample.text else None


def _rate_answer(num_chars: int, length: float, usual: Spread, unit: str, slack: float) -> Answer:
    rate = num_chars / length
    distance = usual.distance(rate)
    if distance <= MAX_SPREADS or abs(length - num_chars / usual.median) <= slack:
        return SOUND
    found = f"{num_chars} characters, {rate:.3g} a {unit}"
    return Answer(distance, f"{found}; its language's median is {usual.median:.3g}: {distance:.1f} spreads off")


def codes_move(sample: AuditSample, context: AuditContext) -> Answer | None:
    """Silence and stuck encoders repeat one code."""
    if not sample.is_speech:
        return None
    run, code, total = *longest_run(sample.tokens_T), len(sample.tokens_T)
    is_stuck = run >= STUCK_SEC * context.codes_per_sec or (run >= MIN_STUCK_CODES and run >= STUCK_SHARE * total)
    if not is_stuck:
        return SOUND
    return Answer(
        run / total + run / 1e6, f"code {code} {run} times in a row ({run / context.codes_per_sec:.1f} s) of {total}"
    )


def longest_run(codes_T: NDArray) -> tuple[int, int]:
    """Length of the longest run of one code, and the code."""
    borders = np.flatnonzero(np.diff(codes_T)) + 1
    starts = np.concatenate([[0], borders])
    lengths = np.diff(np.concatenate([starts, [len(codes_T)]]))
    longest = int(np.argmax(lengths))
    return int(lengths[longest]), int(codes_T[starts[longest]])


def transcript_is_new(sample: AuditSample, context: AuditContext) -> Answer | None:
    return _repeated(sample.num_same_text, "transcript") if sample.is_paired and sample.num_same_text else None


def audio_is_new(sample: AuditSample, context: AuditContext) -> Answer | None:
    return _repeated(sample.num_same_codes, "codes") if sample.is_speech else None


def _repeated(number: int, what: str) -> Answer:
    return SOUND if number <= 1 else Answer(float(number), f"{number} samples of its part have the same {what}")


def order_fits(sample: AuditSample, context: AuditContext) -> Answer | None:
    return None if not sample.is_speech or sample.order is None else Answer(float(bool(sample.order)), sample.order)


def speaker_is_named(sample: AuditSample, context: AuditContext) -> Answer | None:
    if not sample.is_speech:
        return None
    return SOUND if (sample.speaker_id or "").strip() else Answer(1.0, "no speaker_id")


CHECKS: dict[str, Callable[[AuditSample, AuditContext], Answer | None]] = {
    "code-range": codes_in_range,
    "unknown-token": tokens_known,
    "duration": duration_fits,
    "length": length_fits,
    "transcript": transcript_has_words,
    "script": script_fits,
    "chars-per-sec": chars_per_sec,
    "chars-per-code": chars_per_code,
    "repeat": codes_move,
    "duplicate-transcript": transcript_is_new,
    "duplicate-audio": audio_is_new,
    "segment-order": order_fits,
    "speaker": speaker_is_named,
}
"""The check of each rule (`rules.py`) by the rule's name."""
