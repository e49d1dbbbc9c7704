"""No transcript is lost unnoticed: the usual columns are read, and others that look like them are refused by name."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.import_samples import imported, opened
from titan_speech.codec.wav import write_wav
from titan_speech.errors import DataError
from titan_speech.importers.columns import is_text_like

TEXTS = ("Please hold the line.", "Enter your password.", "Good bye for now.")
IDS = ("a", "b", "c")


@pytest.fixture(name="folder")
def three_recordings(tmp_path: Path) -> Path:
    """in/wavs/a.wav, b.wav and c.wav, of a second each."""
    folder = tmp_path / "in"
    (folder / "wavs").mkdir(parents=True)
    for number, name in enumerate(IDS):
        tone_T = np.sin(np.arange(16_000) * 0.01 * (number + 1)).astype(np.float32) / 2
        write_wav(folder / f"wavs/{name}.wav", tone_T)
    return folder


def natives(folder: Path, **options) -> list[str | None]:  # type: ignore[no-untyped-def]
    samples = imported("audio", folder, codec="embedded", **options)
    return [sample.transcripts.get("native") for sample in samples.values()]


def write_table(file: Path, names: Sequence[str], rows: Sequence[Sequence[str]], delimiter: str = ",") -> None:
    with open(file, "w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, delimiter=delimiter).writerows([names, *rows])


def test_ljspeech_of_two_and_three_columns_has_its_transcripts(folder: Path) -> None:
    (folder / "metadata.csv").write_text("".join(f"{name}|{text}\n" for name, text in zip(IDS, TEXTS, strict=True)))
    assert natives(folder) == list(TEXTS)
    lines = (f"{name}|{text}|{text.lower()}\n" for name, text in zip(IDS, TEXTS, strict=True))
    (folder / "metadata.csv").write_text("".join(lines))
    assert natives(folder) == list(TEXTS)
    assert natives(folder, columns={"transcript_native": "normalized_text"}) == [text.lower() for text in TEXTS]
    (folder / "metadata.csv").write_text("".join(f"{name}.wav|{text}\n" for name, text in zip(IDS, TEXTS, strict=True)))
    assert natives(folder) == list(TEXTS)


def test_a_header_over_ids_is_told_from_an_id(folder: Path) -> None:
    lines = ["id|text\n", *(f"{name}|{text}\n" for name, text in zip(IDS, TEXTS, strict=True))]
    (folder / "metadata.csv").write_text("".join(lines))
    with pytest.raises(DataError, match=r"csv:1: no audio of 'id'; .*; if this line is a header, remove it"):
        opened("audio", folder, codec="embedded")
    (folder / "metadata.csv").write_text("".join(lines[1:]))
    assert natives(folder) == list(TEXTS)


@pytest.mark.parametrize(
    "column", ["text", "normalized_text", "transcription", "transcript", "sentence", "raw_text", "transcript_native"]
)
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_every_usual_column_of_a_listing_with_a_header_is_read(folder: Path, column: str, delimiter: str) -> None:
    rows = [(f"wavs/{name}.wav", text) for name, text in zip(IDS, TEXTS, strict=True)]
    name = "metadata.tsv" if delimiter == "\t" else "metadata.csv"
    write_table(folder / name, ("file_name", column), rows, delimiter)
    assert natives(folder) == list(TEXTS)


def test_the_first_of_several_columns_is_read_and_the_others_are_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(f"wavs/{name}.wav", "raw", text, "asha") for name, text in zip(IDS, TEXTS, strict=True)]
    write_table(folder / "metadata.csv", ("file_name", "raw_text", "text", "voice"), rows)
    assert natives(folder) == list(TEXTS)
    said = capsys.readouterr().err
    assert "3 recordings, 3 with a transcript (column text); also found: raw_text, which" in said
    assert "not read: voice (--columns FIELD=COLUMN)" in said
    assert natives(folder, columns={"transcript_romanized": "text"}) == ["raw"] * 3


def test_recordings_that_a_listing_leaves_out_are_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(f"./wavs/{name}.wav", text) for name, text in zip(IDS, TEXTS, strict=True)]
    write_table(folder / "metadata.csv", ("file_name", "text"), rows)
    assert natives(folder) == list(TEXTS)
    assert "not in it" not in capsys.readouterr().err
    write_table(folder / "metadata.csv", ("file_name", "text"), rows[:2])
    assert natives(folder) == list(TEXTS[:2])
    assert "2 recordings, 2 with a transcript (column text); 1 more in the same folders are not in it" in (
        capsys.readouterr().err
    )


def test_common_voice_finds_its_clips_and_keeps_quotes_as_they_are(folder: Path) -> None:
    (folder / "wavs").rename(folder / "clips")
    texts = ('"Hold', "say ,it' now", TEXTS[2])
    lines = [f"client{name}\t{name}.wav\t{text}\n" for name, text in zip(IDS, texts, strict=True)]
    (folder / "train.tsv").write_text("client_id\tpath\tsentence\n" + "".join(lines))
    assert natives(folder / "train.tsv", columns={"speaker_id": "client_id"}) == list(texts)
    with pytest.raises(DataError, match=r"train.tsv seems to list audio, .*give it with --input .*train.tsv, or build"):
        opened("audio", folder, codec="embedded")
    assert natives(folder, columns={"transcript_native": "@none"}) == [None] * 3


def test_kaldi_folders_give_ids_transcripts_and_speakers_and_run_no_command(folder: Path) -> None:
    (folder / "wav.scp").write_text("".join(f"utt-{name} wavs/{name}.wav\n" for name in IDS))
    (folder / "text").write_text("".join(f"utt-{name} {text}\n" for name, text in zip(IDS, TEXTS, strict=True)))
    (folder / "utt2spk").write_text("".join(f"utt-{name} asha\n" for name in IDS))
    samples = imported("audio", folder, codec="embedded")
    assert list(samples) == [f"utt-{name}" for name in IDS]
    assert [sample.transcripts["native"] for sample in samples.values()] == list(TEXTS)
    assert {sample.info.speaker_id for sample in samples.values()} == {"asha"}
    (folder / "wav.scp").write_text("utt-a touch /tmp/x |\n")
    with pytest.raises(DataError, match=r"wav.scp:1: 'touch /tmp/x \|' is a command, which is not run"):
        opened("audio", folder, codec="embedded")
    (folder / "segments").write_text("")
    with pytest.raises(DataError, match="has segments: its utterances are parts of recordings"):
        opened("audio", folder, codec="embedded")


@pytest.mark.parametrize("column", ["utterance_words", "वाक्य"])
def test_a_listing_whose_transcripts_nobody_would_read_is_refused(folder: Path, column: str) -> None:
    rows = [(f"wavs/{name}.wav", text, "asha") for name, text in zip(IDS, TEXTS, strict=True)]
    write_table(folder / "metadata.csv", ("file_name", column, "voice"), rows)
    with pytest.raises(DataError, match=rf"and {column} would not be read: .*transcript_native={column}, or .*=@none"):
        opened("audio", folder, codec="embedded")
    assert natives(folder, columns={"transcript_native": column}) == list(TEXTS)
    assert natives(folder, columns={"transcript_native": "@none"}) == [None] * 3


def test_a_listing_without_any_transcripts_is_read(folder: Path) -> None:
    rows = [(f"wavs/{name}.wav", "Asha Rao", "7", "c/x") for name in IDS]
    write_table(folder / "metadata.csv", ("file_name", "speaker", "sentence_id", "locale"), rows)
    assert natives(folder) == [None] * 3


def write_mds(folder: Path, rows: Sequence[tuple[bytes, ...]], column: str) -> None:
    """One raw shard of ids, 60 codes each, and texts in `column`."""
    samples = [np.array([len(value) for value in row], np.uint32).tobytes() + b"".join(row) for row in rows]
    header = 4 * (len(rows) + 2)
    offsets = header + np.cumsum([0, *map(len, samples)])
    data = np.array([len(rows), *offsets.tolist()], np.uint32).tobytes() + b"".join(samples)
    (folder / "shard.00000.mds").write_bytes(data)
    shard = {
        "format": "mds",
        "version": 2,
        "column_names": ["sample_id", "codes", column],
        "column_encodings": ["str", "ndarray:uint16:60", "str"],
        "column_sizes": [None, None, None],
        "samples": len(rows),
        "raw_data": {"basename": "shard.00000.mds", "bytes": len(data), "hashes": {}},
        "zip_data": None,
        "compression": None,
    }
    (folder / "index.json").write_text(json.dumps({"version": 2, "shards": [shard]}))


def write_codes(folder: Path, name: str, column: str) -> Path:
    """Three samples of codes in the format `name`, with their text in `column`."""
    folder.mkdir()
    codes = [np.arange(60, dtype=np.uint16) + number for number in range(3)]
    rows = [{"sample_id": i, "codes": c.tolist(), column: t} for i, c, t in zip(IDS, codes, TEXTS, strict=True)]
    if name == "jsonl":
        (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif name == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")
    elif name == "mds":
        texts = zip(IDS, codes, TEXTS, strict=True)
        write_mds(folder, [(id_.encode(), codes_T.tobytes(), text.encode()) for id_, codes_T, text in texts], column)
    else:
        with tarfile.open(folder / "a.tar", "w") as tar:
            for row, codes_T in zip(rows, codes, strict=True):
                array = io.BytesIO()
                np.save(array, codes_T)
                for ending, data in (("json", json.dumps({column: row[column]}).encode()), ("npy", array.getvalue())):
                    member = tarfile.TarInfo(f"{row['sample_id']}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return folder


@pytest.mark.parametrize("name", ["jsonl", "parquet", "webdataset", "mds"])
def test_formats_of_codes_read_the_usual_columns_and_refuse_the_others(tmp_path: Path, name: str) -> None:
    folder = write_codes(tmp_path / "usual", name, "sentence")
    assert [sample.transcripts for sample in imported(name, folder).values()] == [{"native": text} for text in TEXTS]
    folder = write_codes(tmp_path / "unusual", name, "spokenText")
    with pytest.raises(DataError, match=r"spokenText would not be read: .*transcript_native=spokenText, or .*=@none"):
        imported(name, folder)
    named = imported(name, folder, columns={"transcript_native": "spokenText"})
    assert [sample.transcripts for sample in named.values()] == [{"native": text} for text in TEXTS]
    left_out = imported(name, folder, columns={"transcript_native": "@none"})
    assert all(not sample.transcripts for sample in left_out.values())


@pytest.mark.parametrize("name", ["jsonl", "parquet", "webdataset", "mds"])
def test_formats_of_codes_refuse_transcripts_whatever_their_column_is_called(tmp_path: Path, name: str) -> None:
    folder = write_codes(tmp_path / "data", name, "label")
    with pytest.raises(DataError, match=r"label would not be read: .*transcript_native=label, or .*=@none"):
        imported(name, folder)
    left_out = imported(name, folder, columns={"transcript_native": "@none"})
    assert all(not sample.transcripts for sample in left_out.values())


def test_the_columns_of_mds_are_refused_by_their_names_before_a_shard_is_read(tmp_path: Path) -> None:
    folder = write_codes(tmp_path / "data", "mds", "spokenText")
    (folder / "shard.00000.mds").unlink()
    with pytest.raises(DataError, match=r"spokenText would not be read: .*transcript_native=spokenText, or .*=@none"):
        opened("mds", folder)


def test_only_transcripts_can_be_left_out(folder: Path) -> None:
    with pytest.raises(DataError, match="--columns speaker_id=@none: only transcripts can be left out"):
        opened("audio", folder, codec="embedded", columns={"speaker_id": "@none"})


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ("utterance_words", True),
        ("normalizedText", True),
        ("text_normalized", True),
        ("rawtext", True),
        ("text_len", False),
        ("sentence_id", False),
        ("context", False),
        ("up_votes", False),
        ("42", False),
    ],
)
def test_columns_are_told_from_their_properties_by_name(column: str, expected: bool) -> None:
    assert is_text_like(column) is expected
