"""Verbs on documents before they are a store."""

from __future__ import annotations

from titan_speech.verbs.verb import Verb, deferred

VERBS = (
    Verb(
        "text",
        "prepare",
        "Clean documents, drop copies and what breaks a rule, and report what went and why; text for store build.",
        "titan-speech text prepare --from text-parquet --preset fineweb --input fineweb/ --output prepared/fineweb "
        "--tokenizer tokenizer/tiny --workers 16",
        deferred("titan_speech.corpus.text.command", extra="text"),
        is_deferred=True,
    ),
)
