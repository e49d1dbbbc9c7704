"""Commands that synthesize speech; their arguments are in the modules named here."""

from __future__ import annotations

from titan_speech.cli.command import Command, deferred

COMMANDS = (
    Command(
        None,
        "generate",
        "Speak texts with an exported model, in a voice of its own or one to clone, and write wav files.",
        'titan-speech generate --model outputs/demo-hf --text "please hold the line" --output outputs/line.wav',
        deferred("titan_speech.cli.generate_texts"),
        is_deferred=True,
    ),
    Command(
        None,
        "sample",
        "Speak one text with a trained run and write it as a wav file.",
        'titan-speech sample --run outputs/demo --text "please hold the line" --output outputs/demo/sample.wav',
        deferred("titan_speech.generate.sample"),
        is_deferred=True,
    ),
)
