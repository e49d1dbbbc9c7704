"""Time and memory of planning a large store, in dedicated processes; JSON on stdout.

    python -m benchmarks.planning STORE

In: a store (large_store.py). Out: seconds until its plan is ready, the time to find any slot, and the peak memory of
the process with and without its imports. Part of benchmarks/data_path.py; a separate module since planning needs no
torch, which takes 400 MB more.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.large_store import write_large_store
from benchmarks.machine import memory_bytes, seconds
from titan_speech.config.schema import SpeechConfig
from titan_speech.config.schema_data import DataConfig, SourceConfig
from titan_speech.config.schema_training import TokenizerConfig, TrainingConfig
from titan_speech.data.plan import DataPlan

SEQ_LEN = 2_048
TOKENIZER = "tokenizer/tiny"
FAR_SLOT = 10**9


def config_of(store: Path, *tasks: str) -> SpeechConfig:
    sources = [SourceConfig(name=task, store=str(store), task=task, share=1 / len(tasks)) for task in tasks]  # type: ignore[arg-type]
    return SpeechConfig(
        tokenizer=TokenizerConfig(path=TOKENIZER),
        data=DataConfig(source=tuple(sources)),
        training=TrainingConfig(seq_len=SEQ_LEN, global_batch_tokens=64 * SEQ_LEN, target_tokens=10**11),
    )


def plan_figures(store: Path) -> dict[str, float]:
    """One plan of a large store: what a process of a run does first."""
    before_bytes = memory_bytes("VmHWM")
    began, began_cpu = time.perf_counter(), cpu_sec()
    plan = DataPlan.load(config_of(store, "speech", "tts"))
    found = {"sec": time.perf_counter() - began, "cpu_sec": cpu_sec() - began_cpu}
    for task in ("speech", "tts"):
        stream = next(stream for stream in plan.streams if stream.task == task)
        found[f"first_pieces_{task}_ms"] = 1e3 * seconds(lambda stream=stream: stream.stream.pieces(10**6))
    found["state_at_slot_1e9_ms"] = 1e3 * seconds(lambda: plan.order.locate(FAR_SLOT))
    peak_bytes = memory_bytes("VmHWM")  # in units of 1,024 bytes, as the recorded results
    return found | {"peak_mb": peak_bytes / 1.024e6, "peak_mb_above_imports": (peak_bytes - before_bytes) / 1.024e6}


def cpu_sec() -> float:
    """Of this process and of those that counted for it and have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def large_figures(store: Path, num_samples: int) -> dict[str, float]:
    """Plans of one large store in two processes: the first counts packs, the second finds them counted."""
    write_large_store(store, num_samples, TOKENIZER)
    found: dict[str, float] = {"large_samples": num_samples}
    for name in ("first_plan", "later_plan"):
        command = [sys.executable, "-m", "benchmarks.planning", str(store)]
        printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        found |= {f"{name}_{key}": value for key, value in json.loads(printed).items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    print(json.dumps(plan_figures(parser.parse_args().store)))


if __name__ == "__main__":
    main()
