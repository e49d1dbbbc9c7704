"""Packs, results, listings and models of others end in an error that names them; no code of theirs is asked for."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.runs import ROOT
from titan_speech.align.answers import Journal
from titan_speech.align.trl_training import load_policy
from titan_speech.codec.wav import write_wav
from titan_speech.config.schema_data import StorageConfig
from titan_speech.errors import DataError, ModelError
from titan_speech.evaluate import engine_process
from titan_speech.evaluate.clip import Clip, Score, Sound
from titan_speech.evaluate.models import voices
from titan_speech.evaluate.models.recognizers import open_recognizer
from titan_speech.evaluate.models.voices import open_voice_encoder
from titan_speech.evaluate.prompt_packs.prompt_pack import MAX_SOUND_CODES, SoundFiles, read_sound
from titan_speech.evaluate.prompt_packs.public_sets import emergent, seed_tts
from titan_speech.evaluate.prompt_packs.text_files import text_drafts
from titan_speech.evaluate.recorded_clips import listed_clips
from titan_speech.evaluate.result import ResultKey, make_result, read_result
from titan_speech.evaluate.summary import summary
from titan_speech.evaluate.trust import TrustBounds, TrustRow, TrustTable, read_trust_table
from titan_speech.evaluate.watch.claims import WorkQueue
from titan_speech.storage.shared_files import shared_folder

DIGITS_400 = 10**400
PACKAGE = ROOT / "titan_speech"


def npy(shape: str, data: bytes = b"", dtype: str = "<u2") -> bytes:
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


def saved(array: Any) -> bytes:
    buffer = BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def archive() -> bytes:
    buffer = BytesIO()
    np.savez(buffer, codes=np.zeros(3, np.uint16))
    return buffer.getvalue()


def read_codes(folder: Path, content: bytes) -> Sound:
    (folder / "codes.npy").write_bytes(content)
    return read_sound(folder, SoundFiles(codes="codes.npy", sha256=(hashlib.sha256(content).hexdigest(),)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy("(3000000000000,)"), "expected a row of at most 3,000 uint16"),
        (npy("(300,)"), "announces 300 codes and has 0 bytes"),
        (saved(np.zeros(MAX_SOUND_CODES + 1, np.uint16)), "at most 3,000 uint16"),
        (saved(np.array([{}], dtype=object)), "holds object"),
        (saved(np.zeros((2, 2), np.uint16)), "shape"),
        (archive(), "is no array of codes"),
        (b"", "is no array of codes"),
    ],
)
def test_codes_of_a_pack_are_judged_by_their_header(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_codes(tmp_path, content)


def test_codes_of_a_pack_are_read(tmp_path: Path) -> None:
    codes_F = np.arange(MAX_SOUND_CODES, dtype=np.uint16)
    found = read_codes(tmp_path, saved(codes_F)).codes_F
    assert found is not None
    np.testing.assert_array_equal(found, codes_F)


@pytest.mark.parametrize("number", [DIGITS_400, float("nan"), float("inf")])
def test_numbers_that_no_sum_takes_are_refused(tmp_path: Path, number: float) -> None:
    clip = Clip(prompt_id="a", language="hi", text="a", sound=Sound())
    content = make_result(ResultKey("m", "p", {}, {}), [clip], [{"cer": Score(0.5)}]).to_json()
    content["clips"][0]["scores"]["cer"]["value"] = number
    (tmp_path / "result.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="value: found"):
        read_result(tmp_path / "result.json")
    row = TrustRow("hi", "whisper", "1", 20, 0.1, 0.1, 0.1, 0.1, None, 1.0, number, None, ())
    TrustTable(TrustBounds(), (row,), "1").write(tmp_path / "trust.json")
    with pytest.raises(DataError, match="coverage: found"):
        read_trust_table(tmp_path / "trust.json")


@pytest.mark.parametrize("score", [{"value": 1e308}, {"weight": 1e308}, {"weight": -1.0}])
def test_scores_whose_sums_no_float_holds_are_refused(tmp_path: Path, score: dict[str, float]) -> None:
    clip = Clip(prompt_id="a", language="hi", text="a", sound=Sound())
    content = make_result(ResultKey("m", "p", {}, {}), [clip], [{"cer": Score(0.5)}]).to_json()
    content["clips"][0]["scores"]["cer"] |= score
    (tmp_path / "result.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="expected at most 1e"):
        read_result(tmp_path / "result.json")


def test_names_of_a_result_stay_in_their_line_of_a_card() -> None:
    clip = Clip(prompt_id="a", language="hi|x", text="a", sound=Sound())
    scores = {"cer\n# Proved": Score(0.5), "b": Score.missing("no\nreason")}
    lines = summary([make_result(ResultKey("m", "p\n# Proved", {}, {"a": "1\n# Proved"}), [clip], [scores])]).split(
        "\n"
    )
    assert not [line for line in lines if line.startswith("#")]
    assert any(line.startswith("| hi\\|x |") for line in lines)


def test_a_card_shows_names_of_a_result_as_text_and_its_file_speaks_to_no_terminal(tmp_path: Path) -> None:
    name = "\x1b]0;owned\x07\u202e\\[x](http://tracker)![](http://tracker/x.png)<img src=x>"
    clip = Clip(prompt_id=name, language=name, text="a", sound=Sound())
    key = ResultKey("m", name, {"engine": name}, {name: name})
    result = make_result(key, [clip], [{name: Score(0.5), "b": Score.missing(name)}], name=name)
    text = summary([result])
    assert text.count("&#91;x](http://tracker)") == text.count("owned") == 7
    assert not [part for part in ("<img", "[x]", "![", "\x1b", "\u202e") if part in text]
    result.write(tmp_path / "result.json")
    assert not {"\x1b", "\x07", "\u202e"} & set((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert read_result(tmp_path / "result.json") == result


def test_one_clip_is_not_there_twice(tmp_path: Path) -> None:
    clip = Clip(prompt_id="a", language="hi", text="a", sound=Sound())
    make_result(ResultKey("m", "p", {}, {}), [clip] * 2, [{"cer": Score(0.5)}] * 2).write(tmp_path / "result.json")
    with pytest.raises(DataError, match="two clips have one prompt and seed"):
        read_result(tmp_path / "result.json")
    row = json.dumps({"wav": "no.wav", "text": "a", "language": "en", "prompt_id": "a", "seed": 3})
    (tmp_path / "list.jsonl").write_text(f"{row}\n{row}\n")
    with pytest.raises(DataError, match="line 2: prompt 'a' with seed 3 is that of line 1"):
        listed_clips(tmp_path / "list.jsonl")


@pytest.mark.parametrize("content", ['["failed"]', "5", '"failed"', "[" * 100_000])
def test_a_shared_result_that_is_no_object_is_damaged(tmp_path: Path, content: str) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "abc.json").write_text(content)
    with pytest.raises(DataError, match="the result abc is damaged"):
        WorkQueue(shared_folder(tmp_path, StorageConfig())).result("abc")


@pytest.mark.parametrize("seed", ["x", None, [1], float("inf"), DIGITS_400, True])
def test_a_seed_in_a_listing_is_a_whole_number(tmp_path: Path, seed: Any) -> None:
    write_wav(tmp_path / "a.wav", np.zeros(1600, np.float32))
    (tmp_path / "clips.jsonl").write_text(json.dumps({"wav": "a.wav", "text": "a", "language": "hi", "seed": seed}))
    with pytest.raises(DataError, match="line 1: found the seed"):
        listed_clips(tmp_path / "clips.jsonl")


@pytest.mark.parametrize(
    ("read", "row"),
    [
        (listed_clips, {"wav": "a.wav", "text": "a\ud800", "language": "hi"}),
        (listed_clips, {"wav": "a.wav", "text": "a", "language": "hi", "prompt_id": "\ud800"}),
        (text_drafts, {"text": "a\ud800", "language": "hi"}),
        (lambda path: list(emergent(path)), {"text_to_synthesize": "a\ud800"}),
    ],
)
def test_half_of_a_surrogate_pair_is_no_text(tmp_path: Path, read: Callable[[Path], object], row: dict) -> None:
    (tmp_path / "prompts.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match=r"line 1: .*half of a surrogate pair"):
        read(tmp_path / "prompts.jsonl")


def test_a_name_that_no_file_can_have_is_no_recording(tmp_path: Path) -> None:
    write_wav(tmp_path / "voice.wav", np.zeros(1600, np.float32))
    (tmp_path / "meta.lst").write_text(f"one|Hello.|voice.wav|Goodbye.|{'a' * 5000}.wav\n")
    (draft,) = seed_tts(tmp_path / "meta.lst", "en")
    assert draft.recording is None


def test_the_settings_of_a_recognizer_are_nested_too_deeply(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(ModelError, match="holds no recognizer"):
        open_recognizer(str(tmp_path))


def test_a_speaker_encoder_that_cannot_run_is_refused_where_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("config.json", "preprocessor_config.json", "pytorch_model.bin"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ModelError, match=r"has no \*\.safetensors"):
        open_voice_encoder(str(tmp_path))
    monkeypatch.setattr(voices, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="resemblyzer needs the package resemblyzer: pip install 'titan-speech"):
        open_voice_encoder("resemblyzer")


def ask_engine(folder: str) -> None:
    request = Path(folder) / "request.json"
    request.write_text(json.dumps({"engine": "transformers", "model": folder, "dtype": "float32", "documents": []}))
    engine_process.main(str(request), str(request))


@pytest.mark.parametrize(
    "load",
    [
        lambda folder: open_recognizer(folder).load(),
        lambda folder: open_voice_encoder(folder).load(),
        load_policy,
        ask_engine,
    ],
)
def test_code_in_the_folder_of_a_model_is_neither_run_nor_asked_for(
    tmp_path: Path, load: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"model_type": "new", "auto_map": {"AutoConfig": "theirs.C", "AutoFeatureExtractor": "theirs.F"}}
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_text(json.dumps(settings))
    (tmp_path / "model.safetensors").write_bytes(b"\x02" + bytes(7) + b"{}")
    (tmp_path / "theirs.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass C: ...\nclass F: ...\n")
    asked: list[object] = []
    monkeypatch.setattr("builtins.input", lambda *words: asked.append(words) or "y")
    with pytest.raises(ValueError, match="custom code"):
        load(str(tmp_path))
    assert not asked
    assert not (tmp_path / "ran").exists()


def loads_of_transformers(file: Path) -> Iterator[ast.Call]:
    """Calls of a module's code that choose a class, and so perhaps code, by what a folder says."""
    tree = ast.parse(file.read_bytes())
    imported = [
        name.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "transformers"
        for name in node.names
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            words = ast.unparse(node.func).split(".")
            is_chosen = words[-1] == "from_pretrained" and words[0].startswith("Auto")
            if words[0] in imported and (is_chosen or words == ["pipeline"]):
                yield node


def test_every_load_by_transformers_says_that_no_code_of_a_folder_is_run() -> None:
    """Some of them come after checks that no folder of another architecture passes, so no folder tries them."""
    calls = {f"{file}:{call.lineno}": call for file in PACKAGE.rglob("*.py") for call in loads_of_transformers(file)}
    asking = [
        place
        for place, call in calls.items()
        if not any(word.arg == "trust_remote_code" and ast.unparse(word.value) == "False" for word in call.keywords)
    ]
    assert len(calls) >= 7
    assert asking == []


@pytest.mark.parametrize("settings", ["[1]", "5", "[" * 100_000, "{"])
def test_settings_of_a_journal_that_are_no_object_are_damaged(tmp_path: Path, settings: str) -> None:
    (tmp_path / "settings.json").write_text(settings)
    with pytest.raises(DataError, match=r"settings.json is damaged"):
        Journal(tmp_path, {})


@pytest.mark.parametrize(
    "answer",
    [
        {"codes": [70_000], "stopped": True, "scores": {}},
        {"codes": [-1], "stopped": True, "scores": {}},
        {"codes": ["7"], "stopped": True, "scores": {}},
        {"codes": [7.5], "stopped": True, "scores": {}},
        {"codes": [7], "stopped": "no", "scores": {}},
        {"codes": [7], "stopped": True, "scores": {"a": float("nan")}},
        {"codes": [[7, 8]], "stopped": True, "scores": {}},
        {"codes": [7], "stopped": True, "scores": {"a": DIGITS_400}},
        {"codes": [7], "stopped": True, "scores": [1]},
    ],
)
def test_a_line_of_a_journal_that_is_no_answer_is_damaged(tmp_path: Path, answer: dict[str, Any]) -> None:
    line = {"prompt": "a", "left_out": "", "answers": [answer]}
    (tmp_path / "answers.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(DataError, match="line 1 is damaged"):
        list(Journal(tmp_path, {}).read())
