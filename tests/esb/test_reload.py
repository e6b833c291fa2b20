"""Routes that are replaced, stopped and started while the bus runs."""

from __future__ import annotations

import asyncio
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme
from support.bus import running, url
from support.bus import store_of as store
from support.waiting import until
from support.web import backend, read_request

from esb.adapter import Health
from esb.bus import Bus
from esb.config import load
from esb.envelope import Body, Envelope
from esb.errors import EsbError
from esb.route import Route, RouteOptions

ANSWERS = """
    routes:
      a: {from: {http: {path: /a, method: GET}}, steps: [{set: {body: "'0'"}}]}
      other: {from: {http: {path: /other, method: GET}}}
"""


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def reload(bus: Bus, folder: Path, old: str, new: str) -> dict[str, list[str]]:
    """Write the routes with something changed, and put them in the place of those that run."""
    file = folder / "routes.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    bus.shared.begin()
    return await bus.replace(
        load([file], environ={}, root=folder, shared=bus.shared).check().routes
    )


async def get(http: aiohttp.ClientSession, address: str) -> int:
    async with http.get(address) as r:
        return r.status


async def test_a_route_that_is_stopped_tells_callers_to_come_back(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    async with running(ANSWERS, tmp_path) as bus:
        for _ in range(2):  # stopping what is stopped changes nothing
            await bus.stop_route("a")
        async with http.get(url(bus) + "/a") as r:
            assert (r.status, r.headers["retry-after"]) == (503, "30")
            assert (await r.json())["detail"] == "this is stopped for a while"
        assert await get(http, url(bus) + "/other") == 200
        ready, told = bus.readyz()
        assert (ready, told["status"], told["stopped"]) == (True, "ok", ["a"])
        for _ in range(2):
            await bus.start_route("a")
        assert await get(http, url(bus) + "/a") == 200
        assert "stopped" not in bus.readyz()[1]
        with pytest.raises(KeyError):
            await bus.stop_route("nothing")


async def test_callers_of_soap_are_told_so_in_a_fault(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    wsdl = Path(__file__).parent.parent / "support" / "calculator.wsdl"
    (tmp_path / "calculator.wsdl").write_bytes(wsdl.read_bytes())
    text = "routes: {a: {from: {soap: {wsdl: calculator.wsdl, path: /a}}}}"
    async with running(text, tmp_path) as bus:
        await bus.stop_route("a")
        async with http.post(url(bus) + "/a", data=b"<a/>") as r:
            assert (r.status, r.content_type) == (503, "text/xml")
            assert "stopped for a while" in await r.text()


async def test_a_route_that_is_stopped_finishes_what_it_has_and_takes_nothing(
    tmp_path: Path,
) -> None:
    asked, answers = asyncio.Event(), asyncio.Event()
    seen: list[str] = []

    async def far(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, _, body = await read_request(reader)
        seen.append(body.decode())
        asked.set()
        await answers.wait()
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with backend(far) as address:
        text = f'routes: {{a: {{from: {{queue: in}}, steps: [{{send: {{http: "{address}"}}}}]}}}}'
        async with running(text, tmp_path) as bus:
            await store(bus).put("queue:in", Envelope(body=Body(b"1", "text/plain")))
            await asked.wait()
            stopping = asyncio.create_task(bus.stop_route("a"))
            await until(lambda: bus.stopped == {"a"})
            await store(bus).put("queue:in", Envelope(body=Body(b"2", "text/plain")))
            answers.set()
            await stopping
            assert (seen, await store(bus).counts()) == (["1"], {"queue:in": 1})
            await bus.start_route("a")
            await until(lambda: seen == ["1", "2"])


async def test_a_route_stays_stopped_when_it_is_replaced(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    async with running(ANSWERS, tmp_path) as bus:
        await bus.stop_route("a")
        assert (await reload(bus, tmp_path, "'0'", "'1'"))["changed"] == ["a"]
        await bus.settled()
        assert await get(http, url(bus) + "/a") == 503
        await bus.start_route("a")
        async with http.get(url(bus) + "/a") as r:
            assert await r.text() == '"1"'
        await bus.stop_route("a")
        await reload(bus, tmp_path, "/a,", "/b,")
        await bus.settled()
        assert [await get(http, url(bus) + path) for path in ("/a", "/b")] == [404, 503]


async def test_a_bus_begins_with_the_routes_stopped_that_were(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    async with running(ANSWERS, tmp_path, stopped=["a", "gone"]) as bus:
        assert bus.stopped == {"a"}
        assert await get(http, url(bus) + "/a") == 503


async def test_the_certificate_of_the_listener_is_no_part_of_a_route(tmp_path: Path) -> None:
    made = trustme.CA().issue_cert("localhost")
    made.private_key_pem.write_to_path(tmp_path / "key.pem")
    made.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    text = "listen: {port: 0, tls: {cert: cert.pem, key: key.pem}}" + textwrap.dedent(ANSWERS)
    async with running(text, tmp_path) as bus:
        told = await reload(bus, tmp_path, "/other", "/another")
        assert told == {"added": [], "changed": ["other"], "removed": []}


async def test_a_reload_does_not_wait_for_what_is_in_flight(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    """Nor does the next; and what the old routes use stays open for them."""
    asked, answers = asyncio.Event(), asyncio.Event()

    async def far(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        asked.set()
        await answers.wait()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nold")

    async with backend(far) as address:
        text = f"""
            routes:
              a:
                from: {{http: {{path: /a, method: GET}}}}
                steps: [{{call: {{http: {{url: "{address}", method: GET}}}}}}]
        """
        async with running(text, tmp_path) as bus:

            async def ask() -> tuple[int, str]:
                async with http.get(url(bus) + "/a") as r:
                    return r.status, await r.text()

            asking = asyncio.create_task(ask())
            await asked.wait()
            pools = len(bus.shared.objects)
            await reload(bus, tmp_path, f'call: {{http: {{url: "{address}", method: GET}}',
                         "set: {body: \"'new'\"")  # fmt: skip
            assert await ask() == (200, '"new"')
            await reload(bus, tmp_path, "'new'", "'newer'")
            assert await ask() == (200, '"newer"')
            assert len(bus.shared.objects) == pools
            answers.set()
            assert await asking == (200, "old")
            await bus.settled()
            assert len(bus.shared.objects) < pools


async def test_where_order_is_kept_the_new_route_waits_for_the_old_one(tmp_path: Path) -> None:
    asked, answers = asyncio.Event(), asyncio.Event()
    seen: list[str] = []

    async def far(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, _, body = await read_request(reader)
        seen.append(f"{line.split()[1]} {body.decode()}")
        asked.set()
        await answers.wait()
        writer.write(b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n")

    async with backend(far) as address:
        text = f"""
            routes:
              a:
                from: {{queue: {{name: in, order: true}}}}
                steps: [{{send: {{http: "{address}/old"}}}}]
        """
        async with running(text, tmp_path) as bus:
            for body in (b"1", b"2"):
                await store(bus).put("queue:in", Envelope(body=Body(body, "text/plain")))
            await asked.wait()
            await reload(bus, tmp_path, "/old", "/new")
            await until(lambda: bus.routes["a"].health().up)
            assert seen == ["/old 1"]
            answers.set()
            await until(lambda: len(seen) == 2)
            assert seen == ["/old 1", "/new 2"]


class _CannotStart:
    waits = True
    where = "nowhere"

    async def start(self, step: Any) -> None:
        raise EsbError("it cannot start")

    async def stop(self, grace: float) -> None:
        pass

    def health(self) -> Health:
        return Health(False)


async def test_if_a_new_route_cannot_start_the_old_ones_run_on(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    async with running(ANSWERS, tmp_path) as bus:
        file = tmp_path / "routes.yaml"
        file.write_text(file.read_text().replace("'0'", "'1'"))
        bus.shared.begin()
        project = load([file], environ={}, root=tmp_path, shared=bus.shared).check()

        async def step(envelope: Envelope) -> Envelope:
            return envelope

        broken = Route(
            "broken", RouteOptions.model_validate({"from": {}}), [(_CannotStart(), step)]
        )
        with pytest.raises(EsbError, match="it cannot start"):
            await bus.replace([*project.routes, broken])
        bus.shared.roll_back()
        async with http.get(url(bus) + "/a") as r:
            assert (r.status, await r.text()) == (200, '"0"')
        assert list(bus.routes) == ["a", "other"]
        assert (await reload(bus, tmp_path, "'1'", "'2'"))["changed"] == ["a"]
        async with http.get(url(bus) + "/a") as r:
            assert await r.text() == '"2"'
