"""The launch scripts: clean by the shell linter, right by their parts, and really run where that can be done."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.runs import ROOT, SMALL, assert_close, figures, losses, train_well

FOLDER = ROOT / "scripts" / "launch"
RUN = FOLDER / "run.sh"
THREE_STEPS = ("--training.target_tokens", "3072")


def environment(**changed: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHON": sys.executable, **changed}


def start(folder: Path, *overrides: str, **changed: str) -> subprocess.Popen[str]:
    command = ["bash", str(RUN), SMALL, "--job.dump_folder", str(folder), *overrides]
    with (folder.parent / f"{folder.name}-{changed.get('LOG_DIR', 'logs')[-1]}.txt").open("w") as log:
        return subprocess.Popen(
            command, cwd=ROOT, env=environment(**changed), stdout=log, stderr=subprocess.STDOUT, text=True
        )


def test_the_shell_linter_finds_nothing() -> None:
    linter = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if linter is None:
        pytest.skip("shellcheck is not installed; pip install -e '.[dev]' brings it")
    scripts = [*FOLDER.glob("*.s*"), *(ROOT / "scripts").glob("*.sh")]
    assert len(scripts) >= 3
    done = subprocess.run([linter, *scripts], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--training.seq_len", "100"), "training.global_batch_tokens: found 1024"),
        (("--data.source.tts.store", "nowhere"), 'data.source.1.store: found no folder "nowhere"'),
    ],
)
def test_a_configuration_that_cannot_run_is_told_once_and_nothing_is_started(
    tmp_path: Path, flags: tuple[str, ...], message: str
) -> None:
    process = start(tmp_path / "run", *flags, NPROC_PER_NODE="2")
    assert process.wait(100) == 2
    [log] = tmp_path.glob("*.txt")
    assert log.read_text().count(message) == 1
    assert "torch" not in log.read_text()


@pytest.mark.parametrize(
    ("arguments", "changed", "message"),
    [
        ([], {}, "found no argument; expected a configuration"),
        (["nowhere.toml"], {}, "found nowhere.toml; expected a configuration"),
        ([SMALL], {"NNODES": "2"}, "found NNODES=2 without RDZV_ENDPOINT; expected the host:port"),
    ],
)
def test_what_is_missing_is_said(arguments: list[str], changed: dict[str, str], message: str) -> None:
    done = subprocess.run(
        ["bash", str(RUN), *arguments],
        cwd=ROOT,
        env=environment(**changed),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize(
    ("driver", "visible", "processes"),
    [
        ('echo "GPU 0: H100"; echo "GPU 1: H100"; echo "GPU 2: H100"', "", 3),
        ('echo "GPU 0: H100"; echo "GPU 1: H100"; echo "GPU 2: H100"', "1,2", 2),
        ("echo NVIDIA-SMI has failed because it could not reach the driver; exit 9", "", 1),
    ],
)
def test_a_process_is_started_for_each_gpu_that_can_be_seen(
    tmp_path: Path, driver: str, visible: str, processes: int
) -> None:
    stub = tmp_path / "nvidia-smi"
    stub.write_text(f"#!/usr/bin/env bash\n{driver}\n", encoding="utf-8")
    stub.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", str(RUN), SMALL, "--parallelism.data_parallel_shard_degree", "64"],
        cwd=ROOT,
        env=environment(PATH=path, CUDA_VISIBLE_DEVICES=visible, NPROC_PER_NODE=""),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert f"expected the world size {processes}" in done.stderr


def test_the_manifest_starts_a_recipe_with_settings_that_torchrun_has() -> None:
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
    assert (ROOT / command[command.index("--job.config_file") + 1]).is_file()
    from torch.distributed.run import get_args_parser

    known = get_args_parser().parse_args(command[1:])
    assert (known.training_script, known.module, known.shutdown_timeout) == ("titan_speech.train", True, 150)


def slurm_stubs(folder: Path) -> Path:
    """A cluster's commands: srun runs the task here and says how it was asked to, scontrol says what it was told."""
    folder.mkdir()
    for name, body in {
        "scontrol": '[[ $1 == show ]] && printf "node7\\nnode8\\n" || echo "scontrol $*"',
        "srun": 'echo "srun $* as $RDZV_ID: $NNODES at $RDZV_ENDPOINT"\ntrap "echo saved; exit 75" USR1\n'
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
    expected = f"srun --kill-on-bad-exit=1 scripts/launch/run.sh {SMALL} --training.seq_len 512 as 41: 2 at node7:29500"
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
def test_one_machine_really_runs_and_leaves_what_each_worker_printed(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    process = start(tmp_path / "run", *THREE_STEPS, NPROC_PER_NODE="2", LOG_DIR=str(logs))
    assert process.wait(1500) == 0
    assert sorted(figures(tmp_path / "run")) == [1, 2, 3]
    printed = {path.parent.name: path.read_text(errors="replace") for path in logs.rglob("stdout.log")}
    assert sorted(printed) == ["0", "1"]
    assert "learning rate" in printed["0"]


@pytest.mark.slow
def test_two_agents_on_the_loopback_meet_and_train_as_one_machine_does(tmp_path: Path) -> None:
    expected = losses(train_well(tmp_path / "one", *THREE_STEPS, world_size=2))
    shared = {"NNODES": "2", "NPROC_PER_NODE": "1", "RDZV_ENDPOINT": "127.0.0.1:29751", "LOCAL_ADDR": "127.0.0.1"}
    agents = [
        start(tmp_path / "two", *THREE_STEPS, **shared, RDZV_ID="test", LOG_DIR=str(tmp_path / f"logs{number}"))
        for number in range(2)
    ]
    assert [agent.wait(1500) for agent in agents] == [0, 0]
    assert_close(losses(figures(tmp_path / "two")), expected)
