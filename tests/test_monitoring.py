"""examples/monitoring: what its rules and its dashboard ask for is what a bus tells."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import prometheus
import pytest
import yaml
from servers import CannotInstall
from support.examples import BIN, PROJECT
from support.processes import Process, free_ports, request

from esb import metrics

FOLDER = PROJECT / "examples/monitoring"
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"]
    for rule in group["rules"]
]
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "grafana/esb.json").read_text())
ASKED = {
    **{rule["alert"]: rule["expr"] for rule in RULES},
    **{
        f"{panel['title']}: {target['legendFormat']}": target["expr"]
        for panel in DASHBOARD["panels"]
        for target in panel.get("targets", ())
    },
}
_BY_PROMETHEUS = {"up": {"job", "instance"}}
_NAME = re.compile(r"(?<![\w$\"])([a-z][a-z0-9]*(?:_[a-z0-9]+)+|up)\b(?!\s*\()")
_SUFFIX = re.compile(r"_(bucket|sum|count|total)$")


def plain(expression: str) -> str:
    """Without strings, which are no names."""
    return re.sub(r'"[^"]*"', '""', expression)


def names(expression: str) -> set[str]:
    labels = r"\bby \([^)]*\)|\{[^}]*\}"
    return set(_NAME.findall(re.sub(labels, "", plain(expression)))) - {"by"}


@pytest.fixture(scope="module")
def metrics_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a bus that runs answers at /metrics."""
    folder = tmp_path_factory.mktemp("monitoring")
    port, admin = free_ports(2)
    more = folder / "more.yaml"
    more.write_text(f"""
admin: {{port: {admin}}}
store: {{path: "{folder}/bus.db"}}
versions: {{path: "{folder}/versions"}}
routes:
  heard: {{from: {{amqp: {{url: "amqp://127.0.0.1:1/", queue: q}}}}, steps: [log: x]}}
""")
    listen = folder / "bus"
    listen.mkdir()
    own = (FOLDER / "bus/routes.yaml").read_text()
    (listen / "routes.yaml").write_text(own.replace("listen: {", f"listen: {{port: {port}, "))
    with Process([BIN / "esb", "run", listen, more], cwd=folder, environ={}) as process:
        process.wait_for(f"http://127.0.0.1:{admin}/readyz")
        return request("GET", f"http://127.0.0.1:{admin}/metrics").body.decode()


@pytest.fixture(scope="module")
def told(metrics_page: str) -> dict[str, str]:
    """The metrics of a bus that runs: their types by their names."""
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", metrics_page, re.MULTILINE))


@pytest.mark.parametrize("what", ASKED)
def test_what_is_asked_for_is_told(told: dict[str, str], what: str) -> None:
    expression = ASKED[what]
    found = names(expression)
    assert found
    for name in found - _BY_PROMETHEUS.keys():
        assert name in told or told.get(_SUFFIX.sub("", name)) == "histogram", name


@pytest.mark.parametrize("what", ASKED)
def test_labels_are_those_that_there_are(what: str) -> None:
    for module in ("esb.service", "esb_amqp.source", "esb_web.server"):
        importlib.import_module(module)  # each says what it counts
    expression = plain(ASKED[what])
    known = {"le", "instance", "job"}
    for measure in metrics._MEASURES:
        if any(_SUFFIX.sub("", measure._name) == _SUFFIX.sub("", n) for n in names(expression)):
            known |= set(measure._labels)
    used = {
        label.strip()
        for group in re.findall(r"\bby \(([^)]*)\)", expression)
        for label in group.split(",")
    } | set(re.findall(r'[{,]\s*(\w+)\s*[=!]~?=?""', expression))
    legend = re.findall(r"\{\{\s*\$?(?:labels\.)?(\w+)", what)
    assert used | set(legend) <= known


def test_the_page_tells_of_every_metric() -> None:
    script = """
import importlib
from esb import metrics
for name in ("esb.cli", "esb.service", "esb.otel", "esb_amqp", "esb_http", "esb_soap", "esb_queue",
             "esb_file", "esb_schedule"):
    importlib.import_module(name)
for one in metrics._MEASURES:
    labels = ", ".join(f"`{label}`" for label in one._labels)
    print(f"| `{one._name}` | {labels} | {one._about} |")
"""
    # In a process of its own: what tests count is none of the bus's.
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    page = (PROJECT / "docs/observability.md").read_text().splitlines()
    assert sorted(line for line in page if line.startswith("| `esb_")) == sorted(
        done.stdout.splitlines()
    )


def test_every_panel_has_a_place_of_its_own() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert at["x"] + at["w"] <= 24
        assert taken.isdisjoint(cells)
        taken |= cells


@pytest.fixture(scope="module")
def promtool() -> Path:
    try:
        return prometheus.install("promtool")
    except CannotInstall as e:
        pytest.skip(f"promtool is not to be had: {e}")


@pytest.mark.parametrize(
    "asked", [("check", "config", "prometheus.yml"), ("test", "rules", "rules-tried.yml")]
)
def test_prometheus_own_tool_takes_it(promtool: Path, asked: tuple[str, ...]) -> None:
    done = subprocess.run([promtool, *asked], cwd=FOLDER, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_own_tool_finds_nothing_to_say_of_the_metrics(
    promtool: Path, metrics_page: str
) -> None:
    done = subprocess.run(
        [promtool, "check", "metrics"], input=metrics_page, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_route_that_stores_nothing_before_it_answers_has_no_numbers_of_that(
    metrics_page: str,
) -> None:
    assert '{outcome="message",route="taken"}' in metrics_page
    assert '.accept"' not in metrics_page


def test_every_alert_tells_what_to_do_with_it() -> None:
    for rule in RULES:
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]
