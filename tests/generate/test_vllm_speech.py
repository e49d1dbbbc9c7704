"""vLLM in an environment of its own speaks as transformers does and goes on after a kill; without it one message."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.hf_folders import Backbone, write_backbone, write_run
from titan_speech.cli.main import main
from titan_speech.errors import ModelError
from titan_speech.exit_codes import EXIT_BAD_INPUT
from titan_speech.generate.sampling import Decoding
from titan_speech.generate.synthesize import ReferenceVoice, SpeechModel, Utterance
from titan_speech.generate.vllm_speech import VLLMSpeech, require_vllm
from titan_speech.hf.expand import expand
from titan_speech.hf.export import WeightsCheckpoint, export
from titan_speech.hf.row_initialization import NewRows

UTTERANCES = [
    Utterance("Please hold the line.", None, 1),
    Utterance("Goodbye.", None, 2),
    Utterance("Thank you.", ReferenceVoice(np.arange(30, dtype=np.uint16), "One, two."), 3),
    Utterance("One moment, please, and I will see who is there.", None, 4),
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    write_backbone(folder / "base", Backbone("llama3", True, 2, head_dim=64))
    expand(folder / "base", folder / "extended", NewRows("mean_cov"))
    run = write_run(folder / "run", folder / "extended", "llama3")
    export(WeightsCheckpoint.open(run), folder / "hf", torch.float32)
    return folder / "hf"


@pytest.mark.slow
def test_vllm_speaks_what_transformers_speaks_and_goes_on_where_it_was_killed(exported: Path, tmp_path: Path) -> None:
    python = os.environ.get("TITAN_SPEECH_VLLM_PYTHON")
    if python is None:
        pytest.skip("TITAN_SPEECH_VLLM_PYTHON names no interpreter with vLLM")
    model, journal, greedy = (
        VLLMSpeech.read(exported, Path(python)),
        tmp_path / "greedy.jsonl",
        Decoding(0, max_codes=12),
    )
    found, num_timed_codes, duration_sec = model.synthesize(UTTERANCES, greedy, journal)
    expected = SpeechModel.load(exported).synthesize(UTTERANCES, greedy)
    assert [one.codes_F.tolist() for one in found] == [one.codes_F.tolist() for one in expected]
    assert [one.stopped for one in found] == [one.stopped for one in expected]
    assert num_timed_codes == sum(len(one.codes_F) for one in found)
    assert duration_sec > 0

    lines = [line for line in journal.read_text().splitlines() if line]
    journal.write_text("\n".join(lines[:2]) + "\n" + lines[2][:20])
    again, num_timed_codes, _ = model.synthesize(UTTERANCES, greedy, journal)
    assert [one.codes_F.tolist() for one in again] == [one.codes_F.tolist() for one in found]
    assert 0 < num_timed_codes < sum(len(one.codes_F) for one in found)

    sampled = Decoding(1.0, min_codes=12, max_codes=12)
    whole, _, _ = model.synthesize(UTTERANCES, sampled, tmp_path / "whole.jsonl")
    alone, _, _ = model.synthesize(UTTERANCES[1:2], sampled, tmp_path / "alone.jsonl")
    assert alone[0].codes_F.tolist() == whole[1].codes_F.tolist(), "whatever else is in the batch"
    assert all(len(one.codes_F) == 12 for one in whole)
    assert len({tuple(one.codes_F.tolist()) for one in whole}) == len(UTTERANCES)


def test_an_interpreter_without_vllm_is_one_message_before_anything_is_exported(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ModelError, match="cannot be started"):
        require_vllm(tmp_path / "python")
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    words = ["--model", str(exported), "--pack", str(tmp_path / "none"), "--engine", "vllm", "--python", str(bare)]
    assert main(["evaluate", "run", *words]) == EXIT_BAD_INPUT
    assert "has no vLLM; install it there" in capsys.readouterr().err


def test_a_process_that_fails_is_told_by_its_last_line_and_what_is_finished_stays(
    exported: Path, tmp_path: Path
) -> None:
    failing, journal = tmp_path / "python", tmp_path / "journal.jsonl"
    failing.write_text("#!/bin/sh\necho first\necho the reason >&2\nexit 3\n")
    failing.chmod(0o755)
    model = VLLMSpeech.read(exported, failing)
    first_id, stop_id = model.prompts.grammar.vocabulary.first_code_id, model.prompts.stop_id
    rows = [
        {"number": 0, "ids": [first_id + 5, first_id, stop_id], "sec": 1.0},
        {"number": 1, "ids": [3], "sec": 1.0},  # no code
        {"number": 9, "ids": [first_id], "sec": 1.0},
        {"number": 2, "ids": "text", "sec": 1.0},
        [],
    ]
    journal.write_text("\n".join(json.dumps(row) for row in rows) + '\n{"number": 3, "ids')
    with pytest.raises(ModelError, match=r"exit code 3\): the reason"):
        model.synthesize(UTTERANCES, Decoding(), journal)
    (found,), num_timed_codes, duration_sec = model.synthesize(UTTERANCES[:1], Decoding(), journal)
    assert (found.codes_F.tolist(), found.stopped) == ([5, 0], True)
    assert (num_timed_codes, duration_sec) == (0, 0.0), "nothing was left to decode"
