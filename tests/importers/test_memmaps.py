"""Arrays imported: Inworld vectorizer output, Llasa memmaps, JSONL with .npy; written by their documented layout."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from tests.support.import_samples import imported, opened
from tests.support.store_samples import write_tokenizer
from tests.support.vectorizer_output import Spoken, spoken, write_inworld
from titan_speech.errors import DataError
from titan_speech.importers.base import BadSample, ImportOptions, SpeechSample, open_importer
from titan_speech.importers.jsonl import index_lines, parse_lines
from titan_speech.importers.limits import ImportLimits
from titan_speech.importers.llasa import MARKERS, SPEECH_END, SPEECH_START, TEXT_END, TEXT_START

# Inworld


def test_inworld_samples_come_back_in_any_number_of_units(tmp_path: Path) -> None:
    samples = spoken(50)
    folder = write_inworld(tmp_path / "vectorized", samples)
    for unit_bytes in (1, 400, 256 << 20):
        source = opened("inworld", folder, dataset_source=None, language=None, unit_bytes=unit_bytes)  # type: ignore[arg-type]
        found = [sample for unit in source.units() for sample in source.samples(unit)]
        assert [sample.info.sample_id for sample in found] == [sample.sample_id for sample in samples]
        for sample, expected in zip(found, samples, strict=True):
            assert np.array_equal(sample.codes_T, expected.codes)
            assert sample.transcripts == {"native": expected.transcript, "description": "a calm voice"}
            assert (sample.info.language, sample.info.speaker_id) == (expected.language, "ann")
            assert (sample.info.dataset_source, sample.info.sample_rate) == ("libri", 24_000)


def test_inworld_files_of_ranks_are_read_in_order_unless_they_were_merged(tmp_path: Path) -> None:
    samples = spoken(33)
    for rank in range(11):
        write_inworld(tmp_path, samples[3 * rank : 3 * rank + 3], rank=f"_{rank}")
    assert list(imported("inworld", tmp_path)) == [sample.sample_id for sample in samples]
    write_inworld(tmp_path, samples)
    assert list(imported("inworld", tmp_path)) == [sample.sample_id for sample in samples]


def test_inworld_options_supply_what_the_vectorizer_does_not_know(tmp_path: Path) -> None:
    write_inworld(tmp_path, [Spoken("a", np.array([1, 2]), "x", "unknown")])
    (sample,) = imported(
        "inworld", tmp_path, language="ta", columns={"source_video_id": "original_data.video"}
    ).values()
    assert (sample.info.language, sample.info.dataset_source, sample.info.source_video_id) == ("ta", "tapes", "v1")
    with pytest.raises(DataError, match="has no 'language'"):
        imported("inworld", tmp_path, language=None)


def test_an_inworld_folder_of_two_splits_asks_which(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_inworld(tmp_path, [Spoken(split, np.array([1]), "x")], split)
    with pytest.raises(DataError, match=r"has several splits \(train, val\): choose one with --split"):
        opened("inworld", tmp_path)
    assert list(imported("inworld", tmp_path, split="val")) == ["val"]


def test_inworld_codes_with_a_npy_header_are_read_too(tmp_path: Path) -> None:
    samples = spoken(5)
    write_inworld(tmp_path, samples)
    np.save(tmp_path / "train_codes.npy", np.concatenate([sample.codes for sample in samples]))
    for sample, expected in zip(imported("inworld", tmp_path).values(), samples, strict=True):
        assert np.array_equal(sample.codes_T, expected.codes)


def _drop_line(folder: Path) -> None:
    file = folder / "train_samples.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_drop_line, "has 4 lines, train_codes_index.npy has 5 entries"),
        (lambda folder: (folder / "train_codes.npy").write_bytes(b"12345"), "not a multiple of 4"),
        (lambda folder: (folder / "train_codes.npy").write_bytes(b"1234"), r"begins at code \d+, but .* holds 1"),
        (lambda folder: (folder / "train_codes.npy").unlink(), "train_codes.npy is missing"),
        (lambda folder: (folder / "train_codes_index.npy").write_bytes(b"\0" * 40), "is not a .npy array"),
        (lambda folder: np.save(folder / "train_codes_index.npy", [0, 5, 3, 7, 9]), "goes back from 5 to 3 at entry 2"),
        (lambda folder: np.save(folder / "train_codes_index.npy", [4, 5, 6, 7, 9]), "begins with 4"),
        (lambda folder: np.save(folder / "train_codes_index.npy", np.zeros((5, 2))), r"float64 of shape \(5, 2\)"),
    ],
)
def test_inworld_files_that_do_not_fit_together_are_named(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    write_inworld(tmp_path, spoken(5))
    damage(tmp_path)
    with pytest.raises(DataError, match=message):
        imported("inworld", tmp_path)


def test_another_format_is_named_for_each_of_the_three(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    for name in ("inworld", "llasa", "jsonl"):
        options = ImportOptions((tmp_path,), "tapes", "en", llasa_tokenizer=tmp_path)
        with pytest.raises(DataError, match="try --from parquet"):
            open_importer(name, options)
    (tmp_path / "b.jsonl").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="does not begin with a JSON object"):
        open_importer("jsonl", ImportOptions((tmp_path / "b.jsonl",)))


def test_inworld_codes_of_another_width_are_refused(tmp_path: Path) -> None:
    folder = write_inworld(tmp_path / "vectorized", spoken(20))
    path = folder / "train_codes.npy"
    np.fromfile(path, np.int32).astype(np.int64).tofile(path)
    with pytest.raises(DataError, match=r"train_codes\.npy looks like int64: every second .* expected raw int32"):
        opened("inworld", folder).units()


# Llasa


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The backbone's tokenizer, without Llasa's names."""
    return write_tokenizer(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def extended(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer with Llasa's names, codes before markers: their ids follow only from the names."""
    tokenizer = Tokenizer.from_file(str(plain / "tokenizer.json"))
    names = [*(f"<|s_{code}|>" for code in range(65_536)), *MARKERS]
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in names])
    folder = tmp_path_factory.mktemp("extended")
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def llasa_rows(tokenizer_path: Path, samples: list[Spoken], length: int, by_name: bool) -> np.ndarray:
    """Text between its markers, codes between theirs, padded with the tokenizer's end of text."""
    tokenizer = Tokenizer.from_file(str(tokenizer_path / "tokenizer.json"))
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    marks = {name: tokenizer.token_to_id(name) if by_name else size + i for i, name in enumerate(MARKERS)}
    rows = []
    for sample in samples:
        codes = [tokenizer.token_to_id(f"<|s_{code}|>") if by_name else size + 8 + int(code) for code in sample.codes]
        text = tokenizer.encode(sample.transcript, add_special_tokens=False).ids
        row = [marks[TEXT_START], *text, marks[TEXT_END], marks[SPEECH_START], *codes, marks[SPEECH_END]]
        rows.append(row + [1] * (length - len(row)))
    return np.array(rows, np.int32)


def write_llasa(folder: Path, rows: np.ndarray, stem: str = "train") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    array = np.memmap(folder / f"{stem}_input_ids.memmap", dtype="int32", mode="w+", shape=rows.shape)
    array[:] = rows
    array.flush()
    np.save(folder / f"{stem}_input_ids_shape.npy", rows.shape)
    return folder


@pytest.mark.parametrize("by_name", [False, True])
def test_llasa_rows_come_back_as_codes_and_text(tmp_path: Path, plain: Path, extended: Path, by_name: bool) -> None:
    tokenizer, samples = (extended if by_name else plain), spoken(30)
    folder = write_llasa(tmp_path / "data", llasa_rows(tokenizer, samples, 160, by_name))
    for unit_bytes in (1, 256 << 20):
        found = imported("llasa", folder, llasa_tokenizer=tokenizer, unit_bytes=unit_bytes)
        assert list(found) == [f"data/train:{row}" for row in range(30)]
        for sample, expected in zip(found.values(), samples, strict=True):
            assert np.array_equal(sample.codes_T, expected.codes)
            assert sample.transcripts == {"native": expected.transcript}
            assert (sample.info.language, sample.info.dataset_source) == ("en", "tapes")


def test_llasa_parts_of_ranks_are_read_in_order(tmp_path: Path, plain: Path) -> None:
    samples = spoken(24)
    rows = llasa_rows(plain, samples, 160, by_name=False)
    for part in range(12):
        write_llasa(tmp_path, rows[2 * part : 2 * part + 2], f"train_rank{part // 11}_partial{part % 11}")
    found = imported("llasa", tmp_path, llasa_tokenizer=plain)
    assert [sample.codes_T.tolist() for sample in found.values()] == [sample.codes.tolist() for sample in samples]


def test_llasa_rows_without_exactly_one_sample_are_named(tmp_path: Path, plain: Path) -> None:
    rows = llasa_rows(plain, spoken(4), 160, by_name=False)
    end = rows[1].tolist().index(_mark(plain, SPEECH_END))
    rows[1, end:] = 1
    with pytest.raises(DataError, match=r"train:1': no <\|SPEECH_GENERATION_END\|>: was the row truncated"):
        imported("llasa", write_llasa(tmp_path / "cut", rows), llasa_tokenizer=plain)
    rows = llasa_rows(plain, spoken(4), 160, by_name=False)
    start = rows[2].tolist().index(_mark(plain, SPEECH_START))
    rows[2, start + 1] = -7
    with pytest.raises(DataError, match=r"train:2': id -7 at position \d+ is not a code"):
        imported("llasa", write_llasa(tmp_path / "negative", rows), llasa_tokenizer=plain)
    rows[2, start + 1] = 400_000
    with pytest.raises(DataError, match="id 400000 at position"):
        imported("llasa", write_llasa(tmp_path / "beyond", rows), llasa_tokenizer=plain)


def _mark(plain: Path, name: str) -> int:
    size = Tokenizer.from_file(str(plain / "tokenizer.json")).get_vocab_size(with_added_tokens=True)
    return size + MARKERS.index(name)


def test_llasa_memmaps_need_source_language_and_tokenizer(tmp_path: Path, plain: Path) -> None:
    folder = write_llasa(tmp_path, llasa_rows(plain, spoken(2), 160, by_name=False))
    with pytest.raises(DataError, match="give --dataset-source, --language, --llasa-tokenizer"):
        open_importer("llasa", ImportOptions((folder,)))
    np.save(folder / "train_input_ids_shape.npy", (3, 160))
    with pytest.raises(DataError, match="3 rows of 160 int32 are 1920"):
        opened("llasa", folder, llasa_tokenizer=plain)  # type: ignore[arg-type]


# JSONL


def write_jsonl(path: Path, samples: list[Spoken], **columns: Callable[[int, Spoken], object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        {"sample_id": sample.sample_id, "language": sample.language, "transcript_native": sample.transcript}
        | {name: value(i, sample) for name, value in columns.items()}
        for i, sample in enumerate(samples)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def check_jsonl(path: Path, samples: list[Spoken]) -> None:
    found = imported("jsonl", path, language=None)
    assert list(found) == [sample.sample_id for sample in samples]
    for sample, expected in zip(found.values(), samples, strict=True):
        assert np.array_equal(sample.codes_T, expected.codes)
        assert sample.transcripts == {"native": expected.transcript}


def test_jsonl_takes_lists_paths_rows_and_starts(tmp_path: Path) -> None:
    samples = spoken(20)
    check_jsonl(write_jsonl(tmp_path / "lists.jsonl", samples, codes=lambda i, s: s.codes.tolist()), samples)
    for sample in samples:
        np.save(tmp_path / f"{sample.sample_id}.npy", sample.codes[None, None].astype(np.int32))
    check_jsonl(write_jsonl(tmp_path / "paths.jsonl", samples, codes=lambda i, s: f"{s.sample_id}.npy"), samples)
    padded = np.full((20, 40), 9, np.int64)
    for i, sample in enumerate(samples):
        padded[i, : len(sample.codes)] = sample.codes
    np.save(tmp_path / "rows.npy", padded)
    rows = {"codes_row": lambda i, s: i, "code_len": lambda i, s: len(s.codes)}
    check_jsonl(write_jsonl(tmp_path / "rows.jsonl", samples, **rows), samples)
    np.save(tmp_path / "flat.npy", np.concatenate([sample.codes for sample in samples]).astype(np.uint16))
    ends = np.cumsum([len(sample.codes) for sample in samples]).tolist()
    starts = {"codes_start": lambda i, s: ends[i] - len(s.codes), "code_len": lambda i, s: len(s.codes)}
    check_jsonl(write_jsonl(tmp_path / "flat.jsonl", samples, **starts), samples)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"codes": lambda i, s: "absent.npy"}, "absent.npy is not a .npy array that can be read"),
        ({"codes_row": lambda i, s: 2}, "codes_row is 2 in .*: expected a row of an array"),
        ({"codes_row": lambda i, s: -1}, "codes_row is -1: expected a whole number from 0"),
        ({"codes_start": lambda i, s: 2}, "expected an array .all codes., and a code_len"),
        ({"codes_row": lambda i, s: 0, "code_len": lambda i, s: 5}, "code_len is 5, but .* only 4 codes"),
    ],
)
def test_jsonl_lines_without_codes_are_named(
    tmp_path: Path, columns: dict[str, Callable[[int, Spoken], object]], message: str
) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 4), np.int32))
    with pytest.raises(DataError, match=rf"sample 's0': .*{message}.* \(and 2 more samples\)"):
        imported("jsonl", write_jsonl(tmp_path / "a.jsonl", spoken(3), **columns))


def test_a_jsonl_without_lines_has_no_samples(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    check_jsonl(write_jsonl(tmp_path / "b.jsonl", spoken(3), codes=lambda i, s: s.codes.tolist()).parent, spoken(3))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{oops", r"not JSON \(Expecting property name.*\); found '{oops'"),
        (b"[" * 100_000, r"not JSON \(maximum recursion depth exceeded"),
        (b"[1]", r"no JSON object; found '\[1\]'"),
        (b'{"id": "\xff"}', "not UTF-8 .byte 0xff at column 8."),
    ],
    ids=["json", "deep", "list", "utf-8"],
)
@pytest.mark.parametrize("name", ["jsonl", "inworld"])
def test_a_line_without_an_object_is_a_bad_sample_and_the_others_keep_their_codes(
    tmp_path: Path, name: str, line: bytes, message: str
) -> None:
    if name == "inworld":
        path = write_inworld(tmp_path, spoken(3)) / "train_samples.jsonl"
    else:
        path = write_jsonl(tmp_path / "a.jsonl", spoken(3), codes=lambda i, s: s.codes.tolist())
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0], line, lines[2]]))
    source = opened(name, tmp_path)
    first, bad, last = source.samples(source.units()[0])
    assert isinstance(bad, BadSample)
    assert (bad.name, bad.row) == (f"{path.name}:1", 1)
    assert re.match(message, bad.problem.detail)
    for sample, expected in ((first, spoken(3)[0]), (last, spoken(3)[2])):
        assert isinstance(sample, SpeechSample)
        assert np.array_equal(sample.codes_T, expected.codes)


def test_listed_codes_and_arrays_of_one_sample_have_the_stated_length(tmp_path: Path) -> None:
    np.save(tmp_path / "own.npy", np.zeros(7, np.int32))
    for codes, found in ((lambda i, s: [1, 2, 3], 3), (lambda i, s: "own.npy", 7)):
        path = write_jsonl(tmp_path / "a.jsonl", spoken(2), codes=codes, code_len=lambda i, s: 5)
        with pytest.raises(DataError, match=rf"'s0': code_len is 5, but there are {found} codes.*and 1 more"):
            imported("jsonl", path)
    path = write_jsonl(tmp_path / "a.jsonl", spoken(2), codes=lambda i, s: [1, 2, 3], n=lambda i, s: 2 + i)
    with pytest.raises(DataError, match="'s0': n is 2, but there are 3 codes"):
        imported("jsonl", path, columns={"code_len": "n"})


@settings(max_examples=15, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n")), max_size=30), st.booleans(), st.data())
def test_lines_are_found_by_number_with_or_without_a_last_newline(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], ends: bool, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    path.write_text("\n".join(lines) + ("\n" if ends and lines else ""), encoding="utf-8", newline="\n")
    wanted = sorted(data.draw(st.sets(st.integers(0, 40))))
    index = index_lines(path, wanted)
    assert index.num_lines == len(lines)
    assert sorted(index.offsets) == [line for line in wanted if line < len(lines)]
    for line, offset in index.offsets.items():
        records = [record for _, record in parse_lines(path, offset, line, None, ImportLimits())]
        assert [isinstance(record, dict) and record["text"] for record in records] == texts[line:]


def test_decreasing_inworld_indices_are_refused_and_absent_ranks_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_inworld(tmp_path / "a", spoken(4))
    np.save(folder / "train_codes_index.npy", np.array([0, 3, 2, 4], np.uint64))
    with pytest.raises(DataError, match="goes back from 3 to 2 at entry 2"):
        opened("inworld", folder).units()
    for rank in ("_0", "_2"):
        write_inworld(tmp_path / "b", spoken(4), rank=rank)
    opened("inworld", tmp_path / "b")
    assert "2 of 3 files of ranks of train: the first that is absent is 1;" in capsys.readouterr().err


def test_arrays_of_the_other_byte_order_and_blank_names(tmp_path: Path) -> None:
    np.save(tmp_path / "c.npy", np.array([1, 256, 65_535], ">i4"))
    line = {"sample_id": "a", "codes": "c.npy", "speaker_id": "", "source_video_id": " "}
    (tmp_path / "a.jsonl").write_text(json.dumps(line))
    sample = imported("jsonl", tmp_path)["a"]
    assert sample.codes_T.tolist() == [1, 256, 65_535]
    assert (sample.info.speaker_id, sample.info.source_video_id) == (None, None)
