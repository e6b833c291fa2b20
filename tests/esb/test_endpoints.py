"""Endpoints that protect themselves, in whole buses from YAML."""

from __future__ import annotations

import asyncio
import json
import textwrap
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.backend import backend
from support.broker import Rabbit
from support.bus import load_text, running, url
from support.stores import message
from support.waiting import until
from support.web import backend as raw_backend
from support.web import read_request

from esb.api import AdminServer
from esb.bus import Bus
from esb.config import load
from esb.durable import Store
from esb.middleware.breaker import Breaker
from esb.middleware.endpoint import Guard

WSDL = Path(__file__).parent.parent / "support" / "peers" / "partner.wsdl"


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def post(http: aiohttp.ClientSession, address: str) -> tuple[int, str]:
    """Status and the code of the error."""
    async with http.post(address, json={}) as r:
        text = await r.text()
        return r.status, json.loads(text).get("type", "") if r.status >= 400 else ""


async def admin(bus: Bus, path: str) -> Any:
    """What the admin API answers."""
    server = AdminServer(bus, None, "127.0.0.1", 0)
    await server.open()
    try:
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"http://127.0.0.1:{server.port}{path}") as r,
        ):
            return await r.json()
    finally:
        await server.close()


def breakers(bus: Bus) -> list[Breaker]:
    return [thing for thing in bus.shared.objects.values() if isinstance(thing, Breaker)]


async def reloaded(bus: Bus, folder: Path, old: str, new: str) -> dict[str, list[str]]:
    """What changed after `old` was made `new` in the bus's file."""
    file = folder / "routes.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    bus.shared.begin()
    project = load([file], environ={}, root=folder, shared=bus.shared).check()
    changes = await bus.replace(project.routes)
    await bus.settled()
    return changes


TWO_ON_ONE = """
    connections:
      crm: {{http: {{url: "{backend}", circuit_breaker: {{failures: 2, open_for: {open_for}}}}}}}
    routes:
      orders:
        from: {{http: {{path: /orders}}}}
        steps: [{{send: {{http: {{connection: crm, path: /orders}}}}}}]
      claims:
        from: {{http: {{path: /claims}}}}
        steps: [{{call: {{http: {{connection: crm, path: /claims}}}}}}]
      other:
        from: {{http: {{path: /other}}}}
        steps: [{{send: {{http: "{backend}/other"}}}}]
"""


async def test_a_connection_has_one_circuit_for_all_routes(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    with backend() as far:
        text = TWO_ON_ONE.format(backend=far.url, open_for="60s")
        async with running(text, tmp_path) as bus:
            far.statuses.extend([500, 503])
            for _ in range(2):
                assert (await post(http, url(bus) + "/orders"))[0] in (502, 503)
            asked = len(far.asked)
            async with http.post(url(bus) + "/claims", json={}) as r:
                assert r.status == 503
                assert 50 < int(r.headers["retry-after"]) <= 60
                told = await r.json()
                assert told["type"] == "urn:esb:problem:circuit-open"
                assert "crm" not in told["detail"]
            assert len(far.asked) == asked, "the far side is left alone"
            assert (await post(http, url(bus) + "/other"))[0] == 202

            ready, told = bus.readyz()
            assert (ready, told["status"]) == (True, "degraded")
            assert told["down"] == {
                "circuit_breaker of connection crm": "open: the service is overloaded (status 503);"
                ' {"ok": true}'
            }
            seen = {one["name"]: one for one in await admin(bus, "/endpoints")}
            assert set(seen) == {"orders/steps[0].send", "claims/steps[0].call",
                                 "other/steps[0].send"}  # fmt: skip
            assert seen["claims/steps[0].call"]["circuit"] == "open"
            assert 50 < seen["claims/steps[0].call"]["retry_after"] <= 60
            assert "circuit" not in seen["other/steps[0].send"]


async def test_an_exposed_api_on_a_connection_has_one_circuit_for_all_operations(
    tmp_path: Path,
) -> None:
    (tmp_path / "partner.wsdl").write_bytes(WSDL.read_bytes())
    text = """
        connections:
          partner: {soap: {timeout: 5s, concurrency: 9, circuit_breaker: {failures: 1}}}
        expose:
          partners: {wsdl: partner.wsdl, at: /partners, connection: partner}
    """
    async with running(text, tmp_path) as bus:
        guards = [thing for thing in bus.shared.objects.values() if isinstance(thing, Guard)]
        assert len(guards) > 1
        assert {(guard.breaker, guard.bulkhead) for guard in guards} == {
            (breakers(bus)[0], guards[0].bulkhead)
        }
        assert guards[0].bulkhead is not None


async def test_it_closes_when_the_far_side_is_there_again(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    with backend() as far:
        text = TWO_ON_ONE.format(backend=far.url, open_for="50ms")
        async with running(text, tmp_path) as bus:
            far.statuses.extend([500, 500])
            for _ in range(2):
                await post(http, url(bus) + "/orders")
            [breaker] = breakers(bus)
            assert breaker.state != "closed"

            async def passes() -> bool:
                return (await post(http, url(bus) + "/claims"))[0] == 200

            await until(passes)
            assert bus.readyz()[1]["status"] == "ok"


async def test_a_circuit_outlives_a_reload_that_does_not_change_it(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    with backend() as far:
        text = TWO_ON_ONE.format(backend=far.url, open_for="60s")
        async with running(text, tmp_path) as bus:
            far.statuses.extend([500, 500])
            for _ in range(2):
                await post(http, url(bus) + "/orders")
            [breaker] = breakers(bus)
            changes = await reloaded(bus, tmp_path, "crm, path: /claims", "crm, path: /claim")
            assert changes["changed"] == ["claims"]
            assert breakers(bus) == [breaker]
            assert (await post(http, url(bus) + "/claims")) == (
                503,
                "urn:esb:problem:circuit-open",
            )
            # Other numbers are another circuit.
            await reloaded(bus, tmp_path, "failures: 2", "failures: 3")
            assert breaker not in breakers(bus)
            assert (await post(http, url(bus) + "/claims"))[0] == 200


async def test_an_endpoint_without_a_connection_has_its_own_circuit(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    with backend() as far:
        endpoint = f'{{send: {{http: {{url: "{far.url}/", circuit_breaker: {{failures: 1}}}}}}}}'
        text = f"""
            routes:
              both:
                from: {{http: {{path: /:which}}}}
                steps:
                  - choose:
                      - when: path.which == 'a'
                        steps: [{endpoint}]
                      - otherwise:
                        steps: [{endpoint}]
        """
        async with running(text, tmp_path) as bus:
            far.statuses.append(500)
            assert (await post(http, url(bus) + "/a"))[0] == 502
            assert (await post(http, url(bus) + "/a"))[0] == 503
            assert (await post(http, url(bus) + "/b"))[0] == 202
            assert len(breakers(bus)) == 2


class Slow:
    """A backend that keeps every request until it is told to answer; knows the most at a time."""

    def __init__(self) -> None:
        self.inside = self.most = self.answered = 0
        self.answers = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            self.inside += 1
            self.most = max(self.most, self.inside)
            await self.answers.wait()
            self.inside -= 1
            self.answered += 1
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")


async def test_one_backend_that_hangs_leaves_the_others_alone(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    """While every call to one backend hangs, the other route answers each of its own; the one that
    hangs takes no more than its share, and nothing of it is lost."""
    slow = Slow()
    with backend() as quick:
        async with raw_backend(slow) as hanging:
            text = f"""
                connections:
                  erp: {{http: {{url: "{hanging}", concurrency: 3}}}}
                routes:
                  one: {{from: {{http: {{path: /one}}}}, steps: [{{send: {{http: {{connection: erp}}}}}}]}}
                  two: {{from: {{http: {{path: /two}}}}, steps: [{{call: {{http: {{connection: erp}}}}}}]}}
                  quick: {{from: {{http: {{path: /quick}}}}, steps: [{{call: {{http: "{quick.url}/"}}}}]}}
            """  # noqa: E501
            async with running(text, tmp_path) as bus:
                stuck = [
                    asyncio.create_task(post(http, f"{url(bus)}/{path}"))
                    for path in ("one", "two")
                    for _ in range(10)
                ]
                guards = [t for t in bus.shared.objects.values() if isinstance(t, Guard)]
                [waiting] = {id(g.bulkhead): g.bulkhead for g in guards if g.bulkhead}.values()
                await until(lambda: slow.inside == 3 and waiting.waiting == 17)
                for _ in range(50):
                    assert (await post(http, url(bus) + "/quick"))[0] == 200
                assert (slow.inside, slow.answered) == (3, 0)
                assert not any(task.done() for task in stuck)
                slow.answers.set()
                statuses = [status for status, _ in await asyncio.gather(*stuck)]
    assert sorted(statuses) == [200] * 10 + [202] * 10
    assert (slow.answered, slow.most) == (20, 3)


async def test_who_finds_no_room_to_wait_is_told_at_once(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    slow = Slow()
    async with raw_backend(slow) as hanging:
        text = f"""
            routes:
              a:
                from: {{http: {{path: /a}}}}
                steps: [{{send: {{http: {{url: "{hanging}/", concurrency: 1}}}}}}]
        """
        async with running(text, tmp_path) as bus:
            inside = [asyncio.create_task(post(http, url(bus) + "/a")) for _ in range(11)]
            [guard] = [t for t in bus.shared.objects.values() if isinstance(t, Guard)]
            assert guard.bulkhead is not None
            await until(lambda: guard.bulkhead.waiting == 10)
            assert (await post(http, url(bus) + "/a")) == (503, "urn:esb:problem:overloaded")
            slow.answers.set()
            assert {status for status, _ in await asyncio.gather(*inside)} == {202}


async def test_messages_that_a_circuit_refuses_use_up_no_attempts(
    tmp_path: Path, rabbit: Rabbit, broker_url: str
) -> None:
    """The far side is away for far longer than four attempts take; whether the messages come from
    a broker or from the store, all of them are there in the end."""
    queue = await rabbit.queue("refused")
    with backend() as far:
        far.content = ("text/plain", b"")
        far.statuses.extend([503] * 1000)
        text = f"""
            connections:
              far:
                http:
                  url: "{far.url}"
                  circuit_breaker: {{failures: 2, open_for: 100ms}}
            routes:
              stored:
                from: {{queue: {{name: in, concurrency: 4}}}}
                steps: [{{send: {{http: {{connection: far, path: /stored}}}}}}]
                retry: {{attempts: 4, backoff: 1ms..10ms, park_after: 50ms}}
              broker:
                from: {{amqp: {{url: "{broker_url}", queue: {queue}, prefetch: 4}}}}
                steps: [{{send: {{http: {{connection: far, path: /broker}}}}}}]
                retry: {{attempts: 4, backoff: 1ms..10ms, park_after: 50ms}}
        """
        async with running(text, tmp_path) as bus:
            [store] = [thing for thing in bus.shared.objects.values() if hasattr(thing, "counts")]
            for number in range(10):
                await store.put("queue:in", message(str(number)))
                await rabbit.put(queue, str(number))
            # Two opened it; after that only probes came. By now each message was refused often.
            await until(lambda: len(far.asked) >= 7)
            far.statuses.clear()
            failed = len(far.asked)
            await until(lambda: len(far.asked) >= failed + 20)
            await until(lambda: _is_empty(store))
        came = Counter((asked.path, asked.body) for asked in far.asked[failed:])
    assert came == {
        (path, b"%d" % number): 1 for path in ("/stored", "/broker") for number in range(10)
    }


async def _is_empty(store: Store) -> bool:
    return await store.counts() == {}


async def test_a_message_has_one_idempotency_key_whatever_process_sends_it(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    keys: list[object] = []
    second_life = asyncio.Event()

    async def far(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, headers, _ = await read_request(reader)
        keys.append(headers.get("idempotency-key"))
        if not second_life.is_set():
            return  # hangs up: what it did is unknown
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with raw_backend(far) as address:
        text = f"""
            routes:
              orders:
                from: {{http: {{path: /orders}}}}
                accept: durable
                steps: [{{send: {{http: {{url: "{address}/", idempotent: true}}}}}}]
                retry: {{attempts: 9, backoff: 1ms..300ms}}
        """
        async with running(text, tmp_path, grace=0.0) as bus:
            assert (await post(http, url(bus) + "/orders"))[0] == 202
            await until(lambda: keys)
        second_life.set()
        before = len(keys)
        async with running(text, tmp_path) as bus:
            await until(lambda: len(keys) > before)
    assert len(set(keys)) == 1
    assert str(keys[0]).startswith('"')


# --- mistakes -------------------------------------------------------------------------------------


def found(text: str, tmp_path: Path) -> list[tuple[int, str]]:
    """Line and message of each mistake, with what was meant."""
    project = load_text(textwrap.dedent(text), tmp_path)
    return [
        (d.line, d.message + (f"; {d.hint}" if "did you mean" in d.hint else ""))
        for d in project.diagnostics
    ]


def test_mistakes_are_found_where_they_are(tmp_path: Path) -> None:
    text = """
        connections:
          crm: {http: {url: "http://crm.example", circuit_braker: {}}}
          erp:
            http:
              circuit_breaker: {failure: 3}
          rabbit: {amqp: {url: "amqp://localhost", concurrency: 0}}
        routes:
          a:
            from: {queue: {name: a, circuit_breaker: {}}}
            steps:
              - send: {http: {url: "http://a.example", concurency: 3}}
              - send: {http: {url: "http://a.example", circuit_breaker: {within: 5}}}
              - send: {queue: {name: b, circuit_breaker: {share: 2}}}
    """
    assert found(text, tmp_path) == [
        (3, "unknown key 'circuit_braker'; did you mean 'circuit_breaker'?"),
        (6, "unknown key 'failure'; did you mean 'failures'?"),
        (7, "must be greater than or equal to 1"),
        (10, "unknown key 'circuit_breaker'"),
        (12, "unknown key 'concurency'; did you mean 'concurrency'?"),
        (13, "a duration is a number with its unit: 500ms, 5s, 2m, 1h or 1d"),
        (14, "must be less than or equal to 1"),
    ]


def test_a_source_on_a_connection_leaves_its_policies_to_the_others(tmp_path: Path) -> None:
    text = """
        connections:
          rabbit: {amqp: {url: "amqp://localhost", concurrency: 5, circuit_breaker: {}}}
        routes:
          a:
            from: {amqp: {connection: rabbit, queue: in}}
            steps: [{send: {amqp: {connection: rabbit, queue: out, concurrency: 2}}}]
    """
    assert found(text, tmp_path) == []
