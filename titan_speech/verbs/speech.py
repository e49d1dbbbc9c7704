"""Verbs that speak: their rooms have the arguments."""

from __future__ import annotations

from titan_speech.verbs.verb import Verb, deferred

VERBS = (
    Verb(
        None,
        "generate",
        "Speak texts with an exported model, in a voice of its own or one to clone, and write wav files.",
        'titan-speech generate --model outputs/demo-hf --text "please hold the line" --output outputs/line.wav',
        deferred("titan_speech.evaluate.generate_verb"),
        is_deferred=True,
    ),
    Verb(
        None,
        "sample",
        "Speak one text with a trained run and write it as a wav file.",
        'titan-speech sample --run outputs/demo --text "please hold the line" --output outputs/demo/sample.wav',
        deferred("titan_speech.evaluate.sample"),
        is_deferred=True,
    ),
)
