"""Shared by all tests: a machine without an accelerator is prepared once, hypothesis runs the same cases everywhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.support.runs import ROOT
from tests.support.s3_server import S3Server, credentials, running_server
from titan_speech.store.held_out_choice import HeldOutOptions, make_held_out_set
from titan_speech.store.mapped_files import mapped_files

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of processes that tests start: as many tests run as there are cores
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

if not torch.cuda.is_available():
    from titan_speech.utils import cpu

    cpu.prepare()

settings.register_profile("ci", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ci")


@pytest.fixture(autouse=True)
def no_files_of_other_tests() -> Iterator[None]:
    """A process has one run, and looks again at the files it has mapped; tests share a process, and change files."""
    yield
    mapped_files.forget()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server with the bucket `stores`; processes find its credentials in the environment."""
    with running_server(tmp_path_factory.mktemp("weed")) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in credentials().items():
            patch.setenv(name, value)
        yield server


@pytest.fixture(scope="session")
def gold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A held-out set of the bundled data: 51 samples to score, 8 to generate from."""
    folder = tmp_path_factory.mktemp("held_out") / "gold"
    make_held_out_set([ROOT / "demo_data"], folder, HeldOutOptions(num_ce=51, num_decode=8, by="sample"))
    return folder
