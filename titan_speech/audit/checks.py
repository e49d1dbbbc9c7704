"""One function a check: what is wrong with one sample.

In: a sample and what is usual around it (`Context`). Out: an `Answer` whose severity orders the worst samples (0 is
sound), or None where the check does not apply. All checks of a sample of 500 codes and a sentence take 0.1 ms.

Shapes: T codes of a sample.

What is looked for, and which share of the samples may have it.

In: nothing. Out: `RULES`, one row a check. A threshold is a share of the samples the check applies to, in one
language; above it the audit fails. The defaults are strict where one finding means that a tool is broken, and wide
where real speech has the finding too; each says why. All can be set (thresholds.py).

Which share of each finding is too much: the defaults, a TOML file over them, options over both.

In: a TOML file with rules as keys, and tables of them for single languages. Out: `Thresholds`.

    duration = 0.02

    [language.en]
    duplicate-transcript = 0.5
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import tomli
from numpy.typing import NDArray

from titan_speech.audit.measures import Spread, expected_scripts, plain_name, script_counts
from titan_speech.audit.sample import AuditSample
from titan_speech.errors import DataError
from titan_speech.store.sample import duration_excess, stated_duration_problem
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
    severity = duration_excess(*lengths)
    return SOUND if severity <= 1 else Answer(severity, stated_duration_problem(*lengths))


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


@dataclass(frozen=True)
class Rule:
    """One check; `name` is its key in options, thresholds and JSON."""

    name: str
    title: str
    finds: str
    max_share: float
    reason: str
    """For the threshold."""
    check: Callable[[AuditSample, AuditContext], Answer | None]


RULES = (
    Rule(
        "code-range",
        "Codes in range",
        "codes that the codec's codebook does not have",
        0.0,
        "no codec makes one; a single one means wrong offsets or another codec",
        codes_in_range,
    ),
    Rule(
        "unknown-token",
        "Unknown tokens",
        "transcripts whose ids hold the unknown token or do not decode back to the transcript",
        0.001,
        "byte-level tokenizers lose nothing; others lose a rare character",
        tokens_known,
    ),
    Rule(
        "duration",
        "Duration against codes",
        "end_time - start_time is not the length of the codes, within 2 codes and 2 %",
        0.01,
        "a wrong rate or shifted rows break nearly all samples, a bad recording one",
        duration_fits,
    ),
    Rule(
        "length",
        "Segment length",
        "segments of more than 40 s",
        0.01,
        "they do not fit 2,048 positions with their text: a run drops or splits them",
        length_fits,
    ),
    Rule(
        "transcript",
        "Empty transcripts",
        "paired samples without a letter or digit in their transcript (danda and other punctuation is none)",
        0.005,
        "such a pair teaches speech out of nothing",
        transcript_has_words,
    ),
    Rule(
        "script",
        "Language against script",
        "texts with less than half of their letters in a script of their language",
        0.02,
        "names and borrowed words stand alone in short samples; wrong tags come by the file",
        script_fits,
    ),
    Rule(
        "chars-per-sec",
        "Characters a second",
        "more than 5 robust spreads and 1 s from what the language's median gives, by the times",
        0.03,
        "spelt numbers and long pauses are real; more means that transcripts belong to other audio",
        chars_per_sec,
    ),
    Rule(
        "chars-per-code",
        "Characters a code",
        "more than 5 robust spreads and 1 s from what the language's median gives, by the codes",
        0.03,
        "as for characters a second; this one sees wrong codes where the times are right",
        chars_per_code,
    ),
    Rule(
        "repeat",
        "Repeated codes",
        "one code in a row for 2 s or half of the sample: silence, or a stuck encoder",
        0.01,
        "a model learns to stay silent from few of these",
        codes_move,
    ),
    Rule(
        "duplicate-transcript",
        "Repeated transcripts",
        "transcripts that other samples of the part have too",
        0.3,
        "greetings and prompts repeat; from a third on, few sentences are learnt by heart",
        transcript_is_new,
    ),
    Rule(
        "duplicate-audio",
        "Repeated audio",
        "codes that another sample of the part has too, all of them",
        0.005,
        "two recordings never give the same codes: a file was imported twice",
        audio_is_new,
    ),
    Rule(
        "segment-order",
        "Segment order",
        "segments of one source whose order contradicts their times",
        0.0,
        "stitching and continuation would join what does not belong together",
        order_fits,
    ),
    Rule(
        "speaker",
        "Speaker missing",
        "speech without speaker_id",
        1.0,
        "counted and never too much: only cloning needs it; --max-speaker 0 for a store that cloning reads",
        speaker_is_named,
    ),
)
RULE_NAMES = tuple(rule.name for rule in RULES)


@dataclass(frozen=True)
class Thresholds:
    """Largest allowed share by rule, and by language where one differs."""

    shares: Mapping[str, float] = field(default_factory=lambda: {rule.name: rule.max_share for rule in RULES})
    of_language: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def share(self, rule: str, language: str) -> float:
        return self.of_language.get(language, {}).get(rule, self.shares[rule])


def read_thresholds(file: Path | None, options: Mapping[str, float]) -> Thresholds:
    """`options` hold for every language, also for those the file names."""
    defaults = Thresholds()
    if file is None:
        return Thresholds({**defaults.shares, **options})
    content = _content(file)
    languages = content.pop("language", {})
    if not isinstance(languages, dict) or not all(isinstance(table, dict) for table in languages.values()):
        raise DataError(f"{file}: language must be tables such as [language.hi]")
    of_language = {
        name: {**_shares(table, f"{file}, [language.{name}]"), **options} for name, table in languages.items()
    }
    return Thresholds({**defaults.shares, **_shares(content, str(file)), **options}, of_language)


def _content(file: Path) -> dict[str, object]:
    try:
        return tomli.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"thresholds {file} cannot be read: {error}") from error
    except tomli.TOMLDecodeError as error:
        raise DataError(f"thresholds {file} is not TOML: {error}; expected lines such as duration = 0.01") from error


def _shares(table: Mapping[str, object], where: str) -> dict[str, float]:
    shares = {}
    for name, value in table.items():
        if name not in RULE_NAMES:
            near = get_close_matches(name, RULE_NAMES, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(RULE_NAMES)}"
            raise DataError(f"{where}: no check is called {name!r}; {hint}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise DataError(f"{where}: {name} is {value!r}; expected a share from 0 to 1, such as 0.01 for 1 %")
        shares[name] = float(value)
    return shares
