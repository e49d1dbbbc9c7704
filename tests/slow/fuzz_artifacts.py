"""Fuzz targets that read what this project or another trainer wrote: stores, checkpoints, models, configurations; and
text that becomes prompts.

In: small valid artifacts, written once. Out: for each case a damaged copy, in most cases with checksums and
fingerprints that fit again, since whoever writes an artifact can compute them too; and the commands that read it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import shutil
import tarfile
from pathlib import Path

import numpy as np

from tests.slow.fuzz_inputs import write_lines
from tests.slow.fuzz_mutate import OUTSIDE, json_bytes, mutated_bytes, mutated_json, random_text
from tests.support.runs import ROOT
from tests.support.store_samples import SENTENCES, write_store, write_tokenizer
from titan_speech.cli.main import main
from titan_speech.store.manifest import MANIFEST_NAME, content_fingerprint
from titan_speech.tokenization.text_tokenizer import TextTokenizer

OLD = ROOT / "tests" / "assets" / "revision_3905444.tar.xz"


class StoreTarget:
    """A token store: its manifest, or a sidecar or token file with a manifest that fits it."""

    name = "store"

    def prepare(self, seed: Path) -> None:
        tokenizer = TextTokenizer.load(write_tokenizer(seed / "tokenizer"))
        write_store(seed / "store", tokenizer, num_samples=4, shard_bytes=1 << 20)

    def damage(self, rng: random.Random, case: Path) -> None:
        store = case / "store"
        manifest = json.loads((store / MANIFEST_NAME).read_text())
        if rng.random() < 0.5:
            files = [f for part in manifest["parts"] for shard in part["shards"] for f in shard["files"]]
            for file in rng.sample(files, rng.choice((1, 1, 3))):
                path = store / file["path"]
                data = mutated_bytes(rng, path.read_bytes())
                path.write_bytes(data)
                file.update(num_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
                manifest["xxh3_128"].pop(file["path"], None)
        else:
            manifest = mutated_json(rng, manifest)
        if rng.random() < 0.9 and isinstance(manifest, dict):
            with contextlib.suppress(ValueError, RecursionError):  # lone surrogates have no fingerprint
                manifest["fingerprint"] = content_fingerprint(manifest)
        text = json_bytes(rng, manifest)
        (store / MANIFEST_NAME).write_bytes(mutated_bytes(rng, text) if rng.random() < 0.1 else text)

    def read(self, rng: random.Random, case: Path) -> None:
        store, out = str(case / "store"), str(case / "out")
        main(["store", "describe", store])
        main(["store", "verify", store, "--workers", "1"])
        kind = rng.random()
        if kind < 0.3:
            main(["store", "merge", store, "--output", out, "--workers", "1"])
        elif kind < 0.5:
            main(["store", "audit", store, "--output", out, "--listen", "0", "--samples", "50"])
        elif kind < 0.7:
            main(["store", "migrate", store, "--output", out, "--workers", "1", "--normalization"])
        elif kind < 0.9:
            main(["store", "held-out", store, "--output", out, "--num-ce", "2", "--num-decode", "1"])


class CheckpointTarget:
    """A checkpoint: its marker, DCP's index, provenance, phases, its run's configuration."""

    name = "checkpoint"

    def prepare(self, seed: Path) -> None:
        import torch
        import torch.distributed.checkpoint as dcp

        from titan_speech.checkpoint.verify import write_marker

        with tarfile.open(OLD) as archive:
            archive.extractall(seed, filter="data")
        for name in ("initial", "store", "expected.json"):
            shutil.rmtree(seed / name, ignore_errors=True)
        step = seed / "run" / "checkpoint" / "step-2"
        shutil.rmtree(step)
        state = {"weight": torch.zeros(4, 4), "step": 2, "name": "text", "list": [1, 2.5]}
        dcp.save(state, checkpoint_id=str(step), no_dist=True)
        write_marker(step)

    def damage(self, rng: random.Random, case: Path) -> None:
        run = case / "run"
        step = run / "checkpoint" / "step-2"
        files = [*run.rglob("*.json"), *(step / ".metadata",) * 4, *step.glob("*.distcp"), run / "config.toml"]
        path = rng.choice(files)
        data = path.read_bytes()
        if path.suffix == ".json" and rng.random() < 0.9:
            if path.parent.name == "data_phases" and rng.random() < 0.5:
                _chain_phases(rng, path)
                return
            path.write_bytes(json_bytes(rng, mutated_json(rng, json.loads(data))))
        else:
            path.write_bytes(mutated_bytes(rng, data))
        marker = step / "commit.json"
        if path != marker and rng.random() < 0.9:
            _seal(marker, path)

    def read(self, rng: random.Random, case: Path) -> None:
        import torch
        from torch.distributed.checkpoint.api import CheckpointException

        from titan_speech.checkpoint.dcp_reader import SafeFileSystemReader, load_into
        from titan_speech.errors import CheckpointError

        run = case / "run"
        step = run / "checkpoint" / "step-2"
        main(["checkpoint", "list", str(run)])
        main(["checkpoint", "verify", str(run)])
        main(["checkpoint", "inspect", str(step)])
        main(["data", "phases", str(run)])
        main(["checkpoint", "diff", str(step), str(step)])
        state = {"weight": torch.zeros(4, 4), "step": 0, "name": ""}
        try:
            load_into(state, SafeFileSystemReader(step), no_dist=True)
        except CheckpointError:
            pass
        except (
            Exception,
            CheckpointException,
        ) as error:  # of many types; its callers call all of them damage
            if isinstance(error, MemoryError):
                raise


def _chain_phases(rng: random.Random, path: Path) -> None:
    """A phase whose parent is a file of the writer's choice, with a fingerprint that fits."""
    from titan_speech.data.phases import Phase, StreamRecord

    folder = path.parent
    phase = json.loads(next(file for file in folder.iterdir() if not file.name.startswith("step")).read_text())
    parent = rng.choice(("aaaaaaaaaaaaaaaa", "../../x", OUTSIDE, "0" * 16))
    streams = {name: tuple(map(StreamRecord.from_dict, phase[name])) for name in ("streams", "retired")}
    made = Phase(**{**phase, **streams, "parent": parent}).with_fingerprint()
    (folder / "aaaaaaaaaaaaaaaa.json").write_text(made.to_json())
    for record in folder.glob("step-*.json"):
        record.write_text(json.dumps({"step": 2, "phase": "aaaaaaaaaaaaaaaa", "label": "start"}))


def _seal(marker: Path, path: Path) -> None:
    """Sizes and checksums of the marker fit the changed file."""
    content = json.loads(marker.read_text())
    data = path.read_bytes()
    for file in content["files"]:
        if (marker.parent / file["name"]).resolve() == path or (marker.parent.parent / file["name"]) == path:
            file.update({key: len(data) for key in file if key in ("size", "num_bytes")})
            file.update({key: hashlib.sha256(data).hexdigest() for key in file if key == "sha256"})
    marker.write_text(json.dumps(content))


class ModelTarget:
    """A Hugging Face folder: configuration, index of shards, headers of safetensors, tokenizer."""

    name = "model"

    def prepare(self, seed: Path) -> None:
        from safetensors.numpy import load_file, save_file

        with tarfile.open(OLD) as archive:
            archive.extractall(seed, filter="data")
        for name in ("run", "store"):
            shutil.rmtree(seed / name)
        (seed / "expected.json").unlink()
        folder = seed / "initial"
        tensors = load_file(folder / "model.safetensors")
        names = sorted(tensors)
        shards = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
        for file, some in shards.items():
            save_file({name: np.ascontiguousarray(tensors[name]) for name in some}, folder / file)
        weight_map = {name: file for file, some in shards.items() for name in some}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        (folder / "model.safetensors").unlink()

    def damage(self, rng: random.Random, case: Path) -> None:
        path = rng.choice(sorted((case / "initial").iterdir()))
        data = path.read_bytes()
        if path.suffix == ".safetensors" and rng.random() < 0.8:
            length = int.from_bytes(data[:8], "little")
            header = json_bytes(rng, mutated_json(rng, json.loads(data[8 : 8 + length])))
            path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])
        elif path.suffix == ".json" and rng.random() < 0.9:
            path.write_bytes(json_bytes(rng, mutated_json(rng, json.loads(data))))
        else:
            path.write_bytes(mutated_bytes(rng, data))

    def read(self, rng: random.Random, case: Path) -> None:
        from titan_speech.errors import TitanSpeechError
        from titan_speech.hf.expand import ExtendableBackbone
        from titan_speech.hf.model_folder import HFFolder

        folder = case / "initial"
        for open_it in (HFFolder.open, ExtendableBackbone.open, TextTokenizer.load):
            try:
                opened = open_it(folder)
                if isinstance(opened, HFFolder):
                    for name in opened.files:
                        opened.tensor(name)
            except TitanSpeechError:
                pass
        if rng.random() < 0.1:
            main(["model", "expand", "--from", str(folder), "--output", str(case / "out")])
        if rng.random() < 0.2:
            main(["model", "convert", "--from", str(folder), "--layout", "inworld", "--output", str(case / "out2")])


class ConfigTarget:
    """A configuration in TOML, and overrides of the command line."""

    name = "config"

    def prepare(self, seed: Path) -> None:
        for path in sorted((ROOT / "train_configs").glob("*.toml")):
            shutil.copy(path, seed)

    def damage(self, rng: random.Random, case: Path) -> None:
        path = rng.choice(sorted(case.glob("*.toml")))
        lines = path.read_text().splitlines()
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(lines))
            key, equals, value = lines[at].partition("=")
            kind = rng.randrange(6)
            if equals and kind < 4:
                values = (
                    "-1",
                    "1e400",
                    "nan",
                    "9" * 400,
                    "[]",
                    "{}",
                    "[[[[]]]]",
                    "true",
                    '"\\u001b[2J"',
                )
                lines[at] = f"{key}= {rng.choice((*values, value + value))}"
            elif kind == 4:
                lines.insert(at, rng.choice(("[job]", "[[data.source]]", "a.b.c = 1", "include = 'a.toml'", lines[at])))
            else:
                del lines[at]
        text = "\n".join(lines).encode()
        (case / "run.toml").write_bytes(mutated_bytes(rng, text) if rng.random() < 0.3 else text)

    def read(self, rng: random.Random, case: Path) -> None:
        words = ["--job.config_file", str(case / "run.toml")]
        if rng.random() < 0.3:
            value = rng.choice(("[", "{a = 1}", "nan", "9" * 5000, '"', "[[[" * 2000, "1e999", "\udcff"))
            words += [rng.choice(("--training.seq_len", "--optimizer.lr", "--data.source", "--job.nope")), value]
        main(["config", "check", *words])


class TextTarget:
    """Text of documents and prompts: markup, normalization, tokens that spell control tokens, text preparation."""

    name = "text"
    PIECES = (
        "<|speech_start|>", "<|s_65535|>", "<|end_of_text|>", "<bos>", "<p>", "</div>", "<!--", "<script>", "&#x1b;",
        "&amp;", "```\n", "~~~", "| a | b |\n", "a.", "a@", "http://", "](", "[", "(", "<", "\n", "\t", " ", ".com",
        "user@host.org", "//", "x = [1];\n", "\u0905\u093e", "\u094d\u200d", "\u0d23\u0d4d\u200d", "\u0964", "e\u0301",
        "\ufb01", "\u00c3\u00a9", "\u200b", "\ud83d", "\x1b[2J", "\u202e", "!!!!", "\u3000", "\u1161", "\u0300",
    )  # fmt: skip

    def prepare(self, seed: Path) -> None:
        write_tokenizer(seed / "tokenizer")
        self._tokenizer = TextTokenizer.load(seed / "tokenizer")
        write_lines(seed / "in" / "a.jsonl", [{"id": "a", "text": SENTENCES[0], "language": "en"}])

    def damage(self, rng: random.Random, case: Path) -> None:
        lines = [
            json.dumps(
                {"id": str(i), "text": random_text(rng, self.PIECES), "language": rng.choice(("en", "hi", "ml"))}
            )
            for i in range(4)
        ]
        (case / "in" / "a.jsonl").write_text("\n".join(lines) + "\n")

    def read(self, rng: random.Random, case: Path) -> None:
        from titan_speech.importers.markup import strip_markup
        from titan_speech.tokenization.normalize import normalize
        from titan_speech.tokenization.prompt_template import Grammar, Parts, Task

        vocabulary = self._tokenizer.vocabulary()
        for line in (case / "in" / "a.jsonl").read_text().splitlines():
            row = json.loads(line)
            text = row["text"].encode("utf-8", "ignore").decode()
            strip_markup(text)
            once = normalize(text, row["language"])
            assert normalize(once, row["language"]) == once, "normalization is not a fixed point"
            ids = np.array(self._tokenizer.encode(text), np.uint32)
            prefix = Grammar(vocabulary).prefix(Task.TTS, Parts(text_ids=ids))
            assert (ids < vocabulary.num_base).all()
            assert not np.isin(ids, [vocabulary.bos_id, vocabulary.eos_id]).any(), "text became a control token"
            assert len(prefix) == len(ids) + 4
        words = ["--from", "text-jsonl", "--input", str(case / "in"), "--output", str(case / "out"), "--source", "s"]
        main(["text", "prepare", *words, "--tokenizer", str(case / "tokenizer"), "--licence", "CC0-1.0"])


TARGETS = (StoreTarget(), CheckpointTarget(), ModelTarget(), ConfigTarget(), TextTarget())
