"""Commands on the checkpoints of a run: list, verify, inspect, diff, pin, unpin, mark, push, pull."""

from __future__ import annotations

import argparse
from pathlib import Path

from titan_speech.cli.arguments import (
    ENDPOINT_URL,
    local_folder,
    local_folder_or_s3,
    local_path,
    natural,
    s3_address,
    storage_of,
)
from titan_speech.cli.command import Argument, Command, announce
from titan_speech.exit_codes import EXIT_DONE, EXIT_FOUND_WRONG
from titan_speech.utils.text_table import counted

_RUN = Argument("run", "run folder, or the folder of its checkpoints", type=local_path)
_STEP = Argument("step", "step of the checkpoint", type=natural)
_URL = Argument("url", "s3://bucket/prefix, as in upload.to of the configuration", type=s3_address)
_CHECKPOINT = "checkpoint (.../step-N), or a run folder for its newest checkpoint"


def checkpoint_list(args: argparse.Namespace) -> int:
    from titan_speech.checkpoint.inspect import list_checkpoints, run_dir
    from titan_speech.checkpoint.upload.transfer import list_address
    from titan_speech.storage.s3_url import is_s3

    if is_s3(args.run):
        print(list_address(args.run, storage_of(args, args.run)))
        return EXIT_DONE
    listing = list_checkpoints(run_dir(Path(args.run)))
    print(listing)
    return EXIT_FOUND_WRONG if listing.is_lost else EXIT_DONE


def checkpoint_verify(args: argparse.Namespace) -> int:
    from titan_speech.checkpoint.inspect import checkpoints_at
    from titan_speech.checkpoint.verify import verify
    from titan_speech.utils.text_table import size_text

    found = [verify(checkpoint, checksums=not args.quick) for checkpoint in checkpoints_at(args.path, args.step)]
    for one in found:
        size = f"{size_text(one.commit.num_bytes)} in {counted(len(one.commit.files), 'file')}" if one.commit else ""
        suspect = f"; SUSPECT: {one.commit.suspect}" if one.commit and one.commit.suspect else ""
        print(f"{one.checkpoint}: {f'sound, {size}' if one.is_sound else '; '.join(one.problems)}{suspect}")
    if not found:
        print(f"{args.path}: no complete checkpoint")
    return EXIT_DONE if found and all(one.is_sound for one in found) else EXIT_FOUND_WRONG


def checkpoint_inspect(args: argparse.Namespace) -> None:
    announce(f"checkpoint inspect: reading the index of {args.path}")
    from titan_speech.checkpoint.inspect import inspect_text, one_checkpoint

    print(inspect_text(one_checkpoint(args.path)))


def checkpoint_diff(args: argparse.Namespace) -> None:
    from titan_speech.checkpoint.inspect import diff_text, one_checkpoint

    print(diff_text(one_checkpoint(args.one), one_checkpoint(args.other)) or "no differences in provenance")


def checkpoint_pin(args: argparse.Namespace) -> None:
    from titan_speech.checkpoint.inspect import run_dir
    from titan_speech.checkpoint.retention import pin

    place = run_dir(args.run)
    checkpoint = place.checkpoint(args.step)
    pin(place.folder, args.step)
    print(f"{checkpoint.path} is pinned: it is neither deleted nor reduced to its weights")


def checkpoint_unpin(args: argparse.Namespace) -> None:
    from titan_speech.checkpoint.inspect import run_dir
    from titan_speech.checkpoint.retention import unpin

    place = run_dir(args.run)
    unpin(place.folder, args.step)
    print(f"step {args.step} in {place.folder} is no longer pinned: the next save may remove it")


def checkpoint_mark(args: argparse.Namespace) -> None:
    announce(f"checkpoint mark: reading the files of {args.path}")
    from titan_speech.checkpoint.verify import write_marker

    commit = write_marker(args.path)
    files = counted(len(commit.files), "file")
    print(f"{args.path}: {commit.kind}, {files}; its marker was written from the files as they are")


def checkpoint_push(args: argparse.Namespace) -> None:
    from titan_speech.checkpoint.inspect import run_dir
    from titan_speech.checkpoint.upload.transfer import push

    folder = run_dir(args.run).folder
    print(push(folder.parent, folder, args.url, storage_of(args, args.url), args.step))


def checkpoint_pull(args: argparse.Namespace) -> None:
    from titan_speech.checkpoint.upload.transfer import pull
    from titan_speech.config.schema_operations import CheckpointConfig

    folder = args.run / CheckpointConfig.folder
    print(pull(args.url, args.run, folder, storage_of(args, args.url), args.step))


COMMANDS = (
    Command(
        "checkpoint",
        "list",
        "List the checkpoints of a run: step, kind, size, age, why saved, why kept, loss, damage; exit code 1 if all "
        "are damaged.",
        "titan-speech checkpoint list outputs/demo",
        checkpoint_list,
        (
            Argument(
                "run",
                "run folder, the folder of its checkpoints, or s3://bucket/prefix: what is complete there, and what "
                "interrupted uploads left",
                type=local_folder_or_s3,
            ),
            ENDPOINT_URL,
        ),
    ),
    Command(
        "checkpoint",
        "verify",
        "Read every byte of one checkpoint or all of a run and name each broken file (exit code 1).",
        "titan-speech checkpoint verify outputs/demo --step 30",
        checkpoint_verify,
        (
            Argument("path", "checkpoint (.../step-N), or a run folder for all of its checkpoints", type=local_path),
            Argument("--step", "verify only this step of the run folder", type=natural),
            Argument("--quick", "compare only file names and sizes", action="store_true"),
        ),
    ),
    Command(
        "checkpoint",
        "inspect",
        "Print the provenance of a checkpoint, the tokens read so far, and its tensors with shape and type.",
        "titan-speech checkpoint inspect outputs/demo/checkpoint/step-30",
        checkpoint_inspect,
        (Argument("path", _CHECKPOINT, type=local_path),),
    ),
    Command(
        "checkpoint",
        "diff",
        "Compare the provenance of two checkpoints: configuration, revision, data, layout, tokens.",
        "titan-speech checkpoint diff outputs/demo/checkpoint/step-15 outputs/demo/checkpoint/step-30",
        checkpoint_diff,
        (Argument("one", _CHECKPOINT, type=local_path), Argument("other", _CHECKPOINT, type=local_path)),
    ),
    Command(
        "checkpoint",
        "pin",
        "Exempt a checkpoint from retention: it keeps its optimizer state and is never deleted.",
        "titan-speech checkpoint pin outputs/demo 15",
        checkpoint_pin,
        (_RUN, _STEP),
    ),
    Command(
        "checkpoint",
        "unpin",
        "Make a pinned checkpoint subject to retention again.",
        "titan-speech checkpoint unpin outputs/demo 15",
        checkpoint_unpin,
        (_RUN, _STEP),
    ),
    Command(
        "checkpoint",
        "mark",
        "Write the commit marker of a DCP checkpoint that another program saved, after checking its index.",
        "titan-speech checkpoint mark outputs/old/checkpoint/step-500",
        checkpoint_mark,
        (Argument("path", "checkpoint (.../step-N) without a marker", type=local_path),),
        old_name="adopt",
    ),
    Command(
        "checkpoint",
        "push",
        "Upload a run's checkpoints to object storage and verify them; an interrupted upload resumes.",
        "titan-speech checkpoint push outputs/demo s3://bucket/demo --step 30",
        checkpoint_push,
        (_RUN, _URL, Argument("--step", "upload only this step (default: all)", type=natural), ENDPOINT_URL),
    ),
    Command(
        "checkpoint",
        "pull",
        "Download a checkpoint from object storage into a run folder and verify it; an interrupted download resumes.",
        "titan-speech checkpoint pull s3://bucket/demo outputs/demo",
        checkpoint_pull,
        (
            _URL,
            Argument("run", "run folder; created if it does not exist", type=local_folder),
            Argument("--step", "step to download (default: the newest full checkpoint)", type=natural),
            ENDPOINT_URL,
        ),
    ),
)
