"""Checkpoints of a run are evaluated as they appear, once each, whatever happens to them and to the worker."""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.support.hf_folders import Backbone, write_backbone, write_run
from tests.support.s3_server import S3Server
from titan_speech.checkpoint.commit import MARKER
from titan_speech.checkpoint.folders import lock_for_removal
from titan_speech.checkpoint.provenance import Provenance
from titan_speech.checkpoint.upload.transfer import push
from titan_speech.checkpoint.verify import write_marker
from titan_speech.cli.main import main
from titan_speech.codec.load import load_codec
from titan_speech.config.resolved import RESOLVED_NAME, resolved_toml
from titan_speech.config.schema_data import StorageConfig
from titan_speech.errors import CodecError
from titan_speech.evaluate.clip import Clip, Score, Sound
from titan_speech.evaluate.prompt_packs.prompt_pack import Prompt, PromptPack, write_pack, write_sound
from titan_speech.evaluate.result import AUDIO_DIR, RESULTS_DIR, Result, claim_path
from titan_speech.evaluate.scorers.base import Metric, ScorersFailedError
from titan_speech.evaluate.watch import checkpoint_result, likelihood, watcher
from titan_speech.evaluate.watch.checkpoint_result import Evaluation, evaluate_export
from titan_speech.evaluate.watch.claims import Claim, WorkQueue
from titan_speech.evaluate.watch.generate_clips import generate_clips, utterance_of
from titan_speech.evaluate.watch.milestones import MilestoneCheck
from titan_speech.evaluate.watch.publish import Publisher, open_sinks
from titan_speech.evaluate.watch.run_checkpoints import RunCheckpoint, run_checkpoints
from titan_speech.evaluate.watch.watcher import Due, Watcher
from titan_speech.exit_codes import EXIT_BAD_INPUT, EXIT_DONE, EXIT_FOUND_WRONG
from titan_speech.generate.sampling import Decoding
from titan_speech.generate.synthesize import ReferenceVoice, SpeechModel, Utterance
from titan_speech.hf.expand import expand
from titan_speech.hf.export import WeightsCheckpoint, export
from titan_speech.hf.model_card import UNPROVED
from titan_speech.hf.row_initialization import NewRows
from titan_speech.model.backbones import PAIRS
from titan_speech.preflight.config_checks import load_config
from titan_speech.storage.retry import UnreachableError
from titan_speech.storage.shared_files import shared_folder

DECODING = Decoding(temperature=1.0, max_codes=10, min_codes=4)
RECORDED_F = np.arange(30, dtype=np.uint16) * 2000


@dataclass
class Lengths:
    """A scorer that needs no model."""

    name: str = "length"
    metrics: tuple[Metric, ...] = (Metric("num_codes", "", "codes of the clip"),)
    version: str = "1"

    def score(self, clips: Sequence[Clip]) -> list[dict[str, Score]]:
        return [
            {"num_codes": Score(float(len(clip.sound.codes_F)))} for clip in clips if clip.sound.codes_F is not None
        ]

    def close(self) -> None: ...


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watched")
    write_backbone(folder / "base", Backbone())
    expand(folder / "base", folder / "extended", NewRows("mean_cov", 1.0))
    return write_run(folder / "run", folder / "extended", "llama3")


@pytest.fixture(scope="module")
def pack_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pack")
    voice = write_sound(folder, "voices/one", Sound(codes_F=np.arange(40, dtype=np.uint16)))
    recording = write_sound(folder, "recordings/three", Sound(codes_F=RECORDED_F))
    prompts = (
        Prompt("one", "en", "Please hold the line.", sets=("canary", "full")),
        Prompt("two", "hi", "नमस्ते", subset="short"),
        Prompt("three", "en", "Goodbye.", voice=voice, voice_text="One, two.", recording=recording),
    )
    write_pack(folder, PromptPack("lines", prompts, codec_hash=load_codec("embedded").codec_hash))
    return folder


def evaluation(pack_folder: Path, set_name: str = "full") -> Evaluation:
    from titan_speech.evaluate.prompt_packs.prompt_pack import read_pack

    return Evaluation(read_pack(pack_folder), pack_folder, set_name, DECODING, load_codec("embedded"), [Lengths()])


def watcher_of(run: Path, pack_folder: Path, tmp_path: Path, *due: Due, worker: str = "a") -> Watcher:
    queue = WorkQueue(shared_folder(tmp_path / "evaluation", StorageConfig()), worker, 0.6, 0.1)
    checkpoints = run_checkpoints(str(run), StorageConfig())
    return Watcher(checkpoints, due or (Due(evaluation(pack_folder)),), queue, tmp_path / "work")


def test_each_checkpoint_is_evaluated_once_and_again_under_other_settings(
    run: Path, pack_folder: Path, tmp_path: Path
) -> None:
    canary = Due(evaluation(pack_folder, "canary"), keeps_audio=True)
    full = Due(evaluation(pack_folder), every_steps=4)
    one = watcher_of(run, pack_folder, tmp_path, canary, full)
    assert one.evaluate_due() == 2
    assert one.evaluate_due() == 0
    assert watcher_of(run, pack_folder, tmp_path, canary, full, worker="b").evaluate_due() == 0
    (fingerprint,) = (checkpoint.fingerprint for checkpoint in one.checkpoints.complete())
    found = one.queue.result(full.evaluation.key(fingerprint).id)
    assert found is not None
    assert found["step"] == 5
    assert [clip["prompt_id"] for clip in found["clips"]] == ["one", "two", "three"]
    assert all(4 <= clip["scores"]["num_codes"]["value"] <= 10 for clip in found["clips"])
    assert found["notes"]["codes_per_sec"] > 0
    assert len(list((tmp_path / "evaluation" / AUDIO_DIR).rglob("*.wav"))) == 1
    assert not list((tmp_path / "work").glob("*")), "codes are kept until the result is there, no longer"
    hotter = replace(full, evaluation=replace(full.evaluation, decoding=replace(DECODING, temperature=0.5)))
    assert watcher_of(run, pack_folder, tmp_path, hotter).evaluate_due() == 1
    assert len(list((tmp_path / "evaluation" / RESULTS_DIR).iterdir())) == 3


def test_a_worker_goes_on_where_the_one_before_was_killed(
    run: Path, pack_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(WeightsCheckpoint.open(run), tmp_path / "hf")
    model, codec = SpeechModel.load(tmp_path / "hf"), load_codec("embedded")
    monkeypatch.setattr("titan_speech.evaluate.watch.generate_clips.MAX_BATCH_TOKENS", 40)
    prompts = [(prompt, None, None) for prompt in evaluation(pack_folder).pack.prompts[:2]]
    utterances = [utterance_of(prompt, None, codec) for prompt, _, _ in prompts]
    whole = generate_clips(model, prompts, utterances, codec, DECODING, tmp_path / "whole", "step 5")
    assert len(list((tmp_path / "whole").iterdir())) == 2
    first, second = sorted((tmp_path / "whole").iterdir())
    second.write_bytes(first.read_bytes()[:100])  # cut: its prompt is spoken again
    again = generate_clips(model, prompts, utterances, codec, DECODING, tmp_path / "whole", "step 5")
    assert 0 < again.num_timed_codes < whole.num_timed_codes
    assert again.num_codes == whole.num_codes == whole.num_timed_codes
    for one, other in zip(whole.clips, again.clips, strict=True):
        np.testing.assert_array_equal(one.sound.codes_F, other.sound.codes_F)  # pyright: ignore[reportArgumentType]
        assert one.stopped == other.stopped


def test_a_server_that_goes_away_costs_no_codes_and_does_not_end_the_watch(
    run: Path, pack_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, stop, asked = watcher_of(run, pack_folder, tmp_path), Event(), []

    def unreachable(queue: WorkQueue, key: str, *_: object) -> None:
        monkeypatch.setattr(WorkQueue, name, real)
        asked.append(name)
        raise UnreachableError("the server does not answer")

    def read(result: Result) -> None:
        assert result.notes is not None
        assert result.notes["codes_per_sec"] == 0, "all had been decoded before the server went away"
        stop.set()

    one.on_result = read
    name, real = "publish", WorkQueue.publish
    monkeypatch.setattr(WorkQueue, name, unreachable)
    with pytest.raises(UnreachableError):
        one.evaluate_due()
    assert one.evaluate_due() == 1
    name, real, stop = "result", WorkQueue.result, Event()
    one._steps.clear()
    monkeypatch.setattr(WorkQueue, name, unreachable)
    one.watch(stop, 0.01)
    assert asked == ["publish", "result"]
    assert not list((tmp_path / "work").glob("*"))


def test_one_step_is_evaluated_when_asked_for_and_after_a_worker_that_is_gone(
    run: Path, pack_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(run), "--pack", str(pack_folder), "--set", "full", "--step", "5", "--output", str(tmp_path / "out")]
    command = ["evaluate", "run", *words, "--max-sec", "0.2", "--lease-sec", "1", "--poll-sec", "0.2"]
    assert main(command) == EXIT_DONE
    assert "1 new result" in capsys.readouterr().out, "though 5 is far from --full-every"
    (result,) = (tmp_path / "out" / RESULTS_DIR).iterdir()
    result.unlink()
    claim = tmp_path / "out" / claim_path(result.stem)
    claim.write_bytes(Claim("process 1 on another machine", "token").to_json())
    assert main(command) == EXIT_DONE
    out = capsys.readouterr().out
    assert "1 evaluation of other workers" in out
    assert "1 new result" in out
    assert result.is_file()


def test_clips_that_fail_are_named_and_the_exit_code_says_so(
    run: Path, pack_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(WeightsCheckpoint.open(run), tmp_path / "hf")
    for place in ([str(run), "--output", str(tmp_path / "out")], ["--model", str(tmp_path / "hf")]):
        command = ["evaluate", "run", *place, "--pack", str(pack_folder), "--set", "canary", "--max-sec", "0.04"]
        assert main(command) == EXIT_FOUND_WRONG
        out = capsys.readouterr().out
        assert "1 of 1 prompts failed in at least one metric, such as one: 0.0" in out, "shorter than a scorer takes"
    command = ["evaluate", "run", str(run), "--output", str(tmp_path / "out"), "--pack", str(pack_folder)]
    assert main([*command, "--set", "canary", "--max-sec", "0.3"]) == EXIT_DONE, (
        "failures of other settings are not its own"
    )


def test_nothing_but_results_is_left_of_the_evaluation_of_an_export(
    run: Path, pack_folder: Path, tmp_path: Path
) -> None:
    export(WeightsCheckpoint.open(run), tmp_path / "hf")
    command = ["evaluate", "run", "--model", str(tmp_path / "hf"), "--pack", str(pack_folder), "--max-sec", "0.2"]
    assert main([*command, "--set", "canary"]) == EXIT_DONE
    files = [path for path in (tmp_path / "hf-evaluation").rglob("*") if path.is_file()]
    assert [path.parent.name for path in files] == [RESULTS_DIR]
    kept = ["--keep-audio", "canary", "--output", str(tmp_path / "heard")]
    assert main([*command, "--set", "canary", *kept]) == EXIT_DONE
    assert [path.suffix for path in (tmp_path / "heard" / AUDIO_DIR).rglob("*.*")] == [".wav"]


def test_voices_that_a_pack_has_as_codes_are_heard_by_scorers_and_cloned_or_not(
    run: Path, pack_folder: Path, tmp_path: Path
) -> None:
    export(WeightsCheckpoint.open(run), tmp_path / "hf")
    one = evaluation(pack_folder)
    plain = replace(one, clones=False, num_seeds=2)
    assert (
        len({each.key("x").series for each in (one, plain, replace(one, num_seeds=2), replace(one, engine="vllm"))})
        == 4
    )
    result, clips = evaluate_export(tmp_path / "hf", one, one.key("x"), tmp_path / "work", "cloned")
    twice, plain_clips = evaluate_export(tmp_path / "hf", plain, plain.key("x"), tmp_path / "plain", "not cloned")
    voice = clips[2].voice
    assert voice is not None
    assert voice.wav_T is not None
    assert len(voice.wav_T) == 40 * 320
    assert [(clip.prompt_id, clip.seed) for clip in twice.clips] == [
        (name, seed) for seed in (0, 1) for name in ("one", "two", "three")
    ]
    codes = [clip.sound.codes_F.tolist() for clip in (*clips, *plain_clips) if clip.sound.codes_F is not None]
    assert codes[0:2] == codes[3:5], "texts without a voice are the same"
    assert codes[2] != codes[5], "the prompt with a voice is another one"
    assert codes[3:6] != codes[6:9], "each seed has samples of its own"
    assert result.notes is not None
    assert result.notes["codes_per_sec"] > 0


def test_the_likelihood_of_a_recording_is_the_loss_of_its_codes(
    run: Path, pack_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(WeightsCheckpoint.open(run), tmp_path / "hf")
    model = SpeechModel.load(tmp_path / "hf")
    monkeypatch.setattr(likelihood, "CHUNK_LOGITS", 7 * model.grammar.vocabulary.num_rows)
    one = replace(evaluation(pack_folder), num_seeds=2)
    result, _ = evaluate_export(tmp_path / "hf", one, one.key("x"), tmp_path / "work", "hf")
    found = [clip.scores[likelihood.METRIC] for clip in result.clips]
    assert [score.reason for score in found[:2]] == ["no recording"] * 2
    assert found[2] == found[5], "no sampling is in it"
    assert found[2].weight == len(RECORDED_F)
    reference = ReferenceVoice(np.arange(40, dtype=np.uint16), "One, two.")
    task, parts = model.parts("Goodbye.", reference)
    document = model.grammar.document(task, replace(parts, codes=RECORDED_F))
    ids_1T = torch.from_numpy(document.ids_T.astype(np.int64))[None]
    with torch.inference_mode():
        logprobs_TV = model.model(ids_1T).logits[0].double().log_softmax(-1)
    places = range(document.num_prefix_tokens, document.num_prefix_tokens + len(RECORDED_F))
    expected = -np.mean([float(logprobs_TV[place - 1, ids_1T[0, place]]) for place in places])
    assert found[2].value == pytest.approx(expected, rel=1e-5)


def test_recordings_that_cannot_be_read_by_the_model_are_marked(pack_folder: Path) -> None:
    one, codec = evaluation(pack_folder), load_codec("embedded")
    silent, short = (Sound(np.zeros(count, np.float32)) for count in (16_000, 10))
    spoken = Sound(codec.decode(RECORDED_F))
    found = [one._codes(sound) for sound in (None, silent, short, spoken, Sound(codes_F=RECORDED_F))]
    assert found[:3] == [
        "no recording", "the recording: silent", "the recording: 0.00 s long, expected 0.1 to 120 s"
    ]  # fmt: skip
    assert [len(codes) for codes in found[3:]] == [30, 30]
    assert likelihood._score(None, Utterance(""), "the recording: silent").failed  # pyright: ignore[reportArgumentType]


def test_a_pack_of_another_codec_is_refused(pack_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(pack_folder, tmp_path / "pack"))
    (copy / "pack.json").unlink()
    write_pack(copy, replace(evaluation(pack_folder).pack, codec_hash="another"))
    command = ["evaluate", "run", "--model", str(tmp_path), "--pack", str(copy), "--max-sec", "0.2"]
    assert main(command) == EXIT_BAD_INPUT


def checkpoints(*steps: int) -> list[RunCheckpoint]:
    return [RunCheckpoint(step, str(step)) for step in steps]


@pytest.mark.parametrize(
    ("complete", "evaluated", "due"),
    [
        ((300, 600, 900, 1200, 1500, 2100), (), (2100, 1200)),
        ((1500, 2100), (1200,), (2100,)),  # 1200 is gone, and was evaluated
        ((1000, 2000), (1000,), (2000, 1000)),  # the queue knows that 1000 is done
        ((900,), (), ()),
    ],
)
def test_the_full_set_is_due_at_the_first_checkpoint_of_each_multiple(
    pack_folder: Path, complete: tuple[int, ...], evaluated: tuple[int, ...], due: tuple[int, ...]
) -> None:
    full = Due(evaluation(pack_folder), every_steps=1000)
    assert [one.step for one in full.of(checkpoints(*complete), evaluated)] == list(due)
    every = Due(evaluation(pack_folder))
    assert [one.step for one in every.of(checkpoints(*complete), evaluated)] == sorted(complete, reverse=True)


def in_the_middle(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    real = watcher.evaluate_checkpoint

    def evaluate(*arguments):
        act()
        return real(*arguments)

    monkeypatch.setattr(watcher, "evaluate_checkpoint", evaluate)


def test_a_checkpoint_that_vanishes_is_a_result_that_says_so(
    run: Path, pack_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    one = watcher_of(copy, pack_folder, tmp_path)
    with monkeypatch.context() as patch:
        in_the_middle(patch, lambda: shutil.rmtree(copy / "checkpoint" / "step-5"))
        assert one.evaluate_due() == 1
    (path,) = (tmp_path / "evaluation" / RESULTS_DIR).iterdir()
    found = one.queue.result(path.stem)
    assert found is not None
    assert "step-5" in found["failed"]
    assert one.evaluate_due() == 0
    assert list((tmp_path / "evaluation" / "claims").iterdir()) == []


@dataclass
class Unloadable(Lengths):
    """A scorer that is broken until it is mended."""

    mended: bool = False

    def score(self, clips: Sequence[Clip]) -> list[dict[str, Score]]:
        return super().score(clips) if self.mended else [{"num_codes": Score.failure("out of memory")} for _ in clips]


def test_scores_of_a_broken_scorer_are_no_result_and_are_made_when_it_is_mended(
    run: Path, pack_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, stop = Unloadable(), Event()
    due = Due(replace(evaluation(pack_folder), scorers=[broken]))
    one = watcher_of(run, pack_folder, tmp_path, due)
    with pytest.raises(ScorersFailedError, match=r"no clip of 3 could be scored by length: out of memory"):
        one.evaluate_due()
    assert one.queue.done() == set()

    def wait(seconds: float) -> bool:
        broken.mended = True
        return Event.is_set(stop)

    def read(result: Result) -> None:
        assert result.notes is not None
        assert result.notes["codes_per_sec"] == 0, "the codes were kept"
        stop.set()

    one.on_result = read
    monkeypatch.setattr(stop, "wait", wait)
    one.watch(stop)
    assert len(one.queue.done()) == 1

    broken.mended = False
    later = watcher_of(run, pack_folder, tmp_path / "later", due)
    later.queue.max_attempts = 1
    assert later.evaluate_due() == 1, "not tried for ever"
    assert later.evaluate_due() == 0
    (reason,) = later.failures()
    assert "out of memory" in reason


def test_a_checkpoint_is_open_while_it_is_exported_and_no_longer(
    run: Path, pack_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    one, real = watcher_of(copy, pack_folder, tmp_path), checkpoint_result.evaluate_export

    def evaluate(*arguments):
        with lock_for_removal(copy / "checkpoint" / "step-5") as is_mine:
            assert is_mine
        return real(*arguments)

    monkeypatch.setattr(checkpoint_result, "evaluate_export", evaluate)
    assert one.evaluate_due() == 1


def test_what_every_checkpoint_would_meet_ends_the_worker_and_frees_the_work(
    run: Path, pack_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise CodecError("another codec")

    one = watcher_of(run, pack_folder, tmp_path)
    with monkeypatch.context() as patch:
        in_the_middle(patch, refuse)
        with pytest.raises(CodecError):
            one.evaluate_due()
    assert one.evaluate_due() == 1


def test_results_go_to_the_note_for_the_card_and_to_tensorboard(run: Path, pack_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "evaluation"
    sinks = open_sinks(["tensorboard"], folder, "run")
    one = watcher_of(run, pack_folder, tmp_path, Due(evaluation(pack_folder, "canary")), Due(evaluation(pack_folder)))
    one.on_result = Publisher(folder, sinks)
    assert one.evaluate_due() == 2
    sinks.close()
    note = (folder / "step-5.md").read_text()
    assert note.count("| language | num_codes |") == 2
    assert "| hi |" in note
    events = EventAccumulator(str(folder / "tb"))
    events.Reload()
    assert {"evaluation/canary/num_codes", "evaluation/full/num_codes/language/hi"} <= set(events.Tags()["scalars"])
    assert [scalar.step for scalar in events.Scalars("evaluation/full/num_codes")] == [5]
    first = next((folder / RESULTS_DIR).iterdir())
    for left in ("missing", "older than its results"):
        if left == "missing":
            (folder / "step-5.md").unlink()
        else:
            (folder / "step-5.md").write_text("of one result")
            os.utime(folder / "step-5.md", (0, first.stat().st_mtime - 1))
        Publisher(folder, open_sinks([], folder, "run")).restore_notes()
        assert (folder / "step-5.md").read_text() == note, left
    (folder / "step-5.md").write_text("newer")
    Publisher(folder, open_sinks([], folder, "run")).restore_notes()
    assert (folder / "step-5.md").read_text() == "newer"
    again = watcher_of(run, pack_folder, tmp_path, Due(evaluation(pack_folder)))
    again.on_result = lambda result: pytest.fail("was there before")
    assert again.evaluate_due() == 0


@pytest.mark.slow
def test_a_milestone_is_compared_with_its_checkpoint_and_its_card_says_so(
    run: Path, pack_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    export(WeightsCheckpoint.open(copy), copy / "hf" / "step-5", torch.float32)
    card = copy / "hf" / "step-5" / "README.md"
    assert UNPROVED in card.read_text()
    one = watcher_of(copy, pack_folder, tmp_path)
    one.due = ()
    one.milestones = MilestoneCheck(copy, one.checkpoints, one.queue)
    assert one.evaluate_due() == 1
    assert one.evaluate_due() == 0
    text = card.read_text()
    assert UNPROVED not in text
    assert "- equal within the bounds" in text
    assert text.index("## Parity with training") < text.index("- equal") < text.index("## Evaluation")
    (folder,) = (copy / "hf").glob("step-5/")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] *= 2
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    shutil.rmtree(tmp_path / "evaluation")
    again = watcher_of(copy, pack_folder, tmp_path)
    again.due, again.milestones = (), MilestoneCheck(copy, again.checkpoints, again.queue)
    assert again.evaluate_due() == 1
    assert "- differs: " in card.read_text()


def test_a_fetched_checkpoint_chooses_no_server_and_no_cache(run: Path, tmp_path: Path, s3_server: S3Server) -> None:
    theirs = tmp_path / "theirs"
    shutil.copytree(run, theirs)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        words = ["--job.config_file", str(run / RESOLVED_NAME), "--storage.cache_dir", str(tmp_path / "planted")]
        words += ["--storage.endpoint_url", f"http://127.0.0.1:{listening.getsockname()[1]}"]
        words += ["--storage.num_attempts", "1", "--storage.timeout_sec", "2"]
        text = re.sub('(?m)^store = "[^"]*"', 'store = "s3://stores/nothing"', resolved_toml(load_config(words)))
        vocabulary = WeightsCheckpoint.open(run).grammar.vocabulary.fingerprint
        Provenance(vocabulary, "", "", 1, config=text, rotary=PAIRS).write(theirs / "checkpoint" / "step-5")
        (theirs / "checkpoint" / "step-5" / MARKER).unlink()
        write_marker(theirs / "checkpoint" / "step-5")
        mine = s3_server.settings(tmp_path / "cache")
        push(theirs, theirs / "checkpoint", "s3://stores/theirs", mine)
        checkpoints = run_checkpoints("s3://stores/theirs", mine)
        (found,) = checkpoints.complete()
        with checkpoints.opened(found) as opened:
            export(opened, tmp_path / "export")
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):
            listening.accept()
    assert not (tmp_path / "planted").exists()
