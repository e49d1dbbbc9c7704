"""Verbs on the checkpoints of a run: looked at, verified, compared, pinned, moved."""

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
from titan_speech.cli.command import EXIT_DONE, EXIT_FOUND_WRONG, Argument, Command

_RUN = Argument("run", "run folder, or the folder its checkpoints lie in", type=local_path)
_STEP = Argument("step", "step of a checkpoint", type=natural)
_URL = Argument("url", "s3://bucket/prefix, the upload.to of a run", type=s3_address)
_CHECKPOINT = "checkpoint (.../step-N), or a run folder: its newest"


def checkpoint_list(args: argparse.Namespace, words: list[str]) -> int:
    from titan_speech.checkpoint.inspect import listed, run_dir
    from titan_speech.checkpoint.upload.status import address_text
    from titan_speech.storage.s3_url import is_s3

    if is_s3(args.run):
        print(address_text(args.run, storage_of(args, args.run)))
        return EXIT_DONE
    listing = listed(run_dir(Path(args.run)))
    print(listing)
    return EXIT_FOUND_WRONG if listing.is_lost else EXIT_DONE


def checkpoint_verify(args: argparse.Namespace, words: list[str]) -> int:
    from titan_speech.checkpoint.inspect import checkpoints_at
    from titan_speech.checkpoint.verify import verify
    from titan_speech.utils.text_table import size_text

    found = [verify(checkpoint, checksums=not args.quick) for checkpoint in checkpoints_at(args.path, args.step)]
    for one in found:
        size = f"{size_text(one.commit.num_bytes)} in {len(one.commit.files)} files" if one.commit else ""
        print(f"{one.checkpoint}: {f'sound, {size}' if one.is_sound else '; '.join(one.problems)}")
    if not found:
        print(f"{args.path}: no complete checkpoint")
    return EXIT_DONE if found and all(one.is_sound for one in found) else EXIT_FOUND_WRONG


def checkpoint_inspect(args: argparse.Namespace, words: list[str]) -> int:
    from titan_speech.checkpoint.inspect import inspect_text, one_checkpoint

    print(inspect_text(one_checkpoint(args.path)))
    return EXIT_DONE


def checkpoint_diff(args: argparse.Namespace, words: list[str]) -> int:
    from titan_speech.checkpoint.inspect import diff_text, one_checkpoint

    print(diff_text(one_checkpoint(args.one), one_checkpoint(args.other)) or "made in the same way")
    return EXIT_DONE


def checkpoint_pin(args: argparse.Namespace, words: list[str]) -> int:
    from titan_speech.checkpoint.inspect import run_dir
    from titan_speech.checkpoint.retention import pin

    place = run_dir(args.run)
    checkpoint = place.checkpoint(args.step)
    pin(place.folder, args.step)
    print(f"{checkpoint} is pinned: it is neither deleted nor reduced to its weights")
    return EXIT_DONE


def checkpoint_unpin(args: argparse.Namespace, words: list[str]) -> int:
    from titan_speech.checkpoint.inspect import run_dir
    from titan_speech.checkpoint.retention import unpin

    place = run_dir(args.run)
    unpin(place.folder, args.step)
    print(f"step {args.step} in {place.folder} is no longer pinned: the next save may remove it")
    return EXIT_DONE


def checkpoint_adopt(args: argparse.Namespace, words: list[str]) -> int:
    from titan_speech.checkpoint.verify import write_marker

    commit = write_marker(args.path)
    print(f"{args.path}: {commit.kind}, {len(commit.files)} files; its marker was written from the files as they are")
    return EXIT_DONE


def checkpoint_push(args: argparse.Namespace, words: list[str]) -> int:
    from titan_speech.checkpoint.inspect import run_dir
    from titan_speech.checkpoint.upload.push_pull import push

    folder = run_dir(args.run).folder
    print(push(folder.parent, folder, args.url, storage_of(args, args.url), args.step))
    return EXIT_DONE


def checkpoint_pull(args: argparse.Namespace, words: list[str]) -> int:
    from titan_speech.checkpoint.upload.push_pull import pull
    from titan_speech.config.schema_operations import CheckpointConfig

    folder = args.run / CheckpointConfig.folder
    print(pull(args.url, args.run, folder, storage_of(args, args.url), args.step))
    return EXIT_DONE


COMMANDS = (
    Command(
        "checkpoint",
        "list",
        "Print the checkpoints of a run: step, kind, size, age, why saved, why kept, loss, and what is damaged (if all "
        "are, exit code 1).",
        "titan-speech checkpoint list outputs/demo",
        checkpoint_list,
        (
            Argument(
                "run",
                "run folder, the folder its checkpoints lie in, or s3://bucket/prefix: what is complete there, and "
                "what uploads that were stopped left",
                type=local_folder_or_s3,
            ),
            ENDPOINT_URL,
        ),
    ),
    Command(
        "checkpoint",
        "verify",
        "Read every byte of a checkpoint, or of all of a run, and name each broken file (exit code 1).",
        "titan-speech checkpoint verify outputs/demo --step 30",
        checkpoint_verify,
        (
            Argument("path", "checkpoint (.../step-N), or a run folder: all of its checkpoints", type=local_path),
            Argument("--step", "of a run folder, only this step", type=natural),
            Argument("--quick", "compare the files and their sizes only", is_switch=True),
        ),
    ),
    Command(
        "checkpoint",
        "inspect",
        "Print what made a checkpoint, the tokens it has read, and its tensors with shape and type.",
        "titan-speech checkpoint inspect outputs/demo/checkpoint/step-30",
        checkpoint_inspect,
        (Argument("path", _CHECKPOINT, type=local_path),),
    ),
    Command(
        "checkpoint",
        "diff",
        "Print what differs in how two checkpoints were made: configuration, revision, data, layout, tokens.",
        "titan-speech checkpoint diff outputs/demo/checkpoint/step-15 outputs/demo/checkpoint/step-30",
        checkpoint_diff,
        (Argument("one", _CHECKPOINT, type=local_path), Argument("other", _CHECKPOINT, type=local_path)),
    ),
    Command(
        "checkpoint",
        "pin",
        "Keep a checkpoint for ever, in full, also while its run goes on.",
        "titan-speech checkpoint pin outputs/demo 15",
        checkpoint_pin,
        (_RUN, _STEP),
    ),
    Command(
        "checkpoint",
        "unpin",
        "Leave a pinned checkpoint to the run's policy again.",
        "titan-speech checkpoint unpin outputs/demo 15",
        checkpoint_unpin,
        (_RUN, _STEP),
    ),
    Command(
        "checkpoint",
        "adopt",
        "Write the commit marker of a DCP checkpoint that another program saved, after a look at its index.",
        "titan-speech checkpoint adopt outputs/old/checkpoint/step-500",
        checkpoint_adopt,
        (Argument("path", "checkpoint (.../step-N) without a marker", type=local_path),),
    ),
    Command(
        "checkpoint",
        "push",
        "Send a run's checkpoints to object storage, verified; goes on where it was stopped.",
        "titan-speech checkpoint push outputs/demo s3://bucket/demo --step 30",
        checkpoint_push,
        (_RUN, _URL, Argument("--step", "only this step (default: all)", type=natural), ENDPOINT_URL),
    ),
    Command(
        "checkpoint",
        "pull",
        "Fetch a checkpoint from object storage into a run folder, verified; goes on where it was stopped.",
        "titan-speech checkpoint pull s3://bucket/demo outputs/demo",
        checkpoint_pull,
        (
            _URL,
            Argument("run", "run folder, which need not be there yet", type=local_folder),
            Argument("--step", "step to fetch (default: the newest full one)", type=natural),
            ENDPOINT_URL,
        ),
    ),
)
