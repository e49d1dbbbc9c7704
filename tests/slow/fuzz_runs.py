"""Fuzz target of run folders: metrics, ledger, spans, configuration and generation checks, as the run page reads them.

In: a small run folder, written once by the code that runs write it with. Out: for each case a damaged copy, and the
page and the trace that are made of it.
"""

from __future__ import annotations

import random
from pathlib import Path

from tests.report.run_folders import write_run
from tests.slow.fuzz_mutate import mutated_bytes, mutated_lines
from titan_speech.cli.main import main
from titan_speech.ledger.file import Ledger
from titan_speech.ledger.records import STEP
from titan_speech.ledger.span_file import Span, SpanFile, spans_file


class RunTarget:
    """A run folder: one or some of its files, line by line or byte by byte."""

    name = "run"

    def prepare(self, seed: Path) -> None:
        run = write_run(seed / "run", steps=20, restart_at=10)
        for start in range(2):
            ledger = Ledger()
            ledger.open(run, rank=0, start=start, world_size=1, from_step=10 * start)
            with ledger.part(STEP):
                ledger.step_ended(10 * start + 1)
            ledger.close("complete")
        file = SpanFile(spans_file(run, "rank-0"))
        for step in range(20):
            file.add(Span("step", 1_767_225_600.0 + step, 0.9, "MainThread", step))
            file.add(Span("flagged", 1_767_225_600.5 + step, None, "MainThread", step))
        file.flush()

    def damage(self, rng: random.Random, case: Path) -> None:
        files = sorted(path for path in (case / "run").rglob("*") if path.is_file())
        for path in rng.sample(files, rng.choice((1, 1, 2))):
            data = path.read_bytes()
            by_line = path.suffix == ".jsonl" and rng.random() < 0.8
            path.write_bytes(mutated_lines(rng, data) if by_line else mutated_bytes(rng, data))

    def read(self, rng: random.Random, case: Path) -> None:
        main(["report", str(case / "run"), "--output", str(case / "page.html")])
        main(["report", str(case / "run"), "--trace", str(case / "trace.json")])


TARGETS = (RunTarget(),)
