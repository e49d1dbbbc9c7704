"""`titan-speech train`: checks everything that can be checked without torch, then starts the ranks of this machine.

In: a configuration, how many processes and nodes. Out: a trained run; the exit code of docs/checkpoints.md. A
mistake in the configuration, a store, the tokenizer or the backbone is refused after about a second, before any process
is started; what needs the weights or the device is refused by the ranks.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from types import FrameType

from titan_speech.cli.arguments import natural, positive
from titan_speech.cli.command import Argument, ArgumentGroup, Command, announce
from titan_speech.errors import ConfigError
from titan_speech.utils.files import use_umask
from titan_speech.utils.machine_limits import FILES_OF_A_RUN, ensure_open_files
from titan_speech.utils.text_table import counted


def train(args: argparse.Namespace) -> int:
    """Check, then run; every line of progress goes to stderr."""
    from titan_speech.doctor.checks import check_inputs
    from titan_speech.preflight.config_checks import load_config
    from titan_speech.preflight.machine_checks import check_folders_exist

    ensure_open_files(FILES_OF_A_RUN)
    num_processes = args.nproc or num_gpus() or 1
    min_nodes, max_nodes = args.nnodes
    if max_nodes > 1 and not args.rdzv_endpoint:
        raise ConfigError(
            f"found --nnodes {max_nodes} without --rdzv-endpoint; expected the host:port of one node, equal on all"
        )
    world_size = num_processes * min_nodes if min_nodes == max_nodes else None
    nodes = "" if max_nodes == 1 else f" on each of {_nodes_text(args.nnodes)} nodes"
    announce(f"train: checking {args.config} for {counted(num_processes, 'process')}{nodes}")
    loaded = load_config(args.config_words, world_size=world_size, checks=(check_folders_exist,))
    config = loaded.config
    check_inputs(config)
    use_umask(config.job.umask)  # before it makes the folder of the logs, and with it the run folder
    run_folder = Path(config.job.dump_folder)
    logs = _log_folder(Path(args.log_dir) if args.log_dir else run_folder / "logs", max_nodes)
    others = f"; all ranks but the first print into {logs}/" if num_processes > 1 else ""
    with _removed_if_stopped(logs):
        announce(f"train: no problems found, starting torch{others}")
        from titan_speech.launch.agent import Launch, run_ranks

    launch = Launch(
        name=args.rdzv_id or Path(args.config).stem,
        num_processes=num_processes,
        min_nodes=min_nodes,
        max_nodes=max_nodes,
        endpoint=args.rdzv_endpoint,
        local_address=args.local_addr,
        max_restarts=args.max_restarts,
        stop_within_sec=config.health.stop_within_sec,
        restarts_after_stop=config.health.on_spike == "rollback"
        or config.health.max_breaches > 0
        or min_nodes < max_nodes,
        checkpoints=run_folder / config.checkpoint.folder,
        logs=logs,
    )
    return run_ranks(launch, args.config_words)


def _log_folder(parent: Path, max_nodes: int) -> Path:
    """A new folder for the logs of this launch; nodes may share `parent`.

    Raises:
        ConfigError: it cannot be written.
    """
    name = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = parent / (name if max_nodes == 1 else f"{name}-{os.uname().nodename}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the folder of the logs cannot be made: {error}; give a job.dump_folder or a --log-dir that this user can "
            "write to"
        ) from error
    return folder


@contextmanager
def _removed_if_stopped(logs: Path) -> Iterator[None]:
    """Ctrl-C before any rank is started ends the launch and leaves no empty folders.

    An import may swallow the exception so the signal is remembered too.
    """
    received = []

    def remember(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield
        if received:
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        with suppress(OSError):  # a folder that is not empty stays
            for folder in (logs, logs.parent, logs.parent.parent):
                folder.rmdir()
        raise
    finally:
        signal.signal(signal.SIGINT, before)


def num_gpus() -> int:
    """GPUs that processes of this machine see, asked without torch; 0 without a driver."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([one for one in visible.split(",") if one.strip() and one.strip() != "-1"])
    try:
        command = ["nvidia-smi", "--list-gpus"]  # of the user's PATH
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603  (fixed)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return len(re.findall("^GPU ", done.stdout, re.MULTILINE))  # a broken driver prints its error to stdout


def processes(text: str) -> int:
    """The type of a number of processes; "auto" and "gpu", as torchrun has them, mean the GPUs."""
    return num_gpus() or 1 if text in ("auto", "gpu") else positive(text)


def nodes(text: str) -> tuple[int, int]:
    """The type of a number of nodes, or of a range of them: 4, 2:4."""
    least, _, most = text.partition(":")
    found = positive(least), positive(most or least)
    if found[0] > found[1]:
        raise argparse.ArgumentTypeError(f'found "{text}", expected MIN:MAX with MIN at most MAX')
    return found


def _nodes_text(nodes: tuple[int, int]) -> str:
    return str(nodes[0]) if nodes[0] == nodes[1] else f"{nodes[0]} to {nodes[1]}"


COMMANDS = (
    Command(
        None,
        "train",
        "Train a stage on the GPUs of this machine, or of several; the same command resumes it.",
        "titan-speech train train_configs/demo.toml --nproc 1 --training.target_tokens 20_000",
        train,
        (  # the variables are torchrun's, which launchers of jobs set (Kubeflow)
            Argument(
                "--nproc",
                "processes on this machine (default: its GPUs, those of CUDA_VISIBLE_DEVICES; 1 without any)",
                type=processes,
                metavar="N",
                variable="PET_NPROC_PER_NODE",
            ),
            Argument(
                "--max-restarts",
                "restarts from the last checkpoint after a rank has failed (default: 3)",
                type=natural,
                metavar="N",
                default=3,
                variable="PET_MAX_RESTARTS",
            ),
            Argument("--log-dir", "output of ranks (default: logs in the run folder)", metavar="DIR"),
            ArgumentGroup(
                "several machines (start the same command on each)",
                Argument(
                    "--nnodes",
                    "their number, or MIN:MAX (default: 1)",
                    type=nodes,
                    default=(1, 1),
                    variable="PET_NNODES",
                ),
                Argument(
                    "--rdzv-endpoint",
                    "one of them, reachable from all",
                    metavar="HOST:PORT",
                    default="",
                    variable="PET_RDZV_ENDPOINT",
                ),
                Argument("--rdzv-id", "equal on all (default: name of CONFIG)", metavar="NAME", variable="PET_RDZV_ID"),
                Argument("--local-addr", "address of this machine, if its name does not resolve", metavar="HOST"),
            ),
        ),
        takes_config=True,
        config_is_argument=True,
    ),
)
