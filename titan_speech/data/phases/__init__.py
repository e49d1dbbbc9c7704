"""Phases of a run: what changes between them, what goes on where it stood, and the record of it.

carry.py     streams of a phase, continued from the phases before
records.py   what is written of a phase     files.py   where it lies     diff.py   what changed, in words
report.py    `titan-speech data phases`
"""
