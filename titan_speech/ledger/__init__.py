"""The ledger of time: which class every second of every process of a run belongs to, over restarts and world sizes.

clock.py      this process: one class at every moment, nested parts, suspension, waiting for other ranks
file.py       RUN/ledger/rank-N.jsonl, whose last line is rewritten in place, so that a kill loses a fifth of a second
records.py    the format of these files, and reading them
follow.py     the ledger of running ranks, followed from outside
span_file.py  RUN/spans/*.jsonl: what each process did from when to when
goodput.py    seconds by class, goodput, lost work and stragglers, from the records of all processes

This floor imports no torch, so a page or a monitor can read a ledger in milliseconds.
"""
