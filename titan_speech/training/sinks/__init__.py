"""Where metrics go besides the console and metrics.jsonl: one small interface, and what has it.

names.py        every metric with its unit and meaning; the stable names of a release
sink.py         the interface, and a guard: a sink that fails costs one warning and is off from then on
tensorboard.py  event files in RUN/tb
wandb_run.py    Weights & Biases: one run over all restarts, online or offline
prometheus.py   an endpoint per node: metrics, and the ledger of the ranks of the node
webhook.py      messages for people, as Slack takes them
build.py        the sinks of a configuration
"""
