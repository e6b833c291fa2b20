"""A whole bus, from YAML, over real HTTP: outcomes, errors, dead letters, reload, drain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.bus import running, url
from support.stores import opened
from support.waiting import until
from support.web import backend, read_request

from esb.adapter import Health
from esb.bus import Bus, Shared
from esb.config import load
from esb.control import Selection, replay
from esb.durable import DEAD, Store
from esb.envelope import Envelope
from esb.errors import EsbError

JSON = {"content-type": "application/json"}


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def store(bus: Bus) -> Store:
    found: Store = next(o for o in bus.shared.objects.values() if hasattr(o, "counts"))
    return found


async def test_every_outcome_has_its_answer(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    text = """
        routes:
          echo: {from: {http: {path: /echo}}}
          taken: {from: {http: {path: /taken}}, steps: [{send: {queue: q}}]}
          filtered: {from: {http: {path: /filtered}}, steps: [{filter: "false"}]}
          made: {from: {http: {path: /made}}, steps: [{set: {body: {twice: body.n * 2}}}]}
          broken: {from: {http: {path: /broken}}, steps: [{filter: body.nothing}]}
    """
    async with running(text, tmp_path) as bus:
        base = url(bus)
        async with http.post(base + "/echo", data=b'{"n": 1.10 }', headers=JSON) as r:
            assert (r.status, await r.read()) == (200, b'{"n": 1.10 }')
        async with http.post(base + "/taken", json={"n": 1}) as r:
            assert r.status == 202
            assert (await r.json())["id"]
        async with http.post(base + "/filtered", json={}) as r:
            assert (r.status, await r.read()) == (204, b"")
        async with http.post(base + "/made", json={"n": 21}) as r:
            assert (r.status, await r.json()) == (200, {"twice": 42})
        async with http.post(base + "/broken", json={}) as r:
            assert r.status == 500
            assert r.content_type == "application/problem+json"
        assert await store(bus).counts() == {"queue:q": 1}


async def test_a_request_does_not_come_back_in_the_answers_headers(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    text = """
        routes:
          a: {from: {http: {path: /a}}, steps: [{set: {headers: {x-made: "'1'"}}}]}
    """
    async with running(text, tmp_path) as bus:
        headers = {"authorization": "Bearer secret", "x-mine": "1", "cookie": "a=b"}
        async with http.post(url(bus) + "/a", json={}, headers=headers) as r:
            assert r.headers["x-made"] == "1"
            assert not {"authorization", "x-mine", "cookie"} & {n.lower() for n in r.headers}


async def test_a_message_that_fails_for_good_lies_in_the_dead_letters(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    text = """
        routes:
          in: {from: {http: {path: /in}}, steps: [{send: {queue: work}}]}
          work: {from: {queue: work}, steps: [{filter: body.nothing == 1}]}
    """
    async with running(text, tmp_path) as bus:
        async with http.post(url(bus) + "/in", data=b'{"n": 1.10}', headers=JSON) as r:
            sent = (await r.json())["id"]
        (dead,) = await _dead_letters(bus, 1)
        assert dead.envelope.id == sent
        assert dead.envelope.body.raw == b'{"n": 1.10}'
        assert dead.failure is not None
        assert (dead.failure.route, dead.failure.code) == ("work", "route-failure")
        assert dead.failure.step == "steps[0].filter"


async def test_a_dead_letter_is_replayed(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    text = """
        routes:
          in: {from: {http: {path: /in}}, steps: [{send: {queue: work}}]}
          work: {from: {queue: work}, steps: [{filter: "body.n == 1"}, {send: {queue: done}}]}
    """
    async with running(text, tmp_path) as bus:
        async with http.post(url(bus) + "/in", data=b'{"m": 1}', headers=JSON) as r:
            assert r.status == 202
        (dead,) = await _dead_letters(bus, 1)
        await replay(store(bus), bus.routes, Selection(keys=[dead.key]), None)
        # It fails again, as a dead letter of its own: nothing was changed about it.
        await until(lambda: _is_dead_again(bus, dead.envelope.id, dead.key))


async def _is_dead_again(bus: Bus, message: str, key: int) -> bool:
    counts = await store(bus).counts()
    found = await store(bus).browse(DEAD)
    return counts.get("accept:work", 0) == 0 and [f.envelope.id for f in found] == [message]


async def _dead_letters(bus: Bus, count: int) -> list[Any]:
    async def there() -> bool:
        return len(await store(bus).browse(DEAD)) == count

    await until(there)
    return await store(bus).browse(DEAD)


async def test_durable_acceptance_survives_the_process(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    """The route cannot deliver in the first life of the bus; in the second it does."""
    seen: list[bytes] = []
    got = asyncio.Event()

    async def backend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        seen.append(await reader.readexactly(length))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        await writer.drain()
        got.set()

    probe = await asyncio.start_server(backend, "127.0.0.1", 0)
    port = probe.sockets[0].getsockname()[1]
    probe.close()
    await probe.wait_closed()
    text = f"""
        routes:
          in:
            from: {{http: {{path: /in}}}}
            accept: durable
            steps: [{{send: {{http: {{url: "http://127.0.0.1:{port}/"}}}}}}]
            retry: {{attempts: 50, backoff: 50ms..100ms}}
    """
    async with (
        running(text, tmp_path, grace=0.2) as bus,
        http.post(url(bus) + "/in", data=b'{"n": 1}', headers=JSON) as r,
    ):
        assert r.status == 202
    server = await asyncio.start_server(backend, "127.0.0.1", port)
    async with server, running(text, tmp_path) as bus:
        await asyncio.wait_for(got.wait(), 30)
        await until(lambda: _empty(bus))
    assert seen == [b'{"n": 1}']


async def _empty(bus: Bus) -> bool:
    return sum((await store(bus).counts()).values()) == 0


async def test_reload_changes_routes_and_leaves_the_others_alone(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    text = """
        routes:
          same: {from: {http: {path: /same}}, steps: [{set: {body: "'same'"}}]}
          changed: {from: {http: {path: /changed}}, steps: [{set: {body: "'old'"}}]}
          gone: {from: {http: {path: /gone}}}
    """
    async with running(text, tmp_path) as bus:
        kept = bus.routes["same"]
        file = tmp_path / "routes.yaml"
        new = file.read_text().replace("'old'", "'new'").replace("gone", "added")
        file.write_text(new)
        bus.shared.begin()
        project = load([file], environ={}, root=tmp_path, shared=bus.shared).check()
        changes = await bus.replace(project.routes)
        assert changes == {"added": ["added"], "changed": ["changed"], "removed": ["gone"]}
        assert bus.routes["same"] is kept
        expected = {"/same": (200, '"same"'), "/changed": (200, '"new"'), "/added": (200, "{}")}
        for path, answer in expected.items():
            async with http.post(url(bus) + path, json={}) as r:
                assert (r.status, await r.text()) == answer
        async with http.post(url(bus) + "/gone", json={}) as r:
            assert r.status == 404


async def test_until_the_routes_are_there_a_caller_is_told_to_come_back(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    """A 404 would be final: the sender would give its message up."""
    text = "{listen: {port: 0}, routes: {a: {from: {http: {path: /a, method: GET}}}}}"
    file = tmp_path / "routes.yaml"
    file.write_text(text)
    shared = Shared()
    project = load([file], environ={}, root=tmp_path, shared=shared).check()
    slow = shared.get("slow", _OpensLate)
    bus = Bus(project.routes, shared)
    starting = asyncio.create_task(bus.start())
    await slow.asked.wait()
    async with http.get(url(bus) + "/a") as r:
        assert (r.status, r.headers["retry-after"]) == (503, "1")
        assert (await r.json())["detail"] == "the bus is starting"
    async with http.get(url(bus) + "/readyz") as r:
        assert (r.status, await r.json()) == (503, {"status": "starting"})
    async with http.get(url(bus) + "/healthz") as r:
        assert r.status == 200
    slow.may.set()
    await starting
    async with http.get(url(bus) + "/a") as r:
        assert r.status == 200
    await bus.stop()


class _OpensLate:
    """A resource that takes its time, after the listener is open."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.may = asyncio.Event()

    async def open(self) -> None:
        self.asked.set()
        await self.may.wait()

    async def close(self) -> None:
        pass

    def health(self) -> Health:
        return Health(True)


class _Is(_OpensLate):
    def __init__(self, up: bool) -> None:
        self.up = up

    def health(self) -> Health:
        return Health(self.up, "" if self.up else "it is away")


@pytest.mark.parametrize("down", [0, 1])
def test_of_two_that_go_by_one_name_the_one_that_is_down_is_told(down: int) -> None:
    shared = Shared()
    for number in (0, 1):
        shared.get(("redis", f"redis://{number}"), lambda up=number != down: _Is(up))  # type: ignore[misc]
    assert shared.health() == {"redis": Health(False, "it is away")}


async def test_a_listener_that_a_reload_brings_serves_its_routes(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    async with running("routes: {a: {from: {queue: q}}}", tmp_path) as bus:
        file = tmp_path / "routes.yaml"
        file.write_text(file.read_text().replace("{queue: q}", "{http: {path: /a, method: GET}}"))
        bus.shared.begin()
        project = load([file], environ={}, root=tmp_path, shared=bus.shared).check()
        await bus.replace(project.routes)
        assert (await _get(http, url(bus) + "/a"))[0] == 200


async def test_while_routes_are_replaced_every_caller_is_answered(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    text = """
        routes:
          a: {from: {http: {path: /a, method: GET}}, steps: [{set: {body: "'0'"}}]}
    """
    async with running(text, tmp_path) as bus:
        file = tmp_path / "routes.yaml"
        statuses: list[int] = []
        done = asyncio.Event()

        async def ask() -> None:
            while not done.is_set():
                statuses.append((await _get(http, url(bus) + "/a"))[0])

        asking = [asyncio.create_task(ask()) for _ in range(4)]
        for number in range(5):
            file.write_text(file.read_text().replace(f"'{number}'", f"'{number + 1}'"))
            bus.shared.begin()
            project = load([file], environ={}, root=tmp_path, shared=bus.shared).check()
            before = len(statuses)
            assert (await bus.replace(project.routes))["changed"] == ["a"]
            await until(lambda before=before: len(statuses) > before + 4)
        done.set()
        await asyncio.gather(*asking)
        assert set(statuses) == {200}


async def test_a_stopping_bus_finishes_what_it_began(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    entered = asyncio.Event()
    release = asyncio.Event()

    async def backend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        entered.set()
        await release.wait()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        await writer.drain()

    server = await asyncio.start_server(backend, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    text = f"""
        routes:
          a:
            from: {{http: {{path: /a, method: GET}}}}
            steps: [{{call: {{http: {{url: "http://127.0.0.1:{port}/", method: GET}}}}}}]
    """
    async with server, running(text, tmp_path) as bus:
        base = url(bus)
        asked = asyncio.create_task(_get(http, base + "/a"))
        await entered.wait()
        stopping = asyncio.create_task(bus.stop())
        await until(lambda: not bus.readyz()[0])
        assert await _get(http, base + "/a") == (503, None)
        release.set()
        assert await asked == (200, b"ok")
        await stopping
        assert bus.state == "stopped"


async def _get(http: aiohttp.ClientSession, address: str) -> tuple[int, bytes | None]:
    async with http.get(address) as r:
        return r.status, await r.read() if r.status == 200 else None


async def test_probes_tell_how_the_bus_is(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    text = """
        routes:
          a: {from: {http: {path: /a}}}
          b: {from: {amqp: {url: "amqp://127.0.0.1:1/", queue: q}}}
    """
    async with running(text, tmp_path) as bus:
        async with http.get(url(bus) + "/healthz") as r:
            assert (r.status, await r.json()) == (200, {"status": "ok"})
        ready, told = bus.readyz()
        assert (ready, told["status"], list(told["waiting"])) == (True, "degraded", ["b"])
        async with http.get(url(bus) + "/readyz") as r:
            # What callers see names no route and no address.
            assert (r.status, await r.json()) == (200, {"status": "degraded"})
        async with http.post(url(bus) + "/a", json={}) as r:
            assert r.status == 200


async def test_a_stop_waits_for_what_a_reload_still_finishes(tmp_path: Path) -> None:
    """The message that is in an old route when both come is through once, and only once."""
    asked, answers = asyncio.Event(), asyncio.Event()
    seen: list[str] = []

    async def far(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, _, _ = await read_request(reader)
        seen.append(line)
        asked.set()
        await answers.wait()
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with backend(far) as address:
        text = f"""
            routes:
              a: {{from: {{queue: in}}, steps: [{{send: {{http: "{address}/old"}}}}]}}
        """
        async with running(text, tmp_path) as bus:
            await store(bus).put("queue:in", Envelope())
            await asked.wait()
            file = tmp_path / "routes.yaml"
            file.write_text(file.read_text().replace("/old", "/new"))
            bus.shared.begin()
            project = load([file], environ={}, root=tmp_path, shared=bus.shared).check()
            replacing = asyncio.create_task(bus.replace(project.routes))
            await until(lambda: bus.routes["a"] is project.routes[0])
            stopping = asyncio.create_task(bus.stop())
            assert not (await asyncio.wait([stopping], timeout=0.3))[0]
            answers.set()
            await asyncio.gather(replacing, stopping)
            with pytest.raises(EsbError, match="the bus is stopped"):
                await bus.replace(project.routes)
    assert seen == ["POST /old HTTP/1.1"]
    async with opened(tmp_path / "bus.db") as kept:
        assert await kept.counts() == {}
