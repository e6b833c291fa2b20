"""`make run` as its user sees it: it serves, each line it tells to try works, and it stops."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.broker import unique
from support.examples import PROJECT
from support.processes import Process, free_ports, request


@dataclass
class Run:
    process: Process
    bus: str
    admin: str
    legacy: str


def start(tmp_path: Path, amqp_url: str) -> Run:
    port, admin, legacy = free_ports(3)
    environ = {
        "ESB_PORT": str(port),
        "ESB_ADMIN_PORT": str(admin),
        "LEGACY_PORT": str(legacy),
        "ESB_DATA": str(tmp_path),
        "AMQP_URL": amqp_url,
    }
    process = Process([sys.executable, "tools/run.py"], cwd=PROJECT, environ=environ)
    urls = (f"http://127.0.0.1:{one}" for one in (port, admin, legacy))
    return Run(process, *urls)


@pytest.fixture
def without_broker(tmp_path: Path) -> Iterator[Run]:
    run = start(tmp_path, f"amqp://127.0.0.1:{free_ports(1)[0]}/")
    with run.process:
        run.process.until(lambda: "Try:" in run.process.output)
        yield run


def test_each_line_to_try_works_without_a_broker(without_broker: Run) -> None:
    lines = re.findall(r"^  (curl .*)$", without_broker.process.output, re.MULTILINE)
    assert len(lines) == 3
    for line, status in zip(lines, (200, 200, 202), strict=True):
        command = [*shlex.split(line), "-s", "-o", os.devnull, "-w", "%{http_code}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert int(done.stdout) == status, line


def test_what_waits_for_the_broker_is_told(without_broker: Run) -> None:
    assert re.search(r"orders-out waits: .*amqp://", without_broker.process.output)


def test_the_legacy_service_is_a_documented_rest_api(without_broker: Run) -> None:
    url = without_broker.bus
    partner = request("GET", f"{url}/partners/1").json
    assert (partner["name"], partner["creditLimit"]) == ("Meridian Shipping", 250000)
    assert [contact["name"] for contact in partner["contact"]] == ["Anke de Wit", "Joost Bakker"]
    missing = request("GET", f"{url}/partners/99")
    assert (missing.status, missing.headers["content-type"]) == (404, "application/problem+json")
    assert missing.json["fault"] == {"id": 99}
    assert request("GET", f"{url}/partners/docs").status == 200
    document = request("GET", f"{url}/partners/openapi.json").json
    assert set(document["paths"]) == {"/partners", "/partners/{id}"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_both(without_broker: Run, number: signal.Signals) -> None:
    without_broker.process.signal(number)
    assert without_broker.process.wait() == 0
    for url in (without_broker.bus, without_broker.admin, without_broker.legacy):
        with pytest.raises(OSError, match="refused"):
            request("GET", url)


def test_whoever_ends_alone_is_named_and_ends_the_other(without_broker: Run) -> None:
    legacy, bus = without_broker.process.children
    os.kill(bus, signal.SIGKILL)
    assert without_broker.process.wait() == signal.SIGKILL
    assert "the bus ended by itself, with a signal" in without_broker.process.output
    assert not Path(f"/proc/{legacy}").exists()


def test_a_port_that_is_taken_is_told(without_broker: Run, tmp_path: Path) -> None:
    admin, legacy = free_ports(2)
    taken = without_broker.bus.rpartition(":")[2]
    environ = {"ESB_ADMIN_PORT": str(admin), "LEGACY_PORT": str(legacy), "ESB_PORT": taken}
    data = {"ESB_DATA": str(tmp_path / "other")}
    with Process(
        [sys.executable, "tools/run.py"], cwd=PROJECT, environ={**environ, **data}
    ) as second:
        assert second.wait() == 1
        assert re.search(rf"127\.0\.0\.1:{taken}\b.*in use", second.output)
        assert "Traceback" not in second.output


def arrived(run: Run, number: str) -> list[dict[str, Any]]:
    """The orders of that number in the order system."""
    orders = request("GET", f"{run.legacy}/orders").json
    return [order for order in orders if order["orderNumber"] == number]


def test_orders_travel_through_rabbitmq(tmp_path: Path, own_broker_url: str) -> None:
    run = start(tmp_path, own_broker_url)
    number = unique("order")
    order = {"number": number, "customer": 1, "lines": [{"sku": "a", "quantity": 2, "price": 1.5}]}
    with run.process:
        run.process.wait_for(f"{run.admin}/readyz")
        run.process.wait_for(f"{run.legacy}/health")
        assert request("POST", f"{run.bus}/orders", order).status == 202
        assert request("POST", f"{run.bus}/orders", {"number": number}).status == 400
        came = run.process.until(lambda: arrived(run, number), "the order arrives")
        assert [order["positions"] for order in came] == [[{"no": 1, "article": "a", "amount": 2}]]
        assert run.process.stop() == 0
