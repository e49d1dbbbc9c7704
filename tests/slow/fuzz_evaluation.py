"""Fuzz targets of evaluation: prompt packs and listings of clips; results, votes and the claims of other workers.

In: a small pack and small results, written once by the code that writes them. Out: for each case a damaged copy, in
most cases with a hash that fits again, since whoever writes a pack can compute it too; and the commands that read it.
"""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.report.run_folders import write_run
from tests.slow.fuzz_mutate import json_bytes, mutated_bytes, mutated_json, mutated_lines
from titan_speech.cli.main import main
from titan_speech.codec.load import load_codec
from titan_speech.codec.wav import wav_bytes
from titan_speech.config.schema_data import StorageConfig
from titan_speech.errors import TitanSpeechError
from titan_speech.evaluate.clip import SAMPLE_RATE, Score, Sound
from titan_speech.evaluate.prompt_packs.prompt_pack import (
    PACK_NAME,
    Prompt,
    PromptPack,
    read_pack,
    write_pack,
    write_sound,
)
from titan_speech.evaluate.result import Result, ResultKey, ScoredClip, claim_path, result_path
from titan_speech.evaluate.watch.claims import Claim, WorkQueue, do_once
from titan_speech.model.exported_files import EVALUATION_FOLDER
from titan_speech.storage.shared_files import shared_folder


def damage_json(rng: random.Random, path: Path, repair: Callable[[Any], None] = lambda content: None) -> None:
    """Change a JSON file: its values, or its bytes.

    Args:
        rng: of the case.
        path: of the file.
        repair: makes checksums inside fit again, where the content still has them.
    """
    if rng.random() < 0.2:
        path.write_bytes(mutated_bytes(rng, path.read_bytes()))
        return
    content = mutated_json(rng, json.loads(path.read_text()))
    if rng.random() < 0.9:
        with contextlib.suppress(Exception):  # what is no pack any more has no hash
            repair(content)
    path.write_bytes(json_bytes(rng, content))


class PackTarget:
    """A prompt pack with a wav and codes, and a listing of clips."""

    name = "pack"

    def prepare(self, seed: Path) -> None:
        tone_T = 0.1 * np.sin(np.arange(SAMPLE_RATE) / 20).astype(np.float32)
        folder = seed / "pack"
        voice = write_sound(folder, "voices/one", Sound(tone_T, np.arange(50, dtype=np.uint16)))
        prompts = (
            Prompt("one", "en", "Please hold the line.", sets=("canary", "full"), recording=voice),
            Prompt("two", "hi", "नमस्ते", subset="short", voice=voice, voice_text="One, two."),
        )
        write_pack(folder, PromptPack("lines", prompts, codec_hash=load_codec("embedded").codec_hash))
        (seed / "wavs").mkdir()
        for name in ("one", "two"):
            (seed / "wavs" / f"{name}.wav").write_bytes(wav_bytes(tone_T, SAMPLE_RATE))
        rows = [
            {"prompt_id": name, "language": "en", "text": "Hello.", "wav": f"wavs/{name}.wav"}
            for name in ("one", "two")
        ]
        (seed / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def damage(self, rng: random.Random, case: Path) -> None:
        kind = rng.randrange(4)
        if kind == 0:
            listing = case / "clips.jsonl"
            listing.write_bytes(mutated_lines(rng, listing.read_bytes()))
        elif kind == 1:
            path = rng.choice(sorted((case / "pack" / "voices").iterdir()) + sorted((case / "wavs").iterdir()))
            path.write_bytes(mutated_bytes(rng, path.read_bytes()))
        else:
            damage_json(rng, case / "pack" / PACK_NAME, lambda content: self._repair(case, content))

    def _repair(self, case: Path, content: Any) -> None:
        """The hash that the reader finds."""
        path = case / "pack" / PACK_NAME
        path.write_text(json.dumps(content))
        try:
            read_pack(case / "pack")
        except TitanSpeechError as error:
            found = str(error).partition("its content gives ")[2]
            if found:
                content["hash"] = found[:16]

    def read(self, rng: random.Random, case: Path) -> None:
        words = ["evaluate", "clips"]
        if rng.random() < 0.3:
            main([*words, str(case / "clips.jsonl"), "--output", str(case / "out.json")])
            return
        pack, wavs = str(case / "pack"), str(case / "wavs")
        main([*words, "--pack", pack, "--wavs", wavs, "--output", str(case / "out.json")])


class ResultTarget:
    """Results, a claim and votes, as other workers and listeners write them."""

    name = "result"

    def prepare(self, seed: Path) -> None:
        run = write_run(seed / "run", steps=4)
        for step in (2, 4):
            clips = tuple(
                ScoredClip(
                    f"p{number}",
                    "en",
                    "",
                    0,
                    {"cer": Score(0.1 * number, 5.0, detail="heard"), "x": Score.missing("no")},
                )
                for number in range(6)
            )
            key = ResultKey(f"weights of {step}", "pack-full", {"seed": 0.0}, {"asr": "1"})
            result = Result(key, clips, step, f"step {step}")
            result.write(run / EVALUATION_FOLDER / result_path(key.id))
            result.write(seed / f"{step}.json")
        claim = run / EVALUATION_FOLDER / claim_path("k")
        claim.parent.mkdir()
        claim.write_bytes(Claim("worker", "token").to_json())
        study = {"id": "s", "systems": ["a", "b"], "trials": {"1": ["p", "a", "b"], "2": ["q", "b", "a"]}}
        (seed / "key.json").write_text(json.dumps(study))
        (seed / "votes.json").write_text(
            json.dumps({"study": "s", "listener": "x", "votes": {"1": "left", "2": "tie"}})
        )

    def damage(self, rng: random.Random, case: Path) -> None:
        files = sorted(path for path in case.rglob("*.json") if path.is_file())
        for path in rng.sample(files, rng.choice((1, 1, 2))):
            damage_json(rng, path)

    def read(self, rng: random.Random, case: Path) -> None:
        main(["evaluate", "compare", str(case / "2.json"), str(case / "4.json")])
        main(["evaluate", "votes", str(case / "key.json"), str(case / "votes.json")])
        main(["report", str(case / "run"), "--output", str(case / "page.html")])
        queue = WorkQueue(shared_folder(case / "run" / EVALUATION_FOLDER, StorageConfig()), "me", 0.0, 1.0)
        for _ in range(2):
            do_once(queue, "k", dict)
        for key in queue.done():
            with contextlib.suppress(TitanSpeechError):
                queue.result(key)


TARGETS = (PackTarget(), ResultTarget())
