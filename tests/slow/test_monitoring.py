"""Dashboards and alerts against a real Prometheus: it scrapes a real run, and each alert fires on its fault alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.scripts.test_monitoring import FOLDER, dashboard_queries
from tests.support.alert_faults import ASKED_AT, FAULTS, SOUND
from tests.support.runs import figures, free_port, kill, start_run
from titan_speech.ledger.records import ledger_file

pytestmark = pytest.mark.slow
TIMEOUT_SEC = 300


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of prometheus and promtool: of the system, or Debian's package unpacked."""
    if found := shutil.which("promtool"):
        return Path(found).parent
    folder = tmp_path_factory.mktemp("prometheus")
    if shutil.which("apt-get") is None:
        pytest.skip("prometheus is not installed, and there is no apt-get to download it with")
    subprocess.run(["apt-get", "download", "-q", "prometheus"], cwd=folder, check=True)
    (package,) = folder.glob("prometheus_*.deb")
    subprocess.run(["dpkg-deb", "-x", str(package), str(folder)], check=True)
    return folder / "usr" / "bin"


def test_promtool_accepts_the_rules_and_the_configuration(programs: Path) -> None:
    for words in (("check", "rules", "alerts.yml"), ("check", "config", "prometheus.yml")):
        found = subprocess.run([programs / "promtool", *words], cwd=FOLDER, capture_output=True, text=True)
        assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize("alert", ["", *FAULTS])
def test_an_alert_fires_on_its_fault_alone_and_none_in_a_sound_run(programs: Path, tmp_path: Path, alert: str) -> None:
    series = SOUND | (FAULTS[alert] if alert else {})
    expected = [{"labels": f'{{alertname="{alert}"}}', "value": 1}] if alert else []
    case = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": 'group by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": ASKED_AT,
                "exp_samples": expected,
            }
        ],
    }
    file = tmp_path / "case.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(FOLDER / "alerts.yml")], "tests": [case]}))
    found = subprocess.run([programs / "promtool", "test", "rules", file], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


@contextmanager
def prometheus(programs: Path, folder: Path, target: str) -> Iterator[int]:
    """A server with the alerts that scrapes one endpoint every second; yields its port."""
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(FOLDER / "alerts.yml")]
    config["scrape_configs"] = [{"job_name": "titan_speech", "static_configs": [{"targets": [target]}]}]
    file, port = folder / "prometheus.yml", free_port()
    file.write_text(yaml.safe_dump(config))
    command = [programs / "prometheus", f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "prometheus.log").open("w") as log:
        server = subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=subprocess.STDOUT
        )
        try:
            yield port
        finally:
            server.kill()
            server.wait()


def ask(port: int, query: str) -> list[dict[str, Any]]:
    url = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]["result"]
    except OSError:
        return []


def wait_for(what: Callable[[], object], name: str) -> None:
    deadline = time.monotonic() + TIMEOUT_SEC
    while not what():
        assert time.monotonic() < deadline, f"{name} did not come in {TIMEOUT_SEC} s"
        time.sleep(0.5)


def firing(port: int) -> set[str]:
    return {one["metric"]["alertname"] for one in ask(port, 'ALERTS{alertstate="firing"}')}


def test_a_real_prometheus_scrapes_a_real_run_and_alerts_fire_on_injected_faults(
    programs: Path, gold: Path, tmp_path: Path
) -> None:
    """A generation check out of its bounds, and a rank that is stopped."""
    run, endpoint = tmp_path / "run", f"127.0.0.1:{free_port()}"
    words = ("--metrics.prometheus", endpoint, "--data.held_out", json.dumps([str(gold)]))
    check = ("--generation_check.every_steps", "1000", "--generation_check.max_codes", "8")
    bounds = ("--generation_check.num_prompts", "2", "--generation_check.warn", "{invalid_tokens = 0.0}")
    long = ("--training.target_tokens", str(1024 * 1000), "--validation.every_steps", "1000")
    process = start_run(run, *words, *check, *bounds, *long, world_size=2)
    try:
        with prometheus(programs, tmp_path, endpoint) as port:
            wait_for(lambda: process.poll() is not None or 2 in figures(run), "step 2")
            assert process.poll() is None, (run / "log.txt").read_text()[-4000:]
            wait_for(lambda: ask(port, "titan_speech_loss"), "the loss in Prometheus")
            scraped = float(ask(port, "titan_speech_loss")[0]["value"][1])
            assert scraped in {record["loss"] for record in figures(run).values()}
            assert len(ask(port, "titan_speech_step")) == 2, "both ranks"
            assert ask(port, "titan_speech_validation_loss")
            wait_for(lambda: firing(port) == {"RunFlagged"}, "RunFlagged alone")
            absent = {query for query in dashboard_queries("titan_speech_") if not ask(port, filled(query))}
            assert absent == {query for query in absent if any(name in query for name in NOT_ON_A_CPU)}, absent
            pid = json.loads(ledger_file(run, 1).read_text().splitlines()[0])["pid"]
            os.kill(pid, signal.SIGSTOP)
            try:
                wait_for(lambda: "RankSilent" in firing(port), "RankSilent")
                assert ask(port, 'ALERTS{alertname="RankSilent"}')[0]["metric"]["rank"] == "1"
            finally:
                os.kill(pid, signal.SIGCONT)
            kill(process)
            wait_for(lambda: ask(port, 'ALERTS{alertname="RunEndpointDown"}'), "the end of the endpoint")
    finally:
        kill(process)


NOT_ON_A_CPU = ("titan_speech_mfu", "titan_speech_upload")
"""What this run has no reason to emit: see the reference page of metrics."""


def filled(query: str) -> str:
    """A query of the dashboard with its variables."""
    return query.replace("$run", ".*").replace("$node", ".*")
