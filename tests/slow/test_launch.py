"""The launch scripts: clean by the shell linter, right by their parts, and really run where that can be done."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.runs import ROOT, SMALL, assert_close, figures, free_port, losses, train_well
from titan_speech.cli.main import find_command, parse
from titan_speech.cli.train import num_gpus
from titan_speech.preflight.config_checks import load_config

FOLDER = ROOT / "scripts" / "launch"
THREE_STEPS = ("--training.target_tokens", "3072")


def environment(**changed: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **changed}


def start(folder: Path, log: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "titan_speech", "train", SMALL, "--job.dump_folder", str(folder), *words]
    with log.open("w") as file:
        return subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=file, stderr=subprocess.STDOUT, text=True)


def test_the_shell_linter_finds_nothing() -> None:
    linter = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if linter is None:
        pytest.skip("shellcheck is not installed; pip install -e '.[dev]' brings it")
    scripts = [*FOLDER.glob("*.s*"), *(ROOT / "scripts").glob("*.sh")]
    assert len(scripts) >= 3
    done = subprocess.run([linter, *scripts], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("driver", "visible", "processes"),
    [
        ('echo "GPU 0: H100"; echo "GPU 1: H100"; echo "GPU 2: H100"', None, 3),
        ('echo "GPU 0: H100"; echo "GPU 1: H100"; echo "GPU 2: H100"', "1,2", 2),
        ("echo NVIDIA-SMI has failed because it could not reach the driver; exit 9", None, 0),
        ("exit 0", "", 0),
    ],
)
def test_a_process_is_started_for_each_gpu_that_can_be_seen(
    tmp_path: Path, driver: str, visible: str | None, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = tmp_path / "nvidia-smi"
    stub.write_text(f"#!/usr/bin/env bash\n{driver}\n", encoding="utf-8")
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert num_gpus() == processes


def test_the_manifest_starts_a_recipe_with_arguments_that_the_launcher_has() -> None:
    job = yaml.safe_load((FOLDER / "kubernetes.yaml").read_text("utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    worker = job["spec"]["pytorchReplicaSpecs"]["Worker"]
    [container] = worker["template"]["spec"]["containers"]
    assert container["name"] == "pytorch"
    assert worker["replicas"] == job["spec"]["elasticPolicy"]["maxReplicas"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == int(job["spec"]["nprocPerNode"])
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in worker["template"]["spec"]["volumes"]}
    command = container["command"]
    assert command[0] == "titan-speech"
    found, words = find_command(command[1:])
    args = parse(found, words)
    assert (ROOT / args.config).is_file()
    assert load_config(args.config_words).config.job.dump_folder == "/outputs/pt_s1"


def slurm_stubs(folder: Path) -> Path:
    """A cluster's commands: srun runs the task here and says how it was asked to, scontrol says what it was told."""
    folder.mkdir()
    for name, body in {
        "scontrol": '[[ $1 == show ]] && printf "node7\\nnode8\\n" || echo "scontrol $*"',
        "srun": 'echo "srun $*"\ntrap "echo saved; exit 75" USR1\n'
        "for _ in $(seq 100); do [[ -n ${LONG:-} ]] || exit 7; echo step; sleep 0.1; done",
    }.items():
        path = folder / name
        path.write_text(f"#!/usr/bin/env bash\n{body}\n", encoding="utf-8")
        path.chmod(0o755)
    return folder


def slurm(folder: Path, **changed: str) -> subprocess.Popen[str]:
    cluster = {"SLURM_JOB_NODELIST": "node[7-8]", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "41"}
    path = f"{slurm_stubs(folder / 'bin')}{os.pathsep}{os.environ['PATH']}"
    return subprocess.Popen(
        ["bash", str(FOLDER / "slurm.sbatch"), SMALL, "--training.seq_len", "512"],
        cwd=ROOT,
        env=environment(PATH=path, **cluster, **changed),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_under_slurm_one_task_a_node_meets_at_the_first_node(tmp_path: Path) -> None:
    process = slurm(tmp_path)
    output, _ = process.communicate(timeout=60)
    where = "--nnodes 2 --rdzv-endpoint node7:29500 --rdzv-id 41"
    expected = f"srun --kill-on-bad-exit=1 titan-speech train {SMALL} --training.seq_len 512 {where}"
    assert output.splitlines() == [expected]
    assert process.returncode == 7


def test_under_slurm_a_run_that_is_out_of_time_saves_and_goes_back_into_the_queue(tmp_path: Path) -> None:
    process = slurm(tmp_path, LONG="1")
    assert process.stdout is not None
    while process.stdout.readline() != "step\n":
        assert process.poll() is None
    process.send_signal(10)  # SIGUSR1, as sbatch sends it to the batch script
    output, _ = process.communicate(timeout=60)
    assert [line for line in output.splitlines() if line != "step"] == ["saved", "scontrol requeue 41"]
    assert process.returncode == 75


@pytest.mark.slow
def test_two_launchers_on_the_loopback_meet_and_train_as_one_machine_does(tmp_path: Path) -> None:
    expected = losses(train_well(tmp_path / "one", *THREE_STEPS, world_size=2))
    shared = (
        "--nnodes",
        "2",
        "--nproc",
        "1",
        "--rdzv-endpoint",
        f"127.0.0.1:{free_port()}",
        "--local-addr",
        "127.0.0.1",
    )
    launchers = [start(tmp_path / "two", tmp_path / f"log{number}.txt", *THREE_STEPS, *shared) for number in range(2)]
    assert [launcher.wait(1500) for launcher in launchers] == [0, 0]
    assert_close(losses(figures(tmp_path / "two")), expected)
