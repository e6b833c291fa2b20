"""`esb record`: live traffic becomes tests that pass, without its secrets."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support.backend import Backend, backend
from support.bus import running, store_of
from support.processes import Process, lasting_ports, request

from esb.commands.record import written
from esb.envelope import Body, Envelope
from esb.options import Range
from esb.recording import Recording
from esb.strict_yaml import References, read_yaml
from esb.testing.report import run_tests
from esb.tracing import Tracing

ESB = str(Path(sys.executable).with_name("esb"))
ROUTES = """
routes:
  orders:
    from: {http: {path: "/orders/:id", method: POST}}
    steps:
      - choose:
          - when: body.total > 100
            steps: [{send: {queue: large}}]
          - otherwise:
            steps:
              - call: {http: {url: "${CRM}/customers/{{ path.id }}", method: GET,
                              auth: {bearer: "${CRM_TOKEN}"}}}
              - set: {body: {name: body.name, limit: body.limit, password: "'p-4711'",
                             at: now()}}
"""


def recorded(folder: Path, crm: Backend) -> tuple[str, str]:
    """What four orders make: the file of tests, and what the command told."""
    web, admin = lasting_ports(2)
    (folder / "routes").mkdir()
    head = f"listen: {{port: {web}}}\nadmin: {{port: {admin}}}\n"
    (folder / "routes" / "bus.yaml").write_text(head + ROUTES)
    environ = {"CRM": crm.url, "CRM_TOKEN": "t0p-s3cr3t"}
    crm.content = (
        "application/json",
        b'{"name": "Bell", "limit": 1500.10, "note": "t0p-s3cr3t", "apiKey": "k-1"}',
    )
    crm.statuses.extend([200, 404])
    with Process([ESB, "run"], cwd=folder, environ=environ) as process:
        process.wait_for(f"http://127.0.0.1:{admin}/readyz")
        recording = subprocess.Popen(
            [ESB, "record", "orders", "-n", "4", "--max-body", "200"],
            cwd=folder, stderr=subprocess.PIPE, text=True, env={**environ, "PATH": ""},
        )  # fmt: skip
        assert recording.stderr is not None
        first = recording.stderr.readline()
        assert "recording orders" in first
        orders = [{"total": 1}, {"total": 2}, {"total": 100.01}, {"total": 3, "x": "y" * 300}]
        url = f"http://127.0.0.1:{web}/orders/7"
        for order in orders:
            request("POST", url, order, {"Authorization": "Basic abc", "X-Shop": "a"})
        told = recording.stderr.read()
        assert recording.wait(30) == 0, told
        process.stop()
    return (folder / "routes" / "orders.test.yaml").read_text(), told


def test_live_traffic_becomes_tests_that_pass(tmp_path: Path) -> None:
    with backend() as crm:
        text, told = recorded(tmp_path, crm)
    assert "not recorded: a body is larger than 200 bytes" in told
    assert "3 tests written to" in told
    assert "does not pass" not in told
    for secret in ("t0p-s3cr3t", "p-4711", "k-1", "Basic abc"):
        assert secret not in text

    report = run_tests([tmp_path / "routes"], root=tmp_path)
    assert not report.mistakes
    assert [(one.name, one.failures) for one in report.failed] == []
    tests = read_yaml(text, "", tmp_path, References(None)).data["tests"]
    answered, refused, large = tests.values()
    place = "steps[0].choose[1].steps[0].call"
    assert answered["given"]["path"] == {"id": "7"}
    assert answered["given"]["headers"]["authorization"] == "***"
    assert answered["given"]["headers"]["x-shop"] == "a"
    assert answered["given"]["body"] == {"total": 1}
    assert answered["mocks"][place]["body"]["limit"] == 1500.10
    assert answered["expect"]["outcome"] == "reply"
    assert refused["mocks"] == {place: {"status": 404}}
    assert refused["expect"]["error"] == {"code": "rejected"}
    assert large["expect"]["channels"] == {"large": [{"body": {"total": 100.01}}]}


async def test_tries_that_come_later_are_no_tests_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Range, "delay", lambda *_: 0.05)
    routes = """
    routes:
      a:
        from: {queue: a}
        steps: [{send: {http: "${FAR}"}}]
        retry: {attempts: 3, park_after: 10ms}
    """
    with backend() as far:
        far.statuses.extend([503, 503, 200])
        async with running(routes, tmp_path, environ={"FAR": far.url}) as bus:
            tracing = next(o for o in bus.shared.objects.values() if isinstance(o, Tracing))
            recording = Recording("a", {"a": bus.routes["a"].outline}, max_body=1000)
            with tracing.listening(recording):
                await store_of(bus).put("queue:a", Envelope(body=Body(b"1", "application/json")))
                told = [await recording.queue.get() for _ in range(3)]
    again = "it is another try of a message that came before"
    assert [one.reason for one in told] == ["it failed and is tried again later", again, again]


def test_what_is_written_is_read_as_the_same(tmp_path: Path) -> None:
    odd: dict[str, Any] = {
        "numbers": [1, Decimal("1.10"), -0.5],
        "texts": ["1e3", "on", "0o17", "null", "a: b", "two\nlines\n", "${HOME}", "", " x"],
        "nested": [{"a": [None, True]}],
    }  # fmt: skip
    same = [odd, odd]
    text = written(["bus.yaml"], {"one": {"given": {"body": same}}})
    found = read_yaml(text, "", tmp_path, References({}))
    assert found.diagnostics == []
    assert found.data["tests"]["one"]["given"]["body"] == [{**odd, "numbers": [1, 1.10, -0.5]}] * 2
