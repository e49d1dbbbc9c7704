"""One function per check: what is wrong with one sample.

In: a sample and the values it is compared with (`AuditContext`). Out: a `CheckOutcome` whose severity orders the
worst samples (0: no finding), or None where the check does not apply. Each check is a row of `AUDIT_CHECKS` here and of
`AUDIT_RULES` in rules.py, which has its title and threshold. All checks of a sample of 500 codes and a sentence take
0.1 ms.

Shapes: T codes of a sample.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from titan_speech.audit.choose_samples import AuditSample
from titan_speech.audit.measures import RateDistribution, expected_scripts, script_counts, script_name
from titan_speech.store.sample import describe_duration_mismatch, duration_mismatch
from titan_speech.tokenization.normalize import composed
from titan_speech.tokenization.text_tokenizer import TextTokenizer
from titan_speech.utils.text_table import counted

MAX_SEGMENT_SEC = 40.0
MAX_ROBUST_Z = 5.0
"""One in 1.7 million of a normal distribution; real rates have longer tails, which the threshold allows for."""
RATE_SLACK_SEC = 1.0
"""A letter that is read out takes five times as long as its character would, so a difference below 1 s is allowed."""
STUCK_SEC = 2.0
STUCK_SHARE = 0.5
MIN_STUCK_CODES = 10


@dataclass(frozen=True)
class CheckOutcome:
    """Severity 0: no finding; `detail` says what was found and what was expected."""

    severity: float
    detail: str = ""


PASSED = CheckOutcome(0.0)


@dataclass(frozen=True)
class AuditContext:
    """What a sample is compared with; distributions of rates per language."""

    codes_per_sec: float
    num_codes: int
    tokenizer: TextTokenizer | None
    chars_per_sec: Mapping[str, RateDistribution | None] = field(default_factory=dict)
    chars_per_code: Mapping[str, RateDistribution | None] = field(default_factory=dict)


def check_code_range(sample: AuditSample, context: AuditContext) -> CheckOutcome | None:
    if not sample.is_speech:
        return None
    wrong_T = np.flatnonzero(sample.tokens_T >= context.num_codes)
    if not wrong_T.size:
        return PASSED
    first = f"code {sample.tokens_T[wrong_T[0]]} at frame {wrong_T[0]}"
    return CheckOutcome(
        float(wrong_T.size), f"{counted(wrong_T.size, 'code')} beyond 0..{context.num_codes - 1}, first {first}"
    )


def check_unknown_tokens(sample: AuditSample, context: AuditContext) -> CheckOutcome | None:
    """Ids must decode to the transcript; without a transcript (text parts) they must decode to valid characters."""
    if context.tokenizer is None or sample.text_ids_T is None or (sample.is_speech and sample.text is None):
        return None
    unknown = int(np.count_nonzero(sample.text_ids_T == context.tokenizer.unknown_id))
    if unknown:
        return CheckOutcome(
            float(unknown), f"{unknown} of {len(sample.text_ids_T)} ids are the tokenizer's unknown token"
        )
    decoded = context.tokenizer.decode(sample.text_ids_T.tolist())
    if not sample.is_speech:
        broken = decoded.count("\N{REPLACEMENT CHARACTER}")
        return CheckOutcome(float(broken), f"{counted(broken, 'character')} cannot be decoded") if broken else PASSED
    expected, found = _normalized(sample.text or ""), _normalized(decoded)
    if expected == found:
        return PASSED
    at = next((i for i, pair in enumerate(zip(expected, found, strict=False)) if pair[0] != pair[1]), None)
    at = min(len(expected), len(found)) if at is None else at
    return CheckOutcome(
        float(abs(len(expected) - len(found)) + 1), f"ids decode to “{found[at : at + 30]}” at character {at}"
    )


def _normalized(text: str) -> str:
    """Tokenizers may compose characters and change spaces; neither loses a word."""
    return " ".join(composed(text).split())


def check_duration(sample: AuditSample, context: AuditContext) -> CheckOutcome | None:
    if not sample.is_speech or sample.duration_sec is None:
        return None
    lengths = len(sample.tokens_T), sample.duration_sec, context.codes_per_sec
    severity = duration_mismatch(*lengths)
    return PASSED if severity <= 1 else CheckOutcome(severity, describe_duration_mismatch(*lengths))


def check_length(sample: AuditSample, context: AuditContext) -> CheckOutcome | None:
    if not sample.is_speech:
        return None
    seconds = len(sample.tokens_T) / context.codes_per_sec
    found = f"{counted(len(sample.tokens_T), 'code')}, {seconds:.2f} s"
    return CheckOutcome(seconds, found) if seconds > MAX_SEGMENT_SEC else PASSED


def check_transcript(sample: AuditSample, context: AuditContext) -> CheckOutcome | None:
    """The transcript must have a letter or digit; a danda, a dash or an emoji is not a word in any script."""
    if not sample.is_paired:
        return None
    if not (sample.text or "").strip():
        return CheckOutcome(2.0, "no transcript, in a part that has them")
    if any(unicodedata.category(character)[0] in "LN" for character in sample.text or ""):
        return PASSED
    return CheckOutcome(1.0, "the transcript has neither letter nor digit")


def check_script(sample: AuditSample, context: AuditContext) -> CheckOutcome | None:
    """At least half of the letters must be in a script of the language; Latin names and loan words are common."""
    expected = expected_scripts(sample.language)
    counts = script_counts(sample.text or "")
    if expected is None or not counts:
        return None
    right, total = sum(counts[script] for script in expected), counts.total()
    if 2 * right >= total:
        return PASSED
    script, number = counts.most_common(1)[0]
    wanted = " or ".join(sorted(map(script_name, expected)))
    return CheckOutcome(
        (total - right) / total, f"{number} of {total} letters are {script_name(script)}, expected {wanted}"
    )


def check_chars_per_sec(sample: AuditSample, context: AuditContext) -> CheckOutcome | None:
    usual, seconds = context.chars_per_sec.get(sample.language), sample.duration_sec
    if rate_per_sec(sample) is None or usual is None or seconds is None:
        return None
    return _rate_outcome(sample.num_chars, seconds, usual, "second", RATE_SLACK_SEC)


def check_chars_per_code(sample: AuditSample, context: AuditContext) -> CheckOutcome | None:
    usual = context.chars_per_code.get(sample.language)
    if rate_per_code(sample) is None or usual is None:
        return None
    return _rate_outcome(sample.num_chars, len(sample.tokens_T), usual, "code", RATE_SLACK_SEC * context.codes_per_sec)


def rate_per_sec(sample: AuditSample) -> float | None:
    if not sample.is_speech or not sample.text or not sample.duration_sec or sample.duration_sec <= 0:
        return None
    return sample.num_chars / sample.duration_sec


def rate_per_code(sample: AuditSample) -> float | None:
    return sample.num_chars / len(sample.tokens_T) if sample.is_speech and sample.text else None


def _rate_outcome(num_chars: int, length: float, usual: RateDistribution, unit: str, slack: float) -> CheckOutcome:
    rate = num_chars / length
    robust_z = usual.robust_z(rate)
    if robust_z <= MAX_ROBUST_Z or abs(length - num_chars / usual.median) <= slack:
        return PASSED
    found = f"{counted(num_chars, 'character')}, {rate:.3g} per {unit}"
    return CheckOutcome(
        robust_z, f"{found}; its language's median is {usual.median:.3g}: robust z-score {robust_z:.1f}"
    )


def check_repeated_code(sample: AuditSample, context: AuditContext) -> CheckOutcome | None:
    """Silence and a stuck encoder repeat one code."""
    if not sample.is_speech:
        return None
    run, code, total = *longest_run(sample.tokens_T), len(sample.tokens_T)
    is_stuck = run >= STUCK_SEC * context.codes_per_sec or (run >= MIN_STUCK_CODES and run >= STUCK_SHARE * total)
    if not is_stuck:
        return PASSED
    return CheckOutcome(
        run / total + run / 1e6, f"code {code} {run} times in a row ({run / context.codes_per_sec:.1f} s) of {total}"
    )


def longest_run(codes_T: NDArray) -> tuple[int, int]:
    """Length of the longest run of one code, and the code."""
    borders = np.flatnonzero(np.diff(codes_T)) + 1
    starts = np.concatenate([[0], borders])
    lengths = np.diff(np.concatenate([starts, [len(codes_T)]]))
    longest = int(np.argmax(lengths))
    return int(lengths[longest]), int(codes_T[starts[longest]])


def check_duplicate_transcript(sample: AuditSample, context: AuditContext) -> CheckOutcome | None:
    return _duplicate_outcome(sample.num_same_text, "transcript") if sample.is_paired and sample.num_same_text else None


def check_duplicate_audio(sample: AuditSample, context: AuditContext) -> CheckOutcome | None:
    return _duplicate_outcome(sample.num_same_codes, "codes") if sample.is_speech else None


def _duplicate_outcome(number: int, what: str) -> CheckOutcome:
    return PASSED if number <= 1 else CheckOutcome(float(number), f"{number} samples of its part have the same {what}")


def check_segment_order(sample: AuditSample, context: AuditContext) -> CheckOutcome | None:
    if not sample.is_speech or sample.order_conflict is None:
        return None
    return CheckOutcome(float(bool(sample.order_conflict)), sample.order_conflict)


def check_speaker(sample: AuditSample, context: AuditContext) -> CheckOutcome | None:
    if not sample.is_speech:
        return None
    return PASSED if (sample.speaker_id or "").strip() else CheckOutcome(1.0, "no speaker_id")


AUDIT_CHECKS: dict[str, Callable[[AuditSample, AuditContext], CheckOutcome | None]] = {
    "code-range": check_code_range,
    "unknown-token": check_unknown_tokens,
    "duration": check_duration,
    "length": check_length,
    "transcript": check_transcript,
    "script": check_script,
    "chars-per-sec": check_chars_per_sec,
    "chars-per-code": check_chars_per_code,
    "repeat": check_repeated_code,
    "duplicate-transcript": check_duplicate_transcript,
    "duplicate-audio": check_duplicate_audio,
    "segment-order": check_segment_order,
    "speaker": check_speaker,
}
"""The check per rule name (`rules.py`)."""
