"""`titan-speech evaluate run`: generate with the checkpoints of a run, or an exported model, and score the speech."""

from __future__ import annotations

import argparse
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from titan_speech.cli.arguments import (
    CODEC,
    ENDPOINT_URL,
    SCORERS,
    TOP_K,
    choice_of,
    decoding_of,
    local_folder_or_s3,
    natural,
    not_negative,
    number,
    positive,
    storage_of,
)
from titan_speech.cli.command import Argument, Command, announce
from titan_speech.errors import DataError
from titan_speech.exit_codes import EXIT_DONE, EXIT_FOUND_WRONG
from titan_speech.utils.text_table import counted

if TYPE_CHECKING:
    from titan_speech.evaluate.watch.checkpoint_result import Evaluation
    from titan_speech.evaluate.watch.watcher import Due, Watcher

SETS = ("canary", "full")


def evaluate_run(args: argparse.Namespace) -> int:
    announce(f"evaluate run: {args.model or args.run}")
    if bool(args.run) == bool(args.model):
        raise DataError("give a run folder or its s3:// address, or --model FOLDER of an export; one of the two")
    if args.model and (args.watch or args.step is not None):
        raise DataError("--model is one exported folder: --watch and --step go with a run")
    if args.model and str(args.output).startswith("s3:"):
        raise DataError("results of --model are written to a folder: give one with --output, not an address")
    if args.check_exports and (args.model or args.run.startswith("s3:")):
        raise DataError("--check-exports looks into the run folder: give it, not --model or an address")
    if args.watch and args.step is not None:
        raise DataError("--step evaluates one checkpoint and ends; leave --watch out")
    with _evaluations(args) as evaluations:
        if args.model:
            return _export(args, evaluations)
        return _run(args, evaluations)


@contextmanager
def _evaluations(args: argparse.Namespace) -> Iterator[dict[str, Evaluation]]:
    """What is asked of each checkpoint, by the name of the set."""
    from titan_speech.codec.load import load_codec
    from titan_speech.evaluate.prompt_packs.prompt_pack import read_pack
    from titan_speech.evaluate.scorer_choice import open_scorers
    from titan_speech.evaluate.watch.checkpoint_result import Evaluation
    from titan_speech.generate.vllm_speech import require_vllm

    if args.engine == "vllm":
        require_vllm(args.python)
    codec, pack = load_codec(args.codec), read_pack(args.pack)
    pack.check_codec(codec.codec_hash, args.pack)
    decoding = decoding_of(args, codec.frame_rate_hz)
    names = [name for name in args.set or SETS if pack.of_set(name)]
    if not names:
        raise DataError(f"the pack {args.pack} has no prompt of {', '.join(args.set or SETS)}")
    with open_scorers(choice_of(args)) as (scorers, table):
        yield {
            name: Evaluation(
                pack,
                args.pack,
                name,
                decoding,
                codec,
                scorers,
                table,
                clones=not args.without_cloning,
                num_seeds=args.num_seeds,
                engine=args.engine,
                python=args.python,
            )
            for name in names
        }


def _run(args: argparse.Namespace, evaluations: dict[str, Evaluation]) -> int:
    from titan_speech.evaluate.watch.claims import WorkQueue
    from titan_speech.evaluate.watch.milestones import MilestoneCheck
    from titan_speech.evaluate.watch.publish import Publisher, open_sinks
    from titan_speech.evaluate.watch.run_checkpoints import run_checkpoints
    from titan_speech.evaluate.watch.watcher import Due, Watcher
    from titan_speech.model.exported_files import EVALUATION_FOLDER
    from titan_speech.storage.s3_url import is_s3
    from titan_speech.storage.shared_files import shared_folder

    storage = storage_of(args, args.run, args.output)
    place = args.output or f"{str(args.run).rstrip('/')}/{EVALUATION_FOLDER}"
    notes = None if is_s3(place) else Path(place)
    kept = args.keep_audio or ["canary"]
    every_steps = {"full": 0 if args.set and args.step is not None else args.full_every}  # asked for by name: any step
    due = [Due(one, every_steps.get(name, 0), name in kept) for name, one in evaluations.items()]
    with tempfile.TemporaryDirectory(prefix="titan-speech-") as temporary:
        work = args.work or (notes / "work" if notes else Path(temporary))
        sinks = open_sinks(args.log, notes or Path(work), Path(str(args.run)).name)
        checkpoints = run_checkpoints(str(args.run), storage)
        queue = WorkQueue(
            shared_folder(place, storage),
            lease_sec=args.lease_sec,
            beat_sec=args.lease_sec / 6,
            max_attempts=args.max_attempts,
        )
        milestones = MilestoneCheck(Path(args.run), checkpoints, queue) if args.check_exports else None
        publisher = Publisher(notes, sinks)
        publisher.restore_notes()
        watcher = Watcher(checkpoints, due, queue, work, milestones, publisher)
        try:
            return _watch(args, watcher, due) if args.watch else _once(args, watcher, place)
        finally:
            sinks.close()


def _watch(args: argparse.Namespace, watcher: Watcher, due: list[Due]) -> int:
    sets = " and ".join(one.evaluation.set_name for one in due)
    print(f"watching {args.run} for checkpoints ({sets} set); Ctrl-C ends it, and what is done stays", flush=True)
    watcher.watch(threading.Event(), args.poll_sec)
    return EXIT_DONE


def _once(args: argparse.Namespace, watcher: Watcher, place: str) -> int:
    steps = [one.step for one in watcher.checkpoints.complete()]
    if not steps or (args.step is not None and args.step not in steps):
        known = (
            f"there are {', '.join(map(str, steps[-8:]))}"
            if steps
            else "no checkpoint is complete yet; --watch waits for one"
        )
        wanted = "complete checkpoint" if args.step is None else f"complete checkpoint of step {args.step}"
        raise DataError(f"{args.run} has no {wanted}: {known}")
    count = watcher.evaluate_due(args.step)
    if num_open := watcher.num_open(args.step):
        waits = f"{counted(num_open, 'evaluation')} of other workers, whose results are waited for"
        print(f"{waits}; work of one that is gone is taken over after {args.lease_sec:g} s", flush=True)
    while watcher.num_open(args.step):
        time.sleep(min(args.poll_sec, args.lease_sec))
        count += watcher.evaluate_due(args.step)
    print(f"{counted(count, 'new result')} in {place}")
    failures = watcher.failures(args.step)
    for failure in failures:
        print(failure)
    return EXIT_FOUND_WRONG if failures else EXIT_DONE


def _export(args: argparse.Namespace, evaluations: dict[str, Evaluation]) -> int:
    from titan_speech.evaluate.result import result_path
    from titan_speech.evaluate.summary import failed_clips, summary
    from titan_speech.evaluate.watch.checkpoint_result import evaluate_export
    from titan_speech.evaluate.watch.watcher import kept_audio
    from titan_speech.hf.model_card import read_record
    from titan_speech.model.exported_files import EVALUATION_FOLDER
    from titan_speech.utils.files import write_atomically

    record = read_record(args.model)
    output = Path(args.output or args.model.with_name(f"{args.model.name}-{EVALUATION_FOLDER}"))
    num_failed = 0
    for name, evaluation in evaluations.items():
        key = evaluation.key(record.weights or str(args.model))
        path = output / result_path(key.id)
        if path.exists():
            print(f"{path}: this model was scored under these settings before")
            continue
        work = output / "work" / key.id
        result, clips = evaluate_export(args.model, evaluation, key, work, args.model.name)
        for file, content in kept_audio(key.id, clips if name in (args.keep_audio or ()) else ()):
            write_atomically(output / file, content)
        result.write(path)
        shutil.rmtree(work, ignore_errors=True)
        print(summary([result]))
        print(path)
        if failed := result.failures():
            num_failed += len(failed)
            print(failed_clips(result, failed))
    return EXIT_FOUND_WRONG if num_failed else EXIT_DONE


COMMANDS = (
    Command(
        "evaluate",
        "run",
        "Generate and score the prompts of a pack at the checkpoints of a run, once each, while it trains.",
        "titan-speech evaluate run outputs/demo --pack packs/lines --watch",
        evaluate_run,
        (
            Argument("run", "run folder, or the s3:// address it uploads to", nargs="?", type=local_folder_or_s3),
            Argument("--model", "an exported folder in place of a run", type=Path),
            Argument("--pack", "prompt pack (titan-speech evaluate pack)", type=Path, required=True),
            Argument(
                "--set",
                "canary or full (with --step, full at any step); may be given twice (default: both that the pack has)",
                action="append",
                choices=SETS,
            ),
            Argument(
                "--full-every",
                "steps between checkpoints with the full set; the canary set is generated at each (default: 5000)",
                type=natural,
                default=5000,
                metavar="STEPS",
            ),
            Argument(
                "--check-exports",
                "compare milestone exports of the run with their checkpoints, too",
                action="store_true",
            ),
            Argument("--watch", "wait for new checkpoints until it is stopped", action="store_true"),
            Argument("--step", "one checkpoint", type=natural),
            Argument(
                "--lease-sec",
                "a worker that gave no sign for this long is gone, and its work is taken over (default: 60)",
                type=number(1.0),
                default=60.0,
            ),
            Argument(
                "--max-attempts",
                "work that so many workers have begun and none has ended is given up (default: 5)",
                type=positive,
                default=5,
            ),
            Argument(
                "--poll-sec",
                "how often --watch looks, and results of others are waited for (default: 30)",
                type=number(0.1),
                default=30.0,
            ),
            Argument(
                "--output",
                "folder or s3:// address of results, shared by all workers (default: evaluation in the run)",
                type=local_folder_or_s3,
                default="",
            ),
            Argument("--work", "folder of this machine for what is not finished", type=Path),
            Argument(
                "--keep-audio",
                "sets whose clips are kept to listen to; may be given twice (default: canary; with --model none)",
                action="append",
                choices=SETS,
            ),
            Argument(
                "--log",
                "tensorboard or wandb; may be given twice. Give it to one of several workers",
                action="append",
                default=[],
                choices=("tensorboard", "wandb"),
            ),
            Argument(
                "--engine",
                "what generates: transformers, or vllm, which makes its own batches (default: transformers)",
                default="transformers",
                choices=("transformers", "vllm"),
            ),
            Argument("--python", "interpreter of the environment that has vLLM (default: this one)", type=Path),
            Argument(
                "--without-cloning",
                "generate without voices, for models that do not clone; similarity is measured all the same",
                action="store_true",
            ),
            CODEC,
            Argument("--temperature", "0 = greedy decoding (default: 0.8)", type=not_negative, default=0.8),
            TOP_K,
            Argument("--max-sec", "longest speech of a prompt (default: 40)", type=number(0.02), default=40.0),
            Argument("--seed", "random seed of the sampling (default: 0)", type=natural, default=0),
            Argument(
                "--num-seeds",
                "clips of each prompt, with seeds from --seed on; more tell smaller differences apart (default: 1)",
                type=positive,
                default=1,
            ),
            *SCORERS,
            ENDPOINT_URL,
        ),
    ),
)
