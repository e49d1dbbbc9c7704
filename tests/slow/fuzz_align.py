"""Fuzz targets of alignment: journals of answers and steps, stores of pairs, what a scorer says, requests for rewards.

In: a small store of prompts, answers and steps, written once by the code that writes them. Out: for each case a damaged
copy, and the code that continues the job, reads its pairs or answers the request.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from tests.align.random_policy import RandomPolicy
from tests.report.test_alignment import write_job
from tests.slow.fuzz_evaluation import damage_json
from tests.slow.fuzz_mutate import json_bytes, mutated_bytes, mutated_json, mutated_lines
from tests.support.plan_samples import make_world
from titan_speech.align.answers import checked_scores
from titan_speech.align.grpo import prepare
from titan_speech.align.job_files import METRICS_NAME, SETTINGS_NAME, append_step, cut_steps, read_steps
from titan_speech.align.journal import read_lines
from titan_speech.align.pairs import PairSettings, make_pairs
from titan_speech.align.prompts import PromptFilter, read_prompts
from titan_speech.align.rewards import Term
from titan_speech.align.scorers import MeasuresScorer
from titan_speech.align.trl_training import GRPOSettings, read_breaches
from titan_speech.cli.main import main
from titan_speech.codec.load import load_codec
from titan_speech.config.schema import SpeechConfig
from titan_speech.config.schema_data import DataConfig, SourceConfig
from titan_speech.config.schema_training import PreferenceConfig, TokenizerConfig, TrainingConfig
from titan_speech.data.plan import DataPlan
from titan_speech.evaluate.reward import RewardFunction
from titan_speech.evaluate.reward_server import RewardServer, _Handler
from titan_speech.evaluate.scorers.measures import CodeScorer, SoundScorer
from titan_speech.generate.sampling import Decoding
from titan_speech.hf.expand import Expansion
from titan_speech.hf.model_card import ModelRecord
from titan_speech.model.exported_files import CARD_NAME, CONFIG_NAME
from titan_speech.store.manifest import MANIFEST_NAME, content_fingerprint
from titan_speech.tokenization.text_tokenizer import TextTokenizer

DECODING = Decoding(temperature=1.0, max_codes=20)
TERMS = (Term("num_codes", 1.0),)


def damage_lines(rng: random.Random, path: Path) -> None:
    """A journal: line by line, or its bytes."""
    data = path.read_bytes()
    path.write_bytes(mutated_lines(rng, data) if rng.random() < 0.8 else mutated_bytes(rng, data))


class AnswersTarget:
    """The answers and settings of `align pairs`, and the store of pairs as training reads it."""

    name = "answers"

    def prepare(self, seed: Path) -> None:
        world = make_world(seed, num_samples=3)
        self._make_pairs(seed)
        assert world.store == seed / "store"

    def _make_pairs(self, case: Path) -> None:
        tokenizer = TextTokenizer.load(case / "tokenizer")
        found = read_prompts(str(case / "store"), PromptFilter(limit=9), tokenizer)
        settings = PairSettings(case / "pairs", 3, DECODING, TERMS, 0.5, "native")
        policy = RandomPolicy(tokenizer)
        print("\n".join(make_pairs(policy, found, MeasuresScorer(policy.grammar), settings).lines()))

    def damage(self, rng: random.Random, case: Path) -> None:
        answers = case / "pairs.answers"
        kind = rng.randrange(8)
        if kind < 4:
            damage_lines(rng, answers / "answers.jsonl")
        elif kind == 4:
            damage_json(rng, answers / "settings.json")
        elif kind == 5:
            damage_json(rng, case / "pairs" / MANIFEST_NAME, _seal)
        else:
            self._damage_store(rng, case / "pairs")
        if kind < 5:
            shutil.rmtree(case / "pairs")

    def _damage_store(self, rng: random.Random, store: Path) -> None:
        manifest = json.loads((store / MANIFEST_NAME).read_text())
        files = [file for part in manifest["parts"] for shard in part["shards"] for file in shard["files"]]
        for file in rng.sample(files, 1):
            data = mutated_bytes(rng, (store / file["path"]).read_bytes())
            (store / file["path"]).write_bytes(data)
            file.update(num_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
            manifest["xxh3_128"].pop(file["path"], None)
        _seal(manifest)
        (store / MANIFEST_NAME).write_text(json.dumps(manifest))

    def read(self, rng: random.Random, case: Path) -> None:
        if not (case / "pairs").exists():
            self._make_pairs(case)
        main(["store", "verify", str(case / "pairs"), "--workers", "1"])
        source = SourceConfig(name="pairs", store=str(case / "pairs"), task="preference", share=1.0, train_on="target")
        config = SpeechConfig(
            tokenizer=TokenizerConfig(path=str(case / "tokenizer")),
            data=DataConfig(source=(source,)),
            training=TrainingConfig(seq_len=64, global_batch_tokens=512, target_tokens=4096),
            preference=PreferenceConfig(loss="dpo"),
        )
        for stream in DataPlan.load(config).streams:
            for documents in stream.documents:
                for number in range(documents.num_documents):
                    documents.document(number)


def _seal(manifest: Any) -> None:
    manifest["fingerprint"] = content_fingerprint(manifest)


class StepsTarget:
    """The folders of a job of `align grpo` and of its model, until TRL's first step, after its last, and as a page."""

    name = "grpo"

    def prepare(self, seed: Path) -> None:
        make_world(seed, num_samples=2)
        model = seed / "model"
        model.mkdir()
        (model / CONFIG_NAME).write_text(json.dumps({"max_position_embeddings": 512}))
        (model / CARD_NAME).write_text("# A model\n")
        ModelRecord(7, "v" * 16, "g" * 16, ("c" * 16,), "w" * 16).write(model)
        Expansion("base", "0" * 64, 400, 66_000, "mean", 1.0, 0, "v" * 16).write(model)
        work = write_job(seed / "grpo.work")
        (work / SETTINGS_NAME).unlink()
        with contextlib.chdir(seed):
            self._prepare(seed)
        for step in range(3, 6):
            append_step(work, step, {"reward": 0.1 * step, "loop": 0.0})

    def _prepare(self, case: Path) -> None:
        tokenizer = TextTokenizer.load(case / "tokenizer")
        found = read_prompts(str(case / "store"), PromptFilter(limit=2), tokenizer)
        settings = GRPOSettings(
            model=Path("model"),  # recorded: not that of one case
            output=Path("grpo"),
            num_steps=6,
            num_answers=2,
            prompts_per_step=1,
            lr=1e-6,
            beta=0.0,
            temperature=1.0,
            top_k=50,
            max_codes=8,
            save_every=2,
            seed=0,
            terms=TERMS,
            stop={"repeats": 0.5},
            stop_below={},
            transcript="native",
        )
        settings.work.mkdir(exist_ok=True)
        prepare(found, tokenizer, MeasuresScorer(RandomPolicy(tokenizer).grammar), settings)

    def damage(self, rng: random.Random, case: Path) -> None:
        work, model = case / "grpo.work", case / "model"
        kind = rng.randrange(4)
        if kind == 0:
            damage_lines(rng, work / METRICS_NAME)
        elif kind < 3:
            damage_json(rng, rng.choice(sorted(work.rglob("*.json"))))
        else:
            path = rng.choice(sorted(model.iterdir()))
            if path.suffix == ".json":
                damage_json(rng, path)
            else:
                path.write_bytes(mutated_bytes(rng, path.read_bytes()))

    def read(self, rng: random.Random, case: Path) -> None:
        work = case / "grpo.work"
        main(["report", str(work), "--output", str(case / "page.html")])
        print(read_breaches(work))
        if rng.random() < 0.7:
            cut_steps(work, 3)
            append_step(work, 4, {"reward": 0.5})
        print(read_steps(work)[-1:])
        with contextlib.chdir(case):
            self._prepare(case)


class ScoresTarget:
    """Lines of a scorer: what CommandScorer makes of them."""

    name = "scores"

    def prepare(self, seed: Path) -> None:
        scores = [{"scores": [{"mos": 3.5, "cer": 0.1}, {"mos": 2}]}] * 3
        (seed / "scores.jsonl").write_text("".join(json.dumps(one) + "\n" for one in scores))

    def damage(self, rng: random.Random, case: Path) -> None:
        damage_lines(rng, case / "scores.jsonl")

    def read(self, rng: random.Random, case: Path) -> None:
        for _, record in read_lines(case / "scores.jsonl"):
            found = record.get("scores") if isinstance(record, dict) else None
            for one in found if isinstance(found, list) else ():
                with contextlib.suppress(TypeError, ValueError):
                    sum(checked_scores(one).values())


class RewardTarget:
    """Requests to the reward server, whole: request line, headers and body."""

    name = "reward"

    def prepare(self, seed: Path) -> None:
        prompts = [
            {"text": "Please hold the line.", "language": "en", "voice_codes": [1, 2, 3] * 9},
            {"text": "नमस्ते", "language": "hi"},
        ]
        content = {"prompts": prompts, "completions": [[5] * 30, [7, 8, 9] * 10], "stopped": [True, False]}
        body = json.dumps(content).encode()
        (seed / "body").write_bytes(body)
        (seed / "request").write_bytes(_request(body))
        self.server = RewardServer(RewardFunction(load_codec("embedded"), [CodeScorer(), SoundScorer()]))

    def damage(self, rng: random.Random, case: Path) -> None:
        body = (case / "body").read_bytes()
        if rng.random() < 0.8:
            body = json_bytes(rng, mutated_json(rng, json.loads(body)))
        elif rng.random() < 0.5:
            body = mutated_bytes(rng, body)
        request = _request(body)
        (case / "request").write_bytes(mutated_bytes(rng, request) if rng.random() < 0.1 else request)

    def read(self, rng: random.Random, case: Path) -> None:
        connection: Any = _Connection((case / "request").read_bytes())
        _Handler(connection, ("127.0.0.1", 1), self.server)
        head, _, body = bytes(connection.sent).partition(b"\r\n\r\n")
        if head.startswith(b"HTTP/") and b"application/json" in head:
            assert head.split()[1] in (b"200", b"400"), head
            answer = json.loads(body, parse_constant=lambda name: _fail(f"{name} in an answer"))
            assert set(answer) in ({"rewards"}, {"error"})
            print(answer.get("error", ""))


def _fail(what: str) -> None:
    raise AssertionError(what)


def _request(body: bytes) -> bytes:
    head = f"POST /score HTTP/1.1\r\nHost: 127.0.0.1:1\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class _Connection:
    """A socket whose other side has said everything at once."""

    def __init__(self, received: bytes) -> None:
        self.received, self.sent = received, bytearray()

    def makefile(self, *_: object) -> io.BytesIO:
        return io.BytesIO(self.received)

    def sendall(self, data: bytes) -> None:
        self.sent += data

    def settimeout(self, seconds: float) -> None:
        """There is nothing to wait for."""


class ListingTarget:
    """Trust tables, accepted spellings, and lists of prompts in every layout."""

    name = "listing"

    def prepare(self, seed: Path) -> None:
        from titan_speech.codec.wav import wav_bytes
        from titan_speech.evaluate.clip import SAMPLE_RATE
        from titan_speech.evaluate.trust import TrustBounds, TrustRow, TrustTable

        tone_T = 0.1 * np.sin(np.arange(SAMPLE_RATE // 4) / 20).astype(np.float32)
        rows = tuple(
            TrustRow(language, "whisper", "1", 20, 0.1, 0.05, 0.12, 0.2, 0.3, 1.0, 1.0, 0.1, reasons)
            for language, reasons in (("en", ()), ("hi", ("CER up to 40 %",)))
        )
        TrustTable(TrustBounds(), rows, "1", "a pack").write(seed / "trust.json")
        (seed / "spellings.tsv").write_text("en\tcolor\tcolour\nen\tweb site\twebsite\n# more\nhi\tएक\tयेक\n")
        for folder in ("voices", "minimax/text", "minimax/speaker/english/anna"):
            (seed / folder).mkdir(parents=True)
        for path in (seed / "voices" / "a.wav", seed / "minimax/speaker/english/anna/anna.wav"):
            path.write_bytes(wav_bytes(tone_T, SAMPLE_RATE))
        (seed / "meta.lst").write_text("one|Hello.|voices/a.wav|Goodbye.\ntwo|Hello.|voices/a.wav|Yes.|voices/a.wav\n")
        (seed / "minimax/text/english.txt").write_text("anna|Hello there.\nanna|Goodbye.\n")
        (seed / "minimax/speaker/prompt_text.txt").write_text("anna.wav|What she says.\n")
        prompt = {"text": "Hello.", "language": "en", "subset": "x", "voice": "voices/a.wav", "voice_text": "Hi."}
        (seed / "prompts.jsonl").write_text(2 * (json.dumps(prompt) + "\n"))
        row = {"text_to_synthesize": "Really?", "category": "Questions", "language": "en", "unique_id_eval": 3}
        (seed / "emergent.jsonl").write_text(2 * (json.dumps(row) + "\n"))
        (seed / "hi.numbers.txt").write_text("एक दो तीन\nचार\n")

    def damage(self, rng: random.Random, case: Path) -> None:
        path = rng.choice([*sorted(path for path in case.rglob("*") if path.is_file()), *[case / "trust.json"] * 4])
        if path.suffix == ".json":
            damage_json(rng, path)
        elif path.suffix == ".jsonl":
            path.write_bytes(mutated_lines(rng, path.read_bytes()))
        else:
            path.write_bytes(mutated_bytes(rng, path.read_bytes()))

    def read(self, rng: random.Random, case: Path) -> None:
        from titan_speech.evaluate.normalization.lattice import read_spellings
        from titan_speech.evaluate.normalization.scoring import DEFAULT_RULES
        from titan_speech.evaluate.trust import read_trust_table

        words = ["evaluate", "pack", "--canaries", "1"]
        for number, more in enumerate(
            (
                ["--text", str(case / "prompts.jsonl"), str(case / "hi.numbers.txt")],
                ["--layout", "seed-tts", "--from", str(case / "meta.lst"), "--language", "en"],
                ["--layout", "minimax", "--from", str(case / "minimax")],
                ["--layout", "emergent", "--from", str(case / "emergent.jsonl")],
            )
        ):
            main([*words, *more, "--output", str(case / f"pack-{number}")])
        read_spellings(case / "spellings.tsv", DEFAULT_RULES).slots(("web", "site"), "en")
        table = read_trust_table(case / "trust.json")
        for language in ("en", "hi", "ta"):
            table.chosen(language, {"whisper": "1"})
        print("\n".join(table.lines()), table, table.as_rows())


TARGETS = (AnswersTarget(), StepsTarget(), ScoresTarget(), RewardTarget(), ListingTarget())
