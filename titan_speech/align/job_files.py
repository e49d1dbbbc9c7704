"""Files in the folder of a reward training (OUTPUT.work), which the run page reads; without heavy imports.

settings.json            what the job was begun with
metrics.jsonl            a line per step: `align/NAME` of the reward, its scores, divergence and rate
parity.json              log-probabilities of trainer, transformers and generator before the first step
rollouts/step-N.json     answers to some prompts with rewards and scores; rollouts/step-N/K.wav their sound
breaches.json            where a bound was left and the rate was lowered
"""

SETTINGS_NAME, METRICS_NAME, PARITY_NAME, BREACHES_NAME = (
    "settings.json",
    "metrics.jsonl",
    "parity.json",
    "breaches.json",
)
ROLLOUTS_NAME = "rollouts"
PREFIX = "align/"
"""Of the names of a step's means in metrics.jsonl."""
