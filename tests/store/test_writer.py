"""Building a token store: bad samples and interruptions leave nothing behind, and nothing is overwritten."""

from __future__ import annotations

import os
import pickle
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.support.store_samples import (
    files_of,
    info,
    store_writer,
    write_store,
)
from titan_speech.errors import DataError
from titan_speech.store.reader import open_store
from titan_speech.store.sample import SampleInfo, is_language
from titan_speech.store.writer import StoreWriter
from titan_speech.tokenization.text_tokenizer import TextTokenizer


def refused(path: Path, tokenizer: TextTokenizer, add: Callable[[StoreWriter], object]) -> str:
    """The message of a build that fails, having checked that it left nothing behind."""

    def build() -> None:
        with store_writer(path, tokenizer) as out:
            out.add_speech(info("good"), [1, 2, 3])
            add(out)

    with pytest.raises(DataError) as error:
        build()
    assert list(path.parent.iterdir()) == []
    return str(error.value)


def changed(sample_id: str, **fields: object) -> SampleInfo:
    return SampleInfo(**(vars(info(sample_id)) | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (
            lambda out: out.add_speech(info("x"), [1, 65_536]),
            "sample 'x': code 65536 at frame 1 is out of range",
        ),
        (lambda out: out.add_speech(info("x"), [-1]), "code -1 at frame 0 is out of range"),
        (lambda out: out.add_speech(info("x"), []), "zero length"),
        (lambda out: out.add_speech(info("x"), [[1, 2]]), r"shape \(1, 2\)"),
        (lambda out: out.add_speech(info("x"), [0.5]), "float64"),
        (lambda out: out.add_speech(info("good"), [9]), "sample 'good': duplicate sample_id"),
        (lambda out: out.add_text(info("good"), "in another part"), "sample 'good': duplicate sample_id"),
        (lambda out: out.add_speech(info("x", language="jp"), [1]), "unknown language tag 'jp'"),
        (lambda out: out.add_speech(info("x", language="Hindi"), [1]), "unknown language tag 'Hindi'"),
        (lambda out: out.add_speech(info("x", source="../up"), [1]), "dataset_source '../up'"),
        (lambda out: out.add_speech(info(""), [1]), "empty sample_id"),
        (lambda out: out.add_speech(changed("x", speaker_id=""), [1]), "blank speaker_id: expected a name, or None"),
        (lambda out: out.add_speech(info("x"), np.array([65_536], ">i4")), "code 65536 at frame 0 is out of range"),
        (lambda out: out.add_speech(info("x"), [1], {"nativ": "a"}), "unknown transcript variant 'nativ'"),
        (lambda out: out.add_speech(info("x"), [1], {"native": " "}), "blank native text"),
        (lambda out: out.add_text(info("x"), "\n"), "blank text text"),
        (
            lambda out: out.add_speech(changed("x", start_time=3.0), [1]),
            "start_time 3.0 s is not before end_time",
        ),
    ],
)
def test_a_bad_sample_stops_the_build_and_nothing_is_left(
    tmp_path: Path, tokenizer: TextTokenizer, add: Callable[[StoreWriter], object], message: str
) -> None:
    assert re.search(message if "\\" in message else re.escape(message), refused(tmp_path / "store", tokenizer, add))


def test_problems_of_all_samples_are_told_together_first_named_rest_counted(
    tmp_path: Path, tokenizer: TextTokenizer
) -> None:
    def add(out: StoreWriter) -> None:
        for i in range(7):
            out.add_speech(info(f"bad-{i}"), [70_000 + i])
        out.add_speech(info("other", language="xx"), [1])
        for _ in range(3):
            out.add_speech(info("twice"), [1])

    message = refused(tmp_path / "store", tokenizer, add)
    assert "sample 'bad-0': code 70000" in message
    assert "(and 6 more samples)" in message
    assert "'xx'" in message
    assert "sample 'twice': duplicate sample_id (and 1 more sample)" in message
    assert "bad-1" not in message


def test_a_build_without_samples_or_codec_is_refused(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    with pytest.raises(DataError, match="no samples"), store_writer(tmp_path / "a", tokenizer):
        pass
    with (
        pytest.raises(DataError, match="without a codec"),
        store_writer(tmp_path / "b", tokenizer, codec=None) as out,
    ):
        out.add_speech(info("x"), [1])
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_build_leaves_nothing(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_store(tmp_path / "store", tokenizer, spoilt=True)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_store_is_never_overwritten(store_path: Path, tokenizer: TextTokenizer) -> None:
    before = files_of(store_path)
    with pytest.raises(DataError, match="exists already"):
        store_writer(store_path, tokenizer)
    assert files_of(store_path) == before


def test_a_store_that_appears_during_the_build_is_left_as_it_is(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    path = tmp_path / "store"
    out = store_writer(path, tokenizer)
    out.add_speech(info("x"), [1])
    path.mkdir()
    (path / "precious").write_text("kept")
    with pytest.raises(DataError, match="appeared during the build"), out:
        pass
    assert (path / "precious").read_text() == "kept"
    assert [file.name for file in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize("moment", ["write_part", "Manifest.to_json", "os.rename"])
def test_a_build_killed_at_any_moment_leaves_nothing_that_opens(
    tmp_path: Path, tokenizer: TextTokenizer, moment: str
) -> None:
    """The process kills itself with SIGKILL: before the shards, before the manifest, before the rename."""
    (tmp_path / "tokenizer.pickle").write_bytes(pickle.dumps(tokenizer))
    script = f"""
        import os, pickle, signal, sys
        from pathlib import Path
        from titan_speech.store import writer as builder
        from tests.support.store_samples import write_store
        def die(*args): os.kill(os.getpid(), signal.SIGKILL)
        builder.{moment} = die
        tokenizer = pickle.loads(Path("tokenizer.pickle").read_bytes())
        write_store(Path("stores/small"), tokenizer)
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=100)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    left = list((tmp_path / "stores").iterdir())
    assert len(left) == 1
    for path in (tmp_path / "stores/small", *left):
        with pytest.raises(DataError):
            open_store(path)


@pytest.mark.parametrize("tag", ["hi", "en-IN", "mai", "zh-Hant-TW"])
def test_language_tags_in_use_are_known(tag: str) -> None:
    assert is_language(tag)


@pytest.mark.parametrize("tag", ["", "h", "xx", "jp", "HI", "hindi", "en_IN", "en-", "en-x"])
def test_other_language_tags_are_not(tag: str) -> None:
    assert not is_language(tag)
