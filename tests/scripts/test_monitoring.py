"""What the dashboard and the alerts ask for exists: our names by the code, those of the exporters by recorded lists."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.support.alert_faults import FAULTS
from tests.support.runs import ROOT
from titan_speech.config.fields import config_fields
from titan_speech.config.schema import SpeechConfig
from titan_speech.training.sinks.names import exported_labels

FOLDER = ROOT / "scripts" / "monitoring"
RECORDED = ROOT / "tests" / "assets" / "monitoring"
OF_SCRAPES = ("job", "instance")
"""Labels that Prometheus adds itself."""


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"] for rule in group["rules"]]


def panels() -> Iterator[dict[str, Any]]:
    yield from json.loads((FOLDER / "grafana_dashboard.json").read_text())["panels"]


def dashboard_queries(prefix: str = "") -> list[str]:
    """The queries of the dashboard that ask for a metric with this prefix."""
    return [one["expr"] for panel in panels() for one in panel.get("targets", ()) if prefix in one["expr"]]


def known_metrics() -> dict[str, tuple[str, ...]]:
    """Labels of every metric there is: one of ours, or one of an exporter's recorded list."""
    known = {"up": OF_SCRAPES, **{name: (*labels, *OF_SCRAPES) for name, labels in exported_labels().items()}}
    for file in RECORDED.glob("*_names.txt"):
        for line in file.read_text().splitlines():
            if not line.startswith("#"):
                name, *labels = line.split()
                known[name] = (*labels, *OF_SCRAPES)
    return known


def selectors(query: str) -> list[tuple[str, list[str]]]:
    """The metrics of a query, each with the labels that it is selected by."""
    without_groupings = re.sub(r"\b(by|on|group_left|without|ignoring)\b\s*(\([^)]*\))?", " ", query)
    found = re.findall(r"([a-zA-Z_:][\w:]*)\s*(\{[^}]*\})?(?!\w*\()", without_groupings)
    words = {"and", "or", "offset", "unless", "bool"}
    functions = set(re.findall(r"(\w+)\s*\(", without_groupings))
    numbers = re.compile(r"^[smhd]$")  # of a duration such as 15m
    return [
        (name, re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", braces))
        for name, braces in found
        if name not in words | functions and not numbers.match(name)
    ]


def test_a_query_is_taken_apart() -> None:
    query = 'topk(5, sum by (run) (rate(a_b{run=~"$run",class="x"}[10m])) / on (run) group_left c{d!="e"}) > 0.5'
    assert selectors(query) == [("a_b", ["run", "class"]), ("c", ["d"])]


@pytest.mark.parametrize("query", [*dashboard_queries(), *(alert["expr"] for alert in alerts())])
def test_every_query_names_metrics_and_labels_that_exist(query: str) -> None:
    known, found = known_metrics(), selectors(query)
    assert found
    for name, labels in found:
        assert name in known, f"{name} in {query}"
        assert set(labels) <= set(known[name]), f"{name} has {known[name]}, {query} selects by {labels}"


def test_every_legend_and_annotation_names_a_label_of_its_metrics() -> None:
    known = known_metrics()
    texts = [(one["expr"], one["legendFormat"]) for panel in panels() for one in panel.get("targets", ())]
    texts += [(alert["expr"], " ".join(alert["annotations"].values()).replace("$labels.", "")) for alert in alerts()]
    for query, text in texts:
        labels = {label for name, _ in selectors(query) for label in known[name]}
        used = set(re.findall(r"\{\{\s*(\w+)\s*\}\}", text))
        assert used <= labels, f"{used - labels} of {query}"


def test_every_configuration_key_that_an_alert_names_exists() -> None:
    tables = config_fields(SpeechConfig)
    named = [
        key for one in alerts() for key in re.findall(r"(?<![/\w])([a-z]+)\.(\w+)\b", one["annotations"]["action"])
    ]
    keys = [(table, key) for table, key in named if table in tables]
    assert keys
    for table, key in keys:
        assert key in config_fields(tables[table][1]), f"{table}.{key}"


def test_panels_are_numbered_and_do_not_overlap() -> None:
    found = list(panels())
    assert len({panel["id"] for panel in found}) == len(found)
    cells = [
        (x, y)
        for panel in found
        for at in (panel["gridPos"],)
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_every_alert_has_a_fault_that_fires_it_and_says_what_to_do() -> None:
    assert [alert["alert"] for alert in alerts()] == list(FAULTS)
    assert all(alert["annotations"]["action"] and alert["annotations"]["summary"] for alert in alerts())
    assert {alert["labels"]["severity"] for alert in alerts()} == {"critical", "warning"}
