"""Shared by all tests: a machine without an accelerator is prepared once, hypothesis runs the same cases everywhere."""

from __future__ import annotations

import torch
from hypothesis import HealthCheck, settings

if not torch.cuda.is_available():
    from titan_speech import cpu

    cpu.prepare()

settings.register_profile("ci", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ci")
