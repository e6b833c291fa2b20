"""What is told of how a bus is: its routes, endpoints and queues, and whether it has started."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.backend import backend
from support.broker import Rabbit
from support.bus import running, url
from support.collector import collector
from support.examples import BIN
from support.processes import Process, free_ports, request
from support.waiting import until

from esb.metrics import DEAD_LETTERS, registry
from esb.vitals import LAG, watch_loop
from esb.workers.summing import Sum, families


def told(name: str, **labels: str) -> Any:
    return registry().get_sample_value(name, labels)


async def test_a_route_that_is_stopped_or_waits_is_not_up(tmp_path: Path) -> None:
    text = """
    routes:
      vitals-runs: {from: {http: {path: /a}}, steps: []}
      vitals-stopped: {from: {http: {path: /b}}, steps: []}
      vitals-waits: {from: {amqp: {url: "amqp://127.0.0.1:1/", queue: q}}, steps: [log: x]}
    """
    async with running(text, tmp_path, stopped=["vitals-stopped"]):
        names = ("vitals-runs", "vitals-stopped", "vitals-waits")
        assert [told("esb_route_up", route=name) for name in names] == [1, 0, 0]
        assert told("esb_resource_up", resource="web") == 1
        assert told("esb_listener_connections") is not None
    assert (
        told("esb_route_up", route="vitals-runs") is None
    )  # of a bus that is over nothing is said


async def test_an_endpoint_is_up_if_it_answered_last(tmp_path: Path) -> None:
    at = "vitals-endpoint/steps[0].call"
    with backend() as far:
        text = f"""
        routes:
          vitals-endpoint:
            from: {{http: {{path: /, method: POST}}}}
            steps: [{{call: {{http: {{url: "{far.url}", method: POST}}}}}}]
        """
        async with running(text, tmp_path) as bus, aiohttp.ClientSession() as http:
            seen = []
            for status in (200, 503, 404, 500, 200):
                far.statuses.append(status)
                async with http.post(url(bus)) as answer:
                    await answer.read()
                seen.append(told("esb_endpoint_up", endpoint=at))
    assert seen == [1, 0, 1, 0, 1]  # a refusal is an answer


async def test_what_waits_in_a_queue_of_a_broker_is_told(
    tmp_path: Path, rabbit: Rabbit, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esb_amqp.source._MEASURE_EVERY", 0.05)
    queue = await rabbit.queue()
    with backend() as far:
        text = f"""
        routes:
          r:
            from: {{amqp: {{url: "{broker_url}", queue: "{queue}", prefetch: 1}}}}
            steps: [{{delay: 50s}}, {{send: {{http: "{far.url}"}}}}]
        """
        for _ in range(4):
            await rabbit.put(queue)
        async with running(text, tmp_path, grace=0):
            await until(lambda: told("esb_amqp_queue_messages", queue=queue) == 3)


def test_channels_whose_names_come_from_messages_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    from esb import metrics

    monkeypatch.setattr(metrics, "_buried", set())
    monkeypatch.setattr(DEAD_LETTERS, "_known", {})
    for number in range(300):
        metrics.buried(f"queue:{number}", "expired")
    assert len(DEAD_LETTERS._known) == metrics._MOST_CHANNELS + 1
    assert DEAD_LETTERS.labels(metrics.OTHERS, "expired").value == 100


async def test_a_loop_that_is_blocked_is_late() -> None:
    import time

    watching = asyncio.create_task(watch_loop())
    before = sum(LAG.counts)
    await asyncio.sleep(0)
    time.sleep(0.7)
    await until(lambda: sum(LAG.counts) > before)
    watching.cancel()
    assert LAG.total >= 0.1


def test_of_several_processes_the_one_that_has_it_worst_is_told() -> None:
    total = Sum()
    for up, waiting in ((1, 7), (0, 5)):
        total.add([
            ("esb_route_up", "gauge", "", [("esb_route_up", (("route", "r"),), up)]),
            ("esb_amqp_queue_messages", "gauge", "",
             [("esb_amqp_queue_messages", (("queue", "q"),), waiting)]),
        ])  # fmt: skip
    total.add(families(registry().collect()))
    found = {sample.name: sample.value for one in total.collect() for sample in one.samples
             if sample.labels in ({"route": "r"}, {"queue": "q"})}  # fmt: skip
    assert (found["esb_route_up"], found["esb_amqp_queue_messages"]) == (0, 7)


async def test_startupz_is_told_on_either_port_once_it_has_started(tmp_path: Path) -> None:
    from esb.bus import Bus, Shared

    assert Bus([], Shared()).startupz() == (False, {"status": "new"})
    async with running("routes: {r: {from: {http: {path: /}}, steps: []}}", tmp_path) as bus:
        async with aiohttp.ClientSession() as http, http.get(f"{url(bus)}/startupz") as answer:
            assert (answer.status, await answer.json()) == (200, {"status": "ok"})
        bus.drain()
        assert bus.startupz()[0]  # it has, and that is over


def test_of_several_processes_each_line_says_which_and_spans_come_from_the_workers(
    tmp_path: Path,
) -> None:
    port, admin = free_ports(2)
    with collector() as sink:
        (tmp_path / "r.yaml").write_text(f"""
listen: {{port: {port}}}
admin: {{port: {admin}}}
telemetry: {{otlp: "{sink.url}"}}
routes: {{r: {{from: {{http: {{path: /, method: GET}}}}, steps: [{{log: hello}}]}}}}
""")
        command = [BIN / "esb", "run", "r.yaml", "--workers", "2", "--json"]
        with Process(command, cwd=tmp_path, environ={}) as process:
            process.wait_for(f"http://127.0.0.1:{admin}/startupz")
            assert request("GET", f"http://127.0.0.1:{port}/").status == 200
            text = request("GET", f"http://127.0.0.1:{admin}/metrics").body.decode()
            assert process.stop() == 0
            output = process.output
        assert [span.name for span in sink.spans if span.kind == "server"] == ["GET /"]
    [build] = [line for line in text.splitlines() if line.startswith("esb_build_info{")]
    assert build.endswith(" 1.0")
    assert 'esb_route_up{route="r"} 1.0' in text
    told = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert {"keeper", "worker"} <= {line.get("process") for line in told}
    [hello] = [line for line in told if line["event"] == "hello"]
    assert (hello["process"], hello["route"], len(hello["trace_id"])) == ("worker", "r", 32)
