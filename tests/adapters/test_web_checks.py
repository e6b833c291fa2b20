"""Health checks of far sides, over real HTTP: what is asked, what is told, who is avoided."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from support.backend import Backend, backend
from support.bus import load_text, running
from support.waiting import until

from esb.bus import Bus
from esb.config import load
from esb.envelope import Body, Envelope
from esb.inside import Inside
from esb.workers.summing import endpoints

WSDL = Path(__file__).parent.parent / "support" / "peers" / "partner.wsdl"
FAST = "every: 20ms"


def message(n: int) -> Envelope:
    return Envelope(body=Body.of({"n": n}))


def asked(far: Backend, path: str = "/health") -> int:
    return sum(one.path == path for one in far.asked)


async def told(bus: Bus, name: str) -> dict[str, Any]:
    return next(one for one in await Inside(bus).endpoints() if one["name"].startswith(name))


async def healthy(bus: Bus, name: str) -> bool:
    return bool((await told(bus, name))["healthy"])


async def metric(bus: Bus, line: str) -> bool:
    return line in (await Inside(bus).metrics()).decode().splitlines()


ONE = """
    routes:
      checked:
        from: {{queue: q}}
        steps: [{{send: {{http: {{url: "{url}/orders?x=1", health: {health}}}}}}}]
"""


async def test_who_is_ill_is_told_of_and_who_is_well_again(tmp_path: Path) -> None:
    with backend() as far, capture_logs() as logs:
        health = f"{{path: /health, {FAST}, unhealthy_after: 2}}"
        async with running(ONE.format(url=far.url, health=health), tmp_path) as bus:
            await until(lambda: asked(far) >= 2)
            assert await metric(bus, 'esb_endpoint_healthy{endpoint="checked/steps[0].send"} 1.0')
            assert "down" not in bus.readyz()[1]
            far.statuses.append(500)  # once is not enough
            before = asked(far)
            await until(lambda: asked(far) >= before + 3)
            assert await healthy(bus, "checked")
            far.statuses.extend([503] * 1000)
            await until(lambda: "down" in bus.readyz()[1])
            assert bus.readyz() == (
                True,
                {
                    "status": "degraded",
                    "routes": 1,
                    "down": {f"health of {far.url}/health": "it answered with status 503"},
                },
            )
            seen = await told(bus, "checked")
            assert (seen["healthy"], seen["health"]) == (False, "it answered with status 503")
            assert seen["up"], "of messages nothing is known"
            assert await metric(bus, 'esb_endpoint_healthy{endpoint="checked/steps[0].send"} 0.0')
            far.statuses.clear()
            await until(lambda: healthy(bus, "checked"))
        after = asked(far)
        assert {one.path for one in far.asked} == {"/health"}
    said = [(one["event"], one["url"]) for one in logs if one["event"].startswith("far side is")]
    assert said == [(f"far side is {how}", f"{far.url}/health") for how in ("ill", "well")]
    assert after == asked(far), "whoever stops asks no more"


async def test_the_first_answer_decides_alone(tmp_path: Path) -> None:
    url = "http://127.0.0.1:1"
    async with running(ONE.format(url=url, health="{path: /health, every: 1h}"), tmp_path) as bus:
        # The hour comes later than the first question.
        check = next(c for k, c in bus.shared.objects.items() if str(k).startswith("('health of"))
        await until(lambda: not check.health().up)
        assert "cannot be reached" in check.health().detail


@pytest.mark.parametrize(
    ("status", "answer", "well"),
    [("[200, 404]", 404, True), ("2xx", 204, True), ("200-299", 302, False), ("401", 401, True),
     ("[2xx, 300-399]", 308, True), ("200", 201, False)],
)  # fmt: skip
async def test_what_is_well_can_be_said(
    status: str, answer: int, well: bool, tmp_path: Path
) -> None:
    with backend() as far:
        far.statuses.extend([answer] * 1000)
        health = f"{{path: /health, {FAST}, status: {status}}}"
        async with running(ONE.format(url=far.url, health=health), tmp_path) as bus:
            await until(lambda: asked(far) >= 2)
            assert await healthy(bus, "checked") is well


async def test_an_answer_that_takes_too_long_is_none(tmp_path: Path) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    health = f"{{path: /health, {FAST}, timeout: 50ms}}"
    async with running(ONE.format(url=url, health=health), tmp_path) as bus:
        await until(lambda: "down" in bus.readyz()[1])
    server.close()


async def test_all_who_ask_the_same_ask_once_with_what_the_endpoint_shows(tmp_path: Path) -> None:
    text = """
        connections:
          crm: {{http: {{url: "{url}", auth: {{bearer: "t0ken"}}, max_connections: 1,
                         health: {{path: /health, every: 20ms}}}}}}
        routes:
          a:
            from: {{queue: a}}
            steps: [{{send: {{http: {{connection: crm, path: /a}}}}}}]
          b:
            from: {{queue: b}}
            steps: [{{call: {{http: {{connection: crm, path: /b}}}}}}]
          c:
            from: {{queue: c}}
            steps:
              - call:
                  soap:
                    wsdl: partner.wsdl
                    operation: getPartner
                    url: "{url}/soap?v=1"
                    health: {{every: 20ms}}
    """
    (tmp_path / "partner.wsdl").write_bytes(WSDL.read_bytes())
    with backend() as far:
        async with running(text.format(url=far.url), tmp_path) as bus:
            await until(lambda: asked(far) and asked(far, "/soap?wsdl"))
            checks = [k for k in bus.shared.objects if str(k).startswith("('health of")]
            assert len(checks) == 2
            assert all([await healthy(bus, name) for name in "abc"])
        [shown] = {o.headers["Authorization"] for o in far.asked if o.path == "/health"}
        assert shown == "Bearer t0ken"
        assert {one.method for one in far.asked} == {"GET"}


async def test_messages_that_take_all_connections_make_nobody_ill(tmp_path: Path) -> None:
    held = asyncio.Event()

    async def far(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"GET /health"):
            await held.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(far, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    text = f"""
        routes:
          checked:
            from: {{queue: q}}
            steps:
              - send:
                  http:
                    url: http://127.0.0.1:{port}/
                    max_connections: 1
                    health: {{path: /health, every: 20ms, timeout: 1s, unhealthy_after: 1}}
    """
    async with running(text, tmp_path) as bus:
        sending = asyncio.create_task(_run(bus, "checked"))
        check = next(c for k, c in bus.shared.objects.items() if str(k).startswith("('health of"))
        answers = Counter[str]()
        judge = check._judge
        check._judge = lambda why: (answers.update([why]), judge(why))
        await until(lambda: answers.total() >= 3)
        held.set()
        await sending
        assert answers.keys() == {""}
    server.close()


async def _run(bus: Bus, route: str) -> Envelope:
    return await bus.routes[route].step(message(0))


BALANCED = """
    routes:
      r:
        from: {{queue: q}}
        steps:
          - load_balance:
              {more}
              to:
                a: {{steps: [{{call: {{http: {{url: "{a}", method: GET, health: {check}}}}}}}]}}
                b: {{steps: [{{run: there}}]}}
                spare: {{steps: [{{set: {{body: "'spare'"}}}}], weight: 0}}
      there:
        steps: [{{call: {{http: {{url: "{b}", method: GET, health: {check}}}}}}}]
"""


@pytest.mark.parametrize(
    "more", ["failover: false", "strategy: in_order", "{strategy: sticky, by: body.n}"]
)
async def test_a_balanced_way_that_is_ill_is_left_alone_until_it_is_well(
    more: str, tmp_path: Path
) -> None:
    more = more.strip("{}").replace(", ", "\n              ")
    check = "{path: /health, every: 20ms, unhealthy_after: 1}"
    with backend() as a, backend() as b:
        text = BALANCED.format(a=a.url, b=b.url, check=check, more=more)
        async with running(text, tmp_path) as bus:

            async def taken(times: int = 8) -> tuple[int, int]:
                before = asked(a, "/"), asked(b, "/")
                for n in range(times):
                    await bus.routes["r"].step(message(n))
                return asked(a, "/") - before[0], asked(b, "/") - before[1]

            await until(lambda: asked(a) and asked(b))
            assert (await taken())[0] > 0
            a.statuses.extend([500] * 10000)
            await until(lambda: len(bus.readyz()[1].get("down", ())) == 1)
            assert await taken() == (0, 8)
            a.statuses.clear()
            await until(lambda: "down" not in bus.readyz()[1])
            assert (await taken())[0] > 0
            b.statuses.extend([500] * 10000)
            a.statuses.extend([500] * 10000)
            await until(lambda: len(bus.readyz()[1].get("down", ())) == 2)
            assert await taken() == (0, 0), "the spare one takes them"


async def test_a_reload_ends_a_check_that_nobody_wants_and_keeps_others(tmp_path: Path) -> None:
    with backend() as far:
        kept = ONE.format(url=far.url, health="{path: /kept, every: 20ms}")
        gone = f"""
      gone:
        from: {{queue: g}}
        steps: [{{send: {{http: {{url: "{far.url}", health: {{path: /gone, every: 20ms}}}}}}}}]
        """
        async with running(kept + gone, tmp_path) as bus:
            await until(lambda: asked(far, "/kept") and asked(far, "/gone"))
            before = next(c for k, c in bus.shared.objects.items() if "/kept" in str(k))
            file = tmp_path / "routes.yaml"
            text = file.read_text()
            file.write_text(text[: text.index("  gone:")] + text[text.index("listen:") :])
            bus.shared.begin()
            project = load([file], environ={}, root=tmp_path, shared=bus.shared).check()
            await bus.replace(project.routes)
            await bus.settled()
            on = asked(far, "/kept")  # what was under way when it ended is still counted
            await until(lambda: asked(far, "/kept") >= on + 3)
            last, on = asked(far, "/gone"), asked(far, "/kept")
            await until(lambda: asked(far, "/kept") >= on + 3)
            assert asked(far, "/gone") == last
            assert next(c for k, c in bus.shared.objects.items() if "/kept" in str(k)) is before


@pytest.mark.parametrize(
    ("endpoint", "says"),
    [
        ('{url: "http://far.example/x", health: {}}', "it is not said what to ask for"),
        ('{url: "http://far.example/x", health: health}', "it is a path of the same host"),
        ('{url: "http://far.example/x", health: "http://evil.example/"}', "a path of the same"),
        ('{url: "http://far.example/x", health: {path: /h, status: 2x}}', "statuses are written"),
        ('{url: "http://far.example/x", health: {path: /h, status: 299-200}}', "statuses are w"),
        ('{url: "http://far.example/x", health: {path: /h, status: []}}', ""),
        ('{url: "http://far.example/x", health: {path: /h, every: 0s}}', ""),
        ('{url: "http://far.example/{{ body.x }}", health: "?h"}', "a query is not enough"),
        ('{url: "{{ body.x }}", allow_hosts: a.example, health: /h}', "messages choose the host"),
    ],
)
def test_slips_are_found_at_their_line(endpoint: str, says: str, tmp_path: Path) -> None:
    text = (
        f"routes:\n  r:\n    from: {{queue: q}}\n    steps:\n      - send: {{http: {endpoint}}}\n"
    )
    [found] = load_text(text, tmp_path).diagnostics
    assert says in found.message
    assert found.line == 5


def test_with_workers_it_is_ill_where_one_says_so() -> None:
    well = {"name": "r/steps[0].send", "adapter": "http", "up": True, "in_flight": 1,
            "healthy": True, "health": ""}  # fmt: skip
    ill = {**well, "healthy": False, "health": "it answered with status 503"}
    [found] = endpoints([[well], [ill]])
    assert (found["healthy"], found["health"], found["in_flight"]) == (False, ill["health"], 2)
