"""The bench from its command line, quick, with the real nginx, wrk and RabbitMQ.

How fast anything is depends on who else is at work on the machine: nothing here asks for that.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

PROJECT = Path(__file__).parents[2]
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
SCENARIOS = {
    "direct-500", "direct-10k", "header-500", "header-10k", "header-soap-500", "header-soap-10k",
    "cbr-500", "cbr-10k", "xslt-500", "xslt-10k", "tls-500", "tls-10k", "secure", "soap-as-rest",
    "soap-as-rest-large", "rest-as-soap", "amqp-to-http", "http-to-amqp", "durable-accept",
    "queue-to-queue",
}  # fmt: skip
COSTS = {"rate", "cpu", "busy", "others", "memory", "start"}
LATENCIES = {"p50", "p99", "p999"}


def bench(*arguments: str, path: str = PATH) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, PROJECT / "bench/run.py", *arguments],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )


@pytest.mark.skipif(shutil.which("nginx", path=PATH) is None, reason="nginx is not installed")
@pytest.mark.skipif(shutil.which("wrk", path=PATH) is None, reason="wrk is not installed")
@pytest.mark.timeout(400)
def test_a_quick_run_ends_with_a_whole_result(tmp_path: Path) -> None:
    done = bench("--quick", "-c", "esb", "-o", str(tmp_path))
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "latest.json").read_text())
    page = (tmp_path / "latest.md").read_text()
    svg = etree.fromstring((tmp_path / "latest.svg").read_bytes())

    assert {scenario["name"] for scenario in result["scenarios"]} == SCENARIOS
    for scenario in result["scenarios"]:
        check_figures(scenario)
    sizes = {(one["size"], one["direction"]) for one in result["codec"]}
    assert len(sizes) == len(result["codec"]) == 6
    for one in result["codec"]:
        assert {"esb", "zeep", "lxml"} <= set(one["microseconds"])
        assert all(took > 0 for took in one["microseconds"].values())

    assert {"cpu", "cores", "kernel", "fsync_us"} <= set(result["machine"])
    assert {"python", "nginx", "wrk", "lxml"} <= set(result["versions"])
    assert str(PROJECT) not in page + json.dumps(result), "it tells where it was made"

    drawn = " ".join(str(text) for text in svg.itertext())
    assert "A quick run" in page, "nobody may take it for a measurement"
    for scenario in result["scenarios"]:
        assert scenario["title"] in page
        assert scenario["title"] in drawn


def check_figures(scenario: Any) -> None:
    bus, proxy = scenario["medians"]["esb"], scenario["medians"]["nginx"]
    assert set(proxy) == COSTS | LATENCIES
    if scenario["way"] == "consumed":
        assert set(bus) == COSTS, "a queue's waiting time is not the bus's latency"
    else:
        assert set(bus) == COSTS | LATENCIES
        assert bus["p50"] <= bus["p99"] <= bus["p999"]
    assert all(value > 0 for key, value in bus.items() if key != "others")
    ratio = scenario["to_nginx"]["esb"]["rate"]
    assert ratio == pytest.approx(bus["rate"] / proxy["rate"], rel=0.01, abs=1e-4)


def test_what_is_missing_is_named_with_how_to_get_it(tmp_path: Path) -> None:
    for name in ("nginx", "taskset", "openssl"):
        (tmp_path / name).symlink_to("/bin/true")
    done = bench("--quick", "-o", str(tmp_path / "out"), path=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr == "missing: apt-get install wrk\n"
