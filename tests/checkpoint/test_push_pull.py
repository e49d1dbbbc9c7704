"""`checkpoint push` and `checkpoint pull`: what goes up comes back; refusals say what there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.checkpoint_folders import content, write_checkpoint
from tests.support.s3_server import BUCKET, S3Server
from titan_speech.checkpoint.commit import checkpoint_path
from titan_speech.checkpoint.folders import discard
from titan_speech.checkpoint.inspect import list_checkpoints, run_dir
from titan_speech.checkpoint.upload.job import UploadJob
from titan_speech.checkpoint.upload.uploader import UploadPass
from titan_speech.cli.main import main
from titan_speech.config.schema_operations import UploadConfig

TO = f"s3://{BUCKET}/by_hand"


def checkpoints(s3_server: S3Server, *words: str) -> int:
    return main(["checkpoint", *words, "--endpoint-url", s3_server.endpoint_url])


def test_a_run_is_pushed_and_pulled_by_hand(s3_server: S3Server, tmp_path: Path, capsys) -> None:
    run, back = tmp_path / "run", tmp_path / "back"
    for step in (10, 20):
        write_checkpoint(run / "checkpoint", step)
    assert checkpoints(s3_server, "push", str(run / "checkpoint"), TO, "--step", "10") == 0
    assert f"{TO}: 1 checkpoint sent, 0 were there" in capsys.readouterr().out
    assert checkpoints(s3_server, "push", str(run / "checkpoint"), TO) == 0
    assert f"{TO}: 1 checkpoint sent, 1 were there" in capsys.readouterr().out
    assert checkpoints(s3_server, "pull", TO, str(back)) == 0
    assert checkpoints(s3_server, "pull", TO, str(back), "--step", "10") == 0
    assert "0.1 MB, verified" in capsys.readouterr().out
    for step in (10, 20):
        pulled, pushed = (checkpoint_path(folder / "checkpoint", step) for folder in (back, run))
        assert content(pulled) == content(pushed)
    write_checkpoint(back / "checkpoint", 30)
    assert checkpoints(s3_server, "push", str(back / "checkpoint"), TO) == 0
    assert f"{TO}: 1 checkpoint sent, 2 were there" in capsys.readouterr().out
    assert checkpoints(s3_server, "push", str(run / "checkpoint"), TO, "--step", "99") == 2
    assert "no complete checkpoint of step 99; there are the steps 10, 20" in capsys.readouterr().err
    assert checkpoints(s3_server, "pull", TO, str(back), "--step", "99") == 2
    assert "there are step-10, step-20, step-30" in capsys.readouterr().err


def test_an_address_is_listed_and_keeps_in_full_what_was_thinned_here(
    s3_server: S3Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to, run = f"s3://{BUCKET}/looked_at", tmp_path / "run"
    write_checkpoint(run / "checkpoint", 10)
    assert checkpoints(s3_server, "push", str(run / "checkpoint"), to) == 0
    discard(checkpoint_path(run / "checkpoint", 10))
    write_checkpoint(run / "checkpoint", 10, kind="model")
    assert checkpoints(s3_server, "push", str(run / "checkpoint"), to) == 0
    s3_server.client().put_object(Bucket=BUCKET, Key="looked_at/step-20/.metadata", Body=b"1")
    capsys.readouterr()
    assert checkpoints(s3_server, "list", to) == 0
    header, ten, left = capsys.readouterr().out.splitlines()
    assert (header.split()[:2], ten.split()[:2]) == (["name", "kind"], ["step-10", "full"])
    assert left.startswith("not complete: step-20 (1 object, 0.0 MB): being sent now, or left")
    assert checkpoints(s3_server, "pull", to, str(run), "--step", "10") == 0
    assert (checkpoint_path(run / "checkpoint", 10) / "__0_state_0.distcp").exists()
    assert checkpoints(s3_server, "list", f"s3://{BUCKET}/nothing_here") == 2
    assert "no checkpoints there; expected the upload.to of a run" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["checkpoint", "verify", to])
    assert "checkpoint pull downloads and verifies it" in capsys.readouterr().err


def test_the_list_of_checkpoints_says_what_is_up(s3_server: S3Server, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    upload = UploadConfig(to=f"s3://{BUCKET}/listed", keep="all", kinds=("full",))
    job = UploadJob(tmp_path, folder, upload, s3_server.settings(tmp_path / "cache"))
    for step in (10, 20):
        write_checkpoint(folder, step)
    (checkpoint_path(folder, 20) / "__0_state_0.distcp").write_bytes(b"cut")
    UploadPass(job).run()
    header, ten, twenty, *notes = list_checkpoints(run_dir(folder)).lines
    place = header.index("upload")
    assert ten[place:].split() == ["complete", "complete"]
    assert twenty[place:].startswith("  ")
    assert f"uploads to {upload.to}: 0 wait (0.0 MB)" in notes
    assert any("step-20 is not uploaded" in note for note in notes)
