"""The sections of the page, one file each, in the order of `SECTIONS` (report/page.py).

overview.py        the state of each run in a few tiles or one line
training_curves.py loss by group, optimizer, throughput, preference pairs
validation.py      losses and perplexity on held-out sets
generation.py      measures of generation checks, and their sound
evaluation.py      scores of checkpoints, the worst clips, prompts to listen to
alignment.py       a reward training: parity, breaches, answers to listen to
tensors.py         norms of weights, gradients, updates and activations
ledger.py          seconds by class, goodput, stragglers
mixture.py         planned and actual mixture, epochs
checkpoints.py     complete checkpoints
events.py          starts, rollbacks, skipped steps, warnings
provenance.py      versions, revisions, data, configuration
comparison.py      a run against a reference
lines.py           lines of charts from metrics, which all of them share

A section is a function from the runs to a `Section`, or None if it has nothing to show. It reads the runs alone, so
sections can be added, left out and tested one by one.
"""
