"""Scorers: clips to one score per metric, a value or a reason.

base.py      `Scorer`, `Metric`; several scorers over the same clips
"""
