"""`text prepare`: duplicates are removed, counts add up, and any number of workers gives the same output."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from titan_speech.cli.main import main
from titan_speech.errors import DataError
from titan_speech.importers.base import ImportOptions, open_importer
from titan_speech.store.manifest_reader import read_manifest
from titan_speech.text_preparation import pipeline as prepare_module
from titan_speech.text_preparation.duplicates import first_exact, sign
from titan_speech.text_preparation.job import Job, Source, WorkFolder, prepared_version, read_job_file
from titan_speech.text_preparation.pipeline import prepare
from titan_speech.text_preparation.rules import DocumentRules, parse_rules
from titan_speech.text_preparation.workers import clean_unit
from titan_speech.tokenization.normalize import normalization_version

TOKENIZER = Path(__file__).parents[2] / "tokenizer/tiny"
DOCUMENTS = [json.loads(line) for line in (Path(__file__).parents[1] / "assets/documents.jsonl").open(encoding="utf-8")]
LONG = " ".join(f"Sentence number {i} of a long English story ends here." for i in range(40))


def write(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def with_faults(rows: list[dict]) -> list[dict]:
    """The documents, and one more for each rule."""
    english, hindi = rows[0], next(row for row in rows if row["language"] == "hi")
    words = english["text"].split()
    near = " ".join([*words[:-1], "different"]) + " " + rows[1]["text"] + " " + rows[2]["text"]
    whole = " ".join(words) + " " + rows[1]["text"] + " " + rows[2]["text"]
    return [
        *rows,
        {"id": "exact", "language": "hi", "text": hindi["text"].replace(" ", "  ") + " !"},
        {"id": "long", "language": "en", "text": whole},
        {"id": "near", "language": "en", "text": near},
        {"id": "empty", "language": "en", "text": " "},
        {"id": "short", "language": "en", "text": "A short one."},
        {"id": "tag", "language": "mr", "text": hindi["text"] + " " + hindi["text"][::-1][:0]},
        {"id": "script", "language": "ta", "text": hindi["text"]},
        {"id": "digits", "language": "en", "text": "12.5 7/8 99 - " * 20},
        {"id": "lines", "language": "en", "text": "The same line again and again.\n" * 9},
        {"id": "damaged", "language": "en", "text": english["text"] + "\ufffd" * 9},
        {"id": "tangled", "language": "en", "text": "<div>" * 5_000 + english["text"]},
    ]


EXPECTED_REJECTIONS = {
    "exact_duplicate": 1, "near_duplicate": 1, "empty": 1, "too_short": 1, "wrong_language": 1, "wrong_script": 1,
    "few_letters": 1, "repeated_lines": 1, "damaged": 1,
    "tangled_markup": 1,
}  # fmt: skip


def source(*inputs: Path, **said: object) -> Source:
    columns = said.pop("columns", {"sample_id": "id"})
    options = ImportOptions(inputs=inputs, dataset_source="mo", columns=columns, **said)  # type: ignore[arg-type]
    return Source("text-jsonl", options, licence="MPL-2.0")


def job_of(folder: Path, rules: DocumentRules | None = None, parts: int = 3) -> Job:
    rows = with_faults(DOCUMENTS)
    for part in range(parts):
        write(folder / f"{part}.jsonl", rows[part::parts])
    return Job((source(folder),), TOKENIZER, rules or DocumentRules())


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def quiet(_: str) -> None:
    pass


def place_of(folder: Path, name: str) -> str:
    """Where `job_of` put the document of this id."""
    index = [row["id"] for row in with_faults(DOCUMENTS)].index(name)
    return f"{folder}/{index % 3}.jsonl, line {index // 3 + 1}"


def test_each_rule_rejects_its_document_and_counts_add_up(tmp_path: Path) -> None:
    prepare(job_of(tmp_path / "in"), tmp_path / "out", log=quiet)
    report = json.loads((tmp_path / "out/report.json").read_text(encoding="utf-8"))
    assert report["dropped"] == EXPECTED_REJECTIONS
    assert report["met"] == len(DOCUMENTS) + len(EXPECTED_REJECTIONS) + 1
    assert report["kept"] + sum(report["dropped"].values()) == report["met"]
    for counts in report["languages"].values():
        assert counts["kept"] + sum(counts["dropped"].values()) == counts["met"]
    assert report["sources"] == [
        {"source": "mo", "licence": "MPL-2.0", "met": report["met"], "kept": report["kept"], "tokens": report["tokens"]}
    ]
    assert all(len(report["examples"][rule]) == 1 for rule in EXPECTED_REJECTIONS)
    hindi = next(row["id"] for row in DOCUMENTS if row["language"] == "hi")
    for rule, kept in (("exact_duplicate", hindi), ("near_duplicate", "long")):
        place = place_of(tmp_path / "in", kept)
        assert report["examples"][rule][0]["found"] == f"duplicate of {kept!r} of {place}"
    text = (tmp_path / "out/report.md").read_text(encoding="utf-8")
    assert all(rule in text for rule in EXPECTED_REJECTIONS)
    assert "MPL-2.0" in text
    rows = [row for path in sorted((tmp_path / "out/documents").iterdir()) for row in pq.read_table(path).to_pylist()]
    assert {row["sample_id"] for row in rows} >= {row["id"] for row in DOCUMENTS if row["id"] != "hi-1"}
    assert sum(row["num_tokens"] for row in rows) == report["tokens"]
    assert not (tmp_path / "out.work").exists()


def test_two_workers_and_a_resumed_run_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(tmp_path / "in")
    prepare(job, tmp_path / "one", log=quiet)
    prepare(job, tmp_path / "two", workers=2, log=quiet)

    def stops_at_second(work, job, advance):
        if work.unit.name == "1.jsonl":
            raise KeyboardInterrupt
        clean_unit(work, job, advance)

    monkeypatch.setattr(prepare_module, "clean_unit", stops_at_second)
    with pytest.raises(KeyboardInterrupt):
        prepare(job, tmp_path / "three", log=quiet)
    assert not (tmp_path / "three").exists()
    monkeypatch.setattr(prepare_module, "clean_unit", clean_unit)
    messages: list[str] = []
    prepare(job, tmp_path / "three", log=messages.append)
    assert messages[0] == "resuming: 1 of 3 units are done"
    assert digests(tmp_path / "one") == digests(tmp_path / "two") == digests(tmp_path / "three")


def test_a_preparation_is_not_resumed_by_another_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stops(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "decide", stops)
        with pytest.raises(KeyboardInterrupt):
            prepare(job_of(tmp_path / "in"), tmp_path / "out", log=quiet)
    with (
        WorkFolder(tmp_path / "out", job_of(tmp_path / "in").content()),
        pytest.raises(DataError, match="another process is preparing"),
    ):
        prepare(job_of(tmp_path / "in"), tmp_path / "out", log=quiet)
    with pytest.raises(DataError, match="unfinished preparation with other rules, normalization_version"):
        prepare(job_of(tmp_path / "in", DocumentRules(min_chars=3)), tmp_path / "out", log=quiet)
    write(tmp_path / "in/0.jsonl", [{"id": "new", "language": "en", "text": LONG}])
    counts = prepare(Job((source(tmp_path / "in"),), TOKENIZER), tmp_path / "out", log=quiet)
    assert "new" in {row for row in pq.read_table(tmp_path / "out/documents")["sample_id"].to_pylist()}
    assert counts.total("met") == counts.total("kept") + counts.total("dropped")


def test_long_documents_are_rejected_or_cut_at_a_sentence(tmp_path: Path) -> None:
    write(tmp_path / "in.jsonl", [{"id": "a", "language": "en", "text": LONG}, *DOCUMENTS[:1]])
    one = source(tmp_path / "in.jsonl")
    counts = prepare(Job((one,), TOKENIZER, DocumentRules(max_tokens=200)), tmp_path / "drop", log=quiet)
    assert counts.by_name("dropped") == {"too_long": 1}
    prepare(Job((one,), TOKENIZER, DocumentRules(max_tokens=200, too_long="cut")), tmp_path / "cut", log=quiet)
    row = pq.read_table(tmp_path / "cut/documents").to_pylist()[0]
    assert LONG.startswith(row["text"])
    assert row["text"].endswith("ends here.")
    assert 170 < row["num_tokens"] <= 200


def test_near_duplicates_are_found_by_similarity() -> None:
    words = [f"word{i}" for i in np.random.default_rng(0).integers(0, 10_000, 300)]

    def agreement(changed: int) -> float:
        other = [*words[: 300 - changed], *(f"other{i}" for i in range(changed))]
        return float((sign(" ".join(words)).minhash_H == sign(" ".join(other)).minhash_H).mean())

    assert agreement(0) == 1.0
    assert agreement(15) > 0.8  # Jaccard 281 / 311 = 0.90
    assert 0.3 < agreement(120) < 0.6  # Jaccard 176 / 416 = 0.42
    assert agreement(300) < 0.05
    assert sign("One, two; THREE!").exact == sign("one two three").exact
    exact = np.array([[1, 2], [1, 3], [1, 2], [0, 0], [1, 3]], np.uint64)
    assert first_exact(exact).tolist() == [0, 1, 0, 3, 1]


def test_instructions_are_capped_as_a_share_of_tokens(tmp_path: Path) -> None:
    rows = [
        {"id": f"q{i}", "language": "en", "user": f"What is the number {i}?", "text": f"It is plainly {i}."}
        for i in range(60)
    ]
    write(tmp_path / "chat.jsonl", rows)
    both = (source(tmp_path / "chat.jsonl"), source(write(tmp_path / "mo.jsonl", DOCUMENTS)))
    rules = DocumentRules(max_instruction_share=0.05, near_duplicate=0.0)
    counts = prepare(Job(both, TOKENIZER, rules), tmp_path / "out", log=quiet)
    share = counts.total("instruction_tokens") / counts.total("tokens")
    assert 0.045 < share <= 0.05
    assert 0 < counts.by_name("dropped")["instruction_share"] < 60
    with pytest.raises(DataError, match=r"max_instruction_share = 0\.05 cannot hold"):
        prepare(Job(both[:1], TOKENIZER, rules), tmp_path / "chat", log=quiet)
    prepare(
        Job(both[:1], TOKENIZER, DocumentRules(max_instruction_share=1.0, near_duplicate=0.0)),
        tmp_path / "alone",
        log=quiet,
    )
    (unit,) = (opened := open_importer("text-prepared", ImportOptions(inputs=(tmp_path / "alone",)))).units()
    assert [(s.user, s.text) for s in opened.samples(unit)][:1] == [("What is the number 0?", "It is plainly 0.")]  # type: ignore[union-attr]


def test_quality_signals_of_redpajama_are_checked(tmp_path: Path) -> None:
    def row(name: str, words: float) -> dict:
        signals = {"rps_doc_word_count": [[0, 9, words]], "ccnet_perplexity": [[0, 9, 10.0]]}
        meta = json.dumps({"language": "en"})
        return {"doc_id": name, "raw_content": LONG + name, "meta": meta, "quality_signals": json.dumps(signals)}

    write(tmp_path / "in.jsonl", [row("good", 500.0), row("few", 4.0)])
    one = source(tmp_path / "in.jsonl", preset="redpajama-v2", columns={})
    ranges = parse_rules({"near_duplicate": 0, "signals": {"rps_doc_word_count": {"min": 50}}}, "rules")
    counts = prepare(Job((one,), TOKENIZER, ranges), tmp_path / "out", log=quiet)
    assert counts.by_name("dropped") == {"signal rps_doc_word_count": 1}
    with pytest.raises(DataError, match="no quality signal 'rps_doc_mean_word_length'; found ccnet_perplexity"):
        prepare(Job((one,), TOKENIZER), tmp_path / "default", log=quiet)


def test_prepared_text_is_read_for_a_build_with_its_version(tmp_path: Path) -> None:
    job = job_of(tmp_path / "in")
    prepare(job, tmp_path / "out", log=quiet)
    opened = open_importer("text-prepared", ImportOptions(inputs=(tmp_path / "out",)))
    found = [sample for unit in opened.units() for sample in opened.samples(unit)]
    assert len(found) == json.loads((tmp_path / "out/report.json").read_text())["kept"]
    assert opened.normalization_version() == prepared_version(job.rules)  # type: ignore[attr-defined]
    assert prepared_version(job.rules).startswith(normalization_version())
    assert prepared_version(DocumentRules(min_chars=1)) != prepared_version(DocumentRules())
    with pytest.raises(DataError, match="per document: remove --language"):
        open_importer("text-prepared", ImportOptions(inputs=(tmp_path / "out",), language="hi"))
    with pytest.raises(DataError, match=r"no prepared\.json"):
        open_importer("text-prepared", ImportOptions(inputs=(tmp_path / "in",)))


def test_a_store_is_built_from_prepared_text(tmp_path: Path) -> None:
    job = job_of(tmp_path / "in")
    counts = prepare(job, tmp_path / "out", log=quiet)
    words = [
        "--from",
        "text-prepared",
        "--input",
        str(tmp_path / "out"),
        "--tokenizer",
        str(TOKENIZER),
        "--workers",
        "1",
    ]
    more = ["--name", "messages", "--licence", "MPL-2.0", "--output", str(tmp_path / "store")]
    assert main(["store", "build", *words, *more]) == 0
    manifest = read_manifest(tmp_path / "store")
    assert manifest.normalization_version == prepared_version(job.rules)
    assert sum(part.num_samples for part in manifest.parts) == counts.total("kept")
    assert sum(part.num_tokens for part in manifest.parts) == counts.total("tokens")
    assert {part.language for part in manifest.parts} == {row["language"] for row in DOCUMENTS}


def test_every_unit_that_cannot_be_read_is_counted_and_the_others_are_kept(tmp_path: Path) -> None:
    job = job_of(tmp_path / "in")
    good = (tmp_path / "in/1.jsonl").read_text(encoding="utf-8")
    for part in (1, 2):
        with open(tmp_path / f"in/{part}.jsonl", "a", encoding="utf-8") as file:
            file.write("{broken\n")
    with pytest.raises(DataError, match=r"1\.jsonl, line \d+: not JSON.*\n\(and 1 more unit that"):
        prepare(job, tmp_path / "out", log=quiet)
    (tmp_path / "in/1.jsonl").write_text(good, encoding="utf-8")
    (tmp_path / "in/2.jsonl").unlink()
    messages: list[str] = []
    prepare(job, tmp_path / "out", log=messages.append)
    assert messages[0] == "resuming: 1 of 2 units are done"


def test_bad_input_is_one_message_and_leaves_no_files(tmp_path: Path) -> None:
    write(tmp_path / "in.jsonl", [{"id": "a", "language": "en", "text": "short"}] * 2)
    one = source(tmp_path / "in.jsonl", columns={})
    with pytest.raises(DataError, match=r"all 2 documents were rejected; by rule: too_short 2"):
        prepare(Job((one,), TOKENIZER), tmp_path / "out", log=quiet)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl"]
    options = ImportOptions(inputs=(tmp_path / "in.jsonl",), dataset_source="my own")
    with pytest.raises(DataError, match="dataset_source 'my own'"):
        prepare(Job((Source("text-jsonl", options),), TOKENIZER), tmp_path / "out", log=quiet)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl"]
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="exists already"):
        prepare(Job((one,), TOKENIZER), tmp_path / "out", log=quiet)
    write(tmp_path / "same.jsonl", [{"id": "a", "language": "en", "text": LONG + str(i)} for i in range(2)])
    with pytest.raises(DataError, match=r"have the id 'a' of \S+same.jsonl, line 1 and \S+same.jsonl, line 2: give"):
        prepare(Job((source(tmp_path / "same.jsonl"),), TOKENIZER), tmp_path / "ids", log=quiet)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("min_char = 5", r"unknown rule 'min_char' \(nearest is 'min_chars'\)"),
        ("min_chars = 1.5", r"min_chars is 1.5; expected a number from 0"),
        ("near_duplicate = 3", r"near_duplicate is 3; expected a share"),
        ('too_long = "split"', r'too_long is \'split\'; expected "drop" or "cut"'),
        ("[signals.x]\nmost = 1", r"signals.x is .*expected `min`, `max` or both"),
        ('[[source]]\nformat = "text-plain"', r"source 1: needs `format` and `input`"),
        ("min_chars = ", r"cannot read rules"),
    ],
)
def test_bad_rules_are_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "rules.toml").write_text(content)
    with pytest.raises(DataError, match=message):
        read_job_file(tmp_path / "rules.toml")


def test_the_verb_takes_one_source_or_a_file_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "in.jsonl", DOCUMENTS)
    common = ["text", "prepare", "--tokenizer", str(TOKENIZER)]
    words = [
        "--from",
        "text-jsonl",
        "--input",
        str(tmp_path / "in.jsonl"),
        "--columns",
        "sample_id=id",
        "--source",
        "mo",
    ]
    assert main([*common, *words, "--output", str(tmp_path / "a")]) == 0
    assert f"{len(DOCUMENTS)} of {len(DOCUMENTS)} documents kept" in capsys.readouterr().out
    table = (
        f'format = "text-jsonl"\ninput = "{tmp_path}/in.jsonl"\ndataset_source = "mo"\ncolumns = {{sample_id = "id"}}\n'
    )
    (tmp_path / "rules.toml").write_text(f"min_chars = 100\n[[source]]\n{table}")
    assert main([*common, "--rules", str(tmp_path / "rules.toml"), "--output", str(tmp_path / "b")]) == 0
    assert digests(tmp_path / "a/documents") == digests(tmp_path / "b/documents")
    assert main([*common, "--output", str(tmp_path / "c")]) == 2
    assert main([*common, *words, "--rules", str(tmp_path / "rules.toml"), "--output", str(tmp_path / "c")]) == 2
    assert main([*common, *words, "--columns", "text", "--output", str(tmp_path / "c")]) == 2
    assert "expected FIELD=COLUMN" in capsys.readouterr().err
    assert main([*common, *[w.replace("text-jsonl", "parquet") for w in words], "--output", str(tmp_path / "c")]) == 2
    assert "not a text format" in capsys.readouterr().err
