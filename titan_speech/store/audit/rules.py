"""What is looked for, and which share of the samples may have it.

In: nothing. Out: `RULES`, one row a check. A threshold is a share of the samples the check applies to, in one
language; above it the audit fails. The defaults are strict where one finding means that a tool is broken, and wide
where real speech has the finding too; each says why. All can be set (thresholds.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from titan_speech.store.audit import checks
from titan_speech.store.audit.checks import Answer, Context
from titan_speech.store.audit.read import AuditSample


@dataclass(frozen=True)
class Rule:
    """One check; `name` is its key in options, thresholds and JSON."""

    name: str
    title: str
    finds: str
    max_share: float
    reason: str
    """For the threshold."""
    check: Callable[[AuditSample, Context], Answer | None]


RULES = (
    Rule(
        "code-range",
        "Codes in range",
        "codes that the codec's codebook does not have",
        0.0,
        "no codec makes one; a single one means wrong offsets or another codec",
        checks.codes_in_range,
    ),
    Rule(
        "unknown-token",
        "Unknown tokens",
        "transcripts whose ids hold the unknown token or do not decode back to the transcript",
        0.001,
        "byte-level tokenizers lose nothing; others lose a rare character",
        checks.tokens_known,
    ),
    Rule(
        "duration",
        "Duration against codes",
        "end_time - start_time is not the length of the codes, within 2 codes and 2 %",
        0.01,
        "a wrong rate or shifted rows break nearly all samples, a bad recording one",
        checks.duration_fits,
    ),
    Rule(
        "length",
        "Segment length",
        "segments of more than 40 s",
        0.01,
        "they do not fit 2,048 positions with their text: a run drops or splits them",
        checks.length_fits,
    ),
    Rule(
        "transcript",
        "Empty transcripts",
        "paired samples without a letter or digit in their transcript (danda and other punctuation is none)",
        0.005,
        "such a pair teaches speech out of nothing",
        checks.transcript_has_words,
    ),
    Rule(
        "script",
        "Language against script",
        "texts with less than half of their letters in a script of their language",
        0.02,
        "names and borrowed words stand alone in short samples; wrong tags come by the file",
        checks.script_fits,
    ),
    Rule(
        "chars-per-sec",
        "Characters a second",
        "more than 5 robust spreads and 1 s from what the language's median gives, by the times",
        0.03,
        "spelt numbers and long pauses are real; more means that transcripts belong to other audio",
        checks.chars_per_sec,
    ),
    Rule(
        "chars-per-code",
        "Characters a code",
        "more than 5 robust spreads and 1 s from what the language's median gives, by the codes",
        0.03,
        "as for characters a second; this one sees wrong codes where the times are right",
        checks.chars_per_code,
    ),
    Rule(
        "repeat",
        "Repeated codes",
        "one code in a row for 2 s or half of the sample: silence, or a stuck encoder",
        0.01,
        "a model learns to stay silent from few of these",
        checks.codes_move,
    ),
    Rule(
        "duplicate-transcript",
        "Repeated transcripts",
        "transcripts that other samples of the part have too",
        0.3,
        "greetings and prompts repeat; from a third on, few sentences are learnt by heart",
        checks.transcript_is_new,
    ),
    Rule(
        "duplicate-audio",
        "Repeated audio",
        "codes that another sample of the part has too, all of them",
        0.005,
        "two recordings never give the same codes: a file was imported twice",
        checks.audio_is_new,
    ),
    Rule(
        "segment-order",
        "Segment order",
        "segments of one source whose order contradicts their times",
        0.0,
        "stitching and continuation would join what does not belong together",
        checks.order_fits,
    ),
    Rule(
        "speaker",
        "Speaker missing",
        "speech without speaker_id",
        1.0,
        "counted and never too much: only cloning needs it; --max-speaker 0 for a store that cloning reads",
        checks.speaker_is_named,
    ),
)
RULE_NAMES = tuple(rule.name for rule in RULES)
