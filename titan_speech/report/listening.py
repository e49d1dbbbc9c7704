"""A blind listening page: pairs of clips of two systems, and which one a listener prefers.

In: folders of wav files, one for each system, in which files of one prompt have one name. Out: a folder with index.html
and clips under random names, and next to it KEY.json, which says what was what; it is not given to listeners. The page
works from a folder or any web server, without a network; votes stay in the browser until they are saved as a file.

Pairs, order and sides are drawn from a seed. A listener hears each pair once, on a random side.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from markupsafe import Markup

from titan_speech.errors import DataError
from titan_speech.evaluate.votes import Trial
from titan_speech.report.page import render
from titan_speech.utils.files import write_atomically
from titan_speech.utils.printable import escape_on_page

MAX_WAV_BYTES = 32 << 20


@dataclass(frozen=True)
class ListeningPage:
    """What was written."""

    folder: Path
    key: Path
    num_trials: int


def write_listening_page(
    systems: Mapping[str, Path],
    output: Path,
    num_per_pair: int,
    question: str,
    texts: Mapping[str, str] | None = None,
    seed: int = 0,
) -> ListeningPage:
    """Write a page.

    Args:
        systems: folder of wav files by the name of the system; at least two.
        output: folder of the page, which must not exist.
        num_per_pair: most trials of each pair of systems.
        question: what listeners are asked.
        texts: text of a prompt by the name of its file without .wav; shown where there is one.
        seed: of pairs, order and sides.

    Raises:
        DataError: a folder has no wav file, two systems share none, or the output exists or cannot be written.
    """
    key = output.with_name(f"{output.name}.KEY.json")
    for path in (output, key):
        if path.exists():
            raise DataError(f"{path} exists already; give another --output")
    draw = random.Random(seed)  # noqa: S311  (an order, no secret)
    files = {name: _wavs(folder) for name, folder in systems.items()}
    trials = _drawn(systems, files, num_per_pair, draw)
    clips = {(system, trial.prompt) for trial in trials for system in (trial.left, trial.right)}
    names = {pair: f"{draw.getrandbits(64):016x}.wav" for pair in sorted(clips)}
    records = {f"{number:04d}": trial for number, trial in enumerate(trials, 1)}
    study = hashlib.sha256(repr((seed, sorted(systems), trials)).encode()).hexdigest()[:16]
    shown = [
        {
            "id": id_,
            "left": f"clips/{names[trial.left, trial.prompt]}",
            "right": f"clips/{names[trial.right, trial.prompt]}",
            "text": escape_on_page((texts or {}).get(trial.prompt, "")),
        }
        for id_, trial in records.items()
    ]
    partial = output.with_name(f"{output.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "clips").mkdir(parents=True)
        for (system, prompt), name in names.items():
            shutil.copyfile(files[system][prompt], partial / "clips" / name)
        write_atomically(partial / "index.html", _html(study, question, shown))
        rows = {id_: (one.prompt, one.left, one.right) for id_, one in records.items()}
        content = {"id": study, "systems": list(systems), "trials": rows}
        write_atomically(key, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        partial.rename(output)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        key.unlink(missing_ok=True)  # a page without its key, or a key without its page, is worth nothing
        raise DataError(f"the page cannot be written to {output}: {error}; give another --output") from error
    return ListeningPage(output, key, len(trials))


def _drawn(
    systems: Mapping[str, Path], files: Mapping[str, Mapping[str, Path]], num_per_pair: int, draw: random.Random
) -> list[Trial]:
    """The trials of every pair of systems, in the order in which they are heard."""
    trials: list[Trial] = []
    for one, other in combinations(systems, 2):
        shared = sorted(files[one].keys() & files[other].keys())
        if not shared:
            raise DataError(f"{systems[one]} and {systems[other]} have no file of one name; give clips of one pack")
        chosen = draw.sample(shared, min(num_per_pair, len(shared)))
        trials += [Trial(prompt, *draw.sample((one, other), 2)) for prompt in chosen]
    draw.shuffle(trials)
    return trials


def _wavs(folder: Path) -> dict[str, Path]:
    """Wav files by their name without the ending; links are left out."""
    found = {path.stem: path for path in sorted(folder.glob("*.wav")) if path.is_file() and not path.is_symlink()}
    large = next((path for path in found.values() if path.stat().st_size > MAX_WAV_BYTES), None)
    if large is not None:
        raise DataError(f"{large} has more than {MAX_WAV_BYTES >> 20} MB; give clips of single utterances")
    if not found:
        raise DataError(f"{folder} has no .wav file; give a folder of clips, such as evaluation/audio/KEY of a run")
    return found


def _html(study: str, question: str, trials: list[dict[str, str]]) -> str:
    # "<" cannot end the element that holds the data
    data = json.dumps({"study": study, "trials": trials}, ensure_ascii=False).replace("<", "\\u003c")
    escaped = Markup(data)  # noqa: S704  (above)
    return render("listening.html.j2", "listening.js", question=question, data=escaped)
