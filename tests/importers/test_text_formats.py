"""Text formats: every document of a file is imported, and errors name file and line."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from titan_speech.errors import DataError
from titan_speech.importers.base import BadSample, ImportOptions, TextSample, open_importer
from titan_speech.importers.text_documents import split_dialogue

compress_zstd = partial(pa.compress, codec="zstd", asbytes=True)
SIGNALS = {
    "rps_doc_word_count": [[0, 9, 80.0]],
    "rps_lines_num_words": [[0, 4, 3.0], [5, 9, 4.0]],
    "ccnet_perplexity": [[0, 9, 300.5]],
}
ROWS = [{"text": "नमस्ते", "language": "hin"}, {"text": "hello", "language": "eng_Latn"}]


def samples(name: str, *inputs: Path, **options: object) -> list[TextSample]:
    opened = open_importer(name, ImportOptions(inputs=inputs, **options))  # type: ignore[arg-type]
    found = [sample for unit in opened.units() for sample in opened.samples(unit)]
    return [sample for sample in found if isinstance(sample, TextSample)]


def write_jsonl(path: Path, rows: list[dict], write: Callable[[bytes], bytes] = bytes) -> Path:
    path.write_bytes(write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()))
    return path


@pytest.mark.parametrize(
    ("suffix", "write"), [(".jsonl", bytes), (".jsonl.gz", gzip.compress), (".jsonl.zst", compress_zstd)]
)
def test_jsonl_plain_and_compressed(tmp_path: Path, suffix: str, write: Callable[[bytes], bytes]) -> None:
    write_jsonl(tmp_path / f"a{suffix}", ROWS, write)
    found = samples("text-jsonl", tmp_path, dataset_source="mine")
    assert [(s.text, s.info.language) for s in found] == [("नमस्ते", "hi"), ("hello", "en")]
    assert [s.info.sample_id for s in found] == [f"mine/a{suffix}/1", f"mine/a{suffix}/2"]


def test_parquet_in_units_of_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("titan_speech.importers.text_files.UNIT_BYTES", 1)
    rows = [{"text": f"document {i}", "language": "en", "id": f"u{i}", "url": "x"} for i in range(10)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=4)
    opened = open_importer("text-parquet", ImportOptions(inputs=(tmp_path,), preset="fineweb"))
    assert [(unit.start, unit.stop) for unit in opened.units()] == [(0, 4), (4, 8), (8, 10)]
    found = samples("text-parquet", tmp_path, preset="fineweb")
    assert [(s.info.sample_id, s.text, s.info.dataset_source) for s in found] == [
        (f"u{i}", f"document {i}", "fineweb") for i in range(10)
    ]


@pytest.mark.parametrize(
    ("preset", "file", "row", "expected"),
    [
        ("culturax", "hi/hi_part_00000.parquet", {"text": "क", "url": "x", "source": "mC4"}, ("hi", None, "क")),
        ("sangraha", "verified/tam/data-0.parquet", {"doc_id": "d", "type": "web", "text": "க"}, ("ta", None, "க")),
        ("indiccorp-v2", "bn.parquet", {"text": "ক"}, ("bn", None, "ক")),
        ("aya", "train.parquet", {"inputs": "q", "targets": "a", "language_code": "tel"}, ("te", "q", "a")),
        ("oig", "chip2.parquet", {"text": "<human>: q\n<bot>: a", "metadata": "{}"}, ("en", "q", "a")),
    ],
)
def test_presets_know_the_columns_of_their_source(
    tmp_path: Path, preset: str, file: str, row: dict, expected: tuple
) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / file)
    (found,) = samples("text-parquet", tmp_path, preset=preset)
    assert (found.info.language, found.user, found.text) == expected
    assert found.info.dataset_source == preset


def test_redpajama_is_not_built_unfiltered_and_not_read_without_signals(tmp_path: Path) -> None:
    row = {"raw_content": "words", "doc_id": "d", "meta": '{"language": "en"}', "quality_signals": json.dumps(SIGNALS)}
    write_jsonl(tmp_path / "a.jsonl", [row])
    with pytest.raises(DataError, match="text prepare"):
        samples("text-jsonl", tmp_path, preset="redpajama-v2")
    opened = open_importer("text-jsonl", ImportOptions(inputs=(tmp_path,), preset="redpajama-v2"))
    (document,) = opened.documents(opened.units()[0])  # type: ignore[attr-defined]
    assert document.signals == {"rps_doc_word_count": 80.0, "ccnet_perplexity": 300.5}
    assert (document.language, document.text) == ("en", "words")
    del row["quality_signals"]
    write_jsonl(tmp_path / "a.jsonl", [row])
    with pytest.raises(DataError, match="no column 'quality_signals'"):
        list(opened.documents(opened.units()[0]))  # type: ignore[attr-defined]


def test_dialogues_end_in_an_answer() -> None:
    assert split_dialogue("lead\n<human>: a\n<bot>: b\n<human>: c\n<bot>: d\n<human>: e") == (
        "lead\n\na\n\nb\n\nc",
        "d",
    )
    assert split_dialogue("no turns") == (None, "no turns")
    assert split_dialogue("<human>: only a question") == (None, "")


def test_plain_text_by_file_paragraph_and_line(tmp_path: Path) -> None:
    (tmp_path / "hi.txt").write_text("one\ntwo\n\nthree\n", encoding="utf-8")
    (tmp_path / "z.txt").write_text("four", encoding="utf-8")

    def texts(**options: object) -> list[str]:
        return [s.text for s in samples("text-plain", tmp_path, language="en", dataset_source="s", **options)]

    assert texts() == ["one\ntwo\n\nthree", "four"]
    assert texts(preset="paragraphs") == ["one\ntwo", "three", "four"]
    assert texts(preset="lines") == ["one", "two", "three", "four"]
    (tmp_path / "z.txt").unlink()
    found = samples("text-plain", tmp_path, preset="indiccorp-v2")
    assert [(s.text, s.info.language) for s in found] == [("one\ntwo", "hi"), ("three", "hi")]


GOOD = '{"text": "a", "language": "en"}\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD + '{"text": "b"\n', r"line 2: not JSON"),
        (GOOD + "[1]\n", r"line 2: no JSON object; found '\[1\]'"),
        (GOOD + '{"txt": "b", "language": "en"}\n', r"line 2: the object has no column `text`; found txt, language"),
        (GOOD + '{"text": 5, "language": "en"}\n', r"line 2: text is int 5"),
        (GOOD + '{"text": "b"}\n', r"line 2: names no language.*or auto"),
        (GOOD + '{"text": "b", "language": "klingon"}\n', r"unknown language tag 'klingon'"),
        (GOOD.encode() + b'{"text": "\xff"}\n', r"line 2: not UTF-8 \(byte 0xff"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, content: str | bytes, message: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(content if isinstance(content, bytes) else content.encode())
    opened = open_importer("text-jsonl", ImportOptions(inputs=(tmp_path,), dataset_source="s"))
    with pytest.raises(DataError, match=message):
        list(opened.documents(opened.units()[0]))  # type: ignore[attr-defined]


def test_a_build_gets_every_bad_row_and_the_documents_after_it(tmp_path: Path) -> None:
    rows = [{"text": "b", "id": "x"}, {"text": 5, "language": "en"}, {"text": "c", "language": "klingon"}]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    path.write_text(path.read_text() + '{"txt": "c"}\n{"text"\n{"text": "d", "language": "en"}\n')
    opened = open_importer("text-jsonl", ImportOptions(inputs=(tmp_path,), dataset_source="s"))
    *bad, good = opened.samples(opened.units()[0])
    assert [(one.name, one.problem.kind, one.row) for one in bad if isinstance(one, BadSample)] == [
        ("a.jsonl:1", "no language", 0),
        ("a.jsonl:2", "type of text", 1),
        ("a.jsonl:3", "language", 2),
        ("a.jsonl:4", "columns", 3),
        ("a.jsonl:5", "not JSON", 4),
    ]
    assert isinstance(good, TextSample)
    assert (good.text, good.row) == ("d", 5)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    whole = compress_zstd(GOOD.encode() * 9000)
    (tmp_path / "a.jsonl.zst").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(GOOD.encode() * 9000)[:-12])
    for name in ("a.jsonl.zst", "b.jsonl.gz"):
        with pytest.raises(DataError, match=f"{name} breaks off after line"):
            samples("text-jsonl", tmp_path / name, dataset_source="s")


def test_missing_columns_name_the_nearest(tmp_path: Path) -> None:
    pq.write_table(
        pa.Table.from_pylist([{"inputs": "q", "target": "a", "language_code": "tel"}]), tmp_path / "a.parquet"
    )
    with pytest.raises(DataError, match=r"no column 'targets' for text \(nearest is 'target'\); found inputs, target"):
        samples("text-parquet", tmp_path, preset="aya")
    with pytest.raises(DataError, match=r"unknown preset 'ayah'; expected one of fineweb"):
        samples("text-parquet", tmp_path, preset="ayah")
    with pytest.raises(DataError, match=r"found 1 \.parquet; use --from text-parquet"):
        samples("text-jsonl", tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        samples("text-jsonl", tmp_path / "nowhere")


def test_language_auto_identifies_the_language_of_each_document(tmp_path: Path) -> None:
    documents = (Path(__file__).parents[1] / "assets/documents.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in documents]
    write_jsonl(tmp_path / "a.jsonl", [{"text": f"<p>{row['text']}</p>"} for row in rows] + [{"text": "12 <b>"}])
    found = samples("text-jsonl", tmp_path, dataset_source="s", language="auto")
    assert [s.info.language for s in found] == [*(row["language"] for row in rows), "und"]
