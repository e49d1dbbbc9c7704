"""`titan-speech evaluate listen` and `evaluate votes`: a blind listening page, and what its listeners preferred."""

from __future__ import annotations

import argparse
from pathlib import Path

from titan_speech.cli.arguments import natural, positive
from titan_speech.cli.command import Argument, Command
from titan_speech.errors import DataError
from titan_speech.utils.text_table import counted, table_lines

QUESTION = "Which of the two sounds better: more natural, clearer, closer to the text?"


def evaluate_listen(args: argparse.Namespace) -> None:
    from titan_speech.evaluate.prompt_packs.prompt_pack import read_pack
    from titan_speech.evaluate.result import clip_name
    from titan_speech.report.listening import write_listening_page

    systems = dict(map(_system, args.systems))
    if len(systems) < 2 or len(systems) < len(args.systems):
        raise DataError("expected at least two systems, each with a name of its own: NAME=FOLDER NAME=FOLDER")
    prompts = read_pack(args.pack).prompts if args.pack else ()
    texts = {name: prompt.text for prompt in prompts for name in (prompt.prompt_id, clip_name(prompt.prompt_id))}
    page = write_listening_page(systems, args.output, args.pairs, args.question, texts, args.seed)
    print(f"{page.folder}/index.html: {counted(page.num_trials, 'pair')}; send the folder to listeners")
    print(f"{page.key}: what is what; keep it from them. Then: titan-speech evaluate votes {page.key} VOTES.json ...")


def _system(word: str) -> tuple[str, Path]:
    name, separator, folder = word.partition("=")
    if not (name and separator and folder):
        raise DataError(f"found {word!r}, expected NAME=FOLDER, such as step-20000=outputs/run/evaluation/audio/KEY")
    return name, Path(folder)


def evaluate_votes(args: argparse.Namespace) -> None:
    from titan_speech.evaluate.votes import preference, read_study, read_votes, strengths

    study = read_study(args.key)
    by_listener = {}
    for path in args.votes:
        for vote in read_votes(path, study):
            by_listener[vote.listener, vote.trial] = vote  # a listener who saved twice: the last file counts
    found = strengths(study, list(by_listener.values()), args.seed)
    best = found[0]
    rows = [("system", "strength", "95 % interval", "votes for it", "preferred to the best")]
    for one in found:
        votes = f"{one.wins:g} of {one.num_votes}"
        rows.append(
            (one.system, f"{one.logits:.2f}", f"{one.low:.2f} to {one.high:.2f}", votes, f"{preference(one, best):.0%}")
        )
    print("\n".join(table_lines(rows, "<>>>>")))
    listeners = len({listener for listener, _ in by_listener})
    heard = f"{counted(len(by_listener), 'vote')} of {counted(listeners, 'listener')}"
    print(f"{heard}; strengths are logits (Bradley-Terry)")


COMMANDS = (
    Command(
        "evaluate",
        "listen",
        "Write a blind listening page: pairs of clips of two systems or more, and which one a listener prefers.",
        "titan-speech evaluate listen old=clips/old new=clips/new --output listening",
        evaluate_listen,
        (
            Argument(
                "systems",
                "NAME=FOLDER of wav files; clips of one prompt have one name in all folders",
                nargs="+",
                metavar="NAME=FOLDER",
            ),
            Argument("--output", "folder of the page; its key is written next to it", type=Path, required=True),
            Argument("--pairs", "most trials of each pair of systems (default: 20)", type=positive, default=20),
            Argument("--pack", "prompt pack, whose texts are shown", type=Path),
            Argument("--question", "what listeners are asked", default=QUESTION),
            Argument("--seed", "random seed of pairs, order and sides (default: 0)", type=natural, default=0),
        ),
    ),
    Command(
        "evaluate",
        "votes",
        "Rank systems by the votes of listeners, with intervals.",
        "titan-speech evaluate votes listening.KEY.json votes-*.json",
        evaluate_votes,
        (
            Argument("key", "the key that evaluate listen wrote", type=Path),
            Argument("votes", "files that listeners saved", nargs="+", type=Path),
            Argument("--seed", "random seed of the intervals (default: 0)", type=natural, default=0),
        ),
    ),
)
