"""Commands on documents before they are a store."""

from __future__ import annotations

from titan_speech.cli.command import Command, deferred

COMMANDS = (
    Command(
        "text",
        "prepare",
        "Clean documents, drop copies and what breaks a rule, and report what went and why; text for store build.",
        "titan-speech text prepare --from text-parquet --preset fineweb --input fineweb/ --output prepared/fineweb "
        "--tokenizer tokenizer/tiny --workers 16",
        deferred("titan_speech.cli.text_prepare", extra="text"),
        is_deferred=True,
    ),
)
