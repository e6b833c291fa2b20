"""`skip_seen`: one effect for any number of copies, whatever happens in between."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest
from support.bus import load_text, running, store_of, url
from support.stores import message
from support.waiting import until

from esb.control import Selection, replay
from esb.durable import DEAD
from esb.envelope import Body, Envelope, Headers

ROUTE = """
    routes:
      once:
        from: {{queue: {{name: in, concurrency: 50, backoff: 10ms}}}}
        steps:
          - skip_seen: headers['x-order']
          - send: {{queue: out}}
          {more}
        retry: {{attempts: 1}}
"""


def order(number: object, **fields: object) -> Envelope:
    return message(str(number), headers=Headers([("x-order", str(number))]), **fields)


async def test_copies_end_there_and_others_pass(tmp_path: Path) -> None:
    async with running(ROUTE.format(more=""), tmp_path) as bus:
        store = store_of(bus)
        for number in (1, 2, 1, 1, 3, 2):
            await store.put("queue:in", order(number))
        await until(lambda: _empty(store, "queue:in"))
        assert await store.counts() == {"queue:out": 3}
    # As well after a restart.
    async with running(ROUTE.format(more=""), tmp_path) as bus:
        store = store_of(bus)
        await store.put("queue:in", order(2))
        await store.put("queue:in", order(4))
        await until(lambda: _empty(store, "queue:in"))
        assert await store.counts() == {"queue:out": 4}


async def test_a_thousand_copies_at_once_have_one_effect(tmp_path: Path) -> None:
    async with running(ROUTE.format(more=""), tmp_path) as bus:
        store = store_of(bus)
        await asyncio.gather(*(store.put("queue:in", order(7)) for _ in range(1000)))
        await until(lambda: _empty(store, "queue:in"))
        assert await store.counts() == {"queue:out": 1}


@pytest.mark.parametrize("concurrency", [1, 5])
async def test_of_the_parts_of_one_message_copies_end_there_too(
    tmp_path: Path, concurrency: int
) -> None:
    text = f"""
        routes:
          once:
            from: {{queue: in}}
            steps:
              - split:
                  each: body
                  concurrency: {concurrency}
                  steps:
                    - skip_seen: body
                    - send: {{queue: out}}
            retry: {{attempts: 1}}
    """
    async with running(text, tmp_path) as bus:
        store = store_of(bus)
        for part in ([1, 2, 1, 1], [2, 3]):
            await store.put("queue:in", Envelope(body=Body.of(part)))
            await until(lambda: _empty(store, "queue:in"))
        assert await store.counts() == {"queue:out": 3}


async def test_asked_twice_in_a_route_a_message_is_no_copy_of_itself(tmp_path: Path) -> None:
    twice = ROUTE.replace("- send", "- skip_seen: headers['x-order']\n          - send")
    async with running(twice.format(more=""), tmp_path) as bus:
        store = store_of(bus)
        for number in (1, 2, 1):
            await store.put("queue:in", order(number))
        await until(lambda: _empty(store, "queue:in"))
        assert await store.counts() == {"queue:out": 2}


async def test_a_run_that_failed_does_not_count(tmp_path: Path) -> None:
    async with running(ROUTE.format(more="- filter: body.nothing"), tmp_path) as bus:
        store = store_of(bus)
        await store.put("queue:in", order(1))
        await until(lambda: _empty(store, "queue:in"))
        assert await store.counts() == {DEAD: 1}
    async with running(ROUTE.format(more=""), tmp_path) as bus:
        store = store_of(bus)
        assert (await replay(store, bus.routes, Selection(all=True), None)).done == 1
        await until(lambda: _empty(store, DEAD, "accept:once"))
        assert await store.counts() == {"queue:out": 1}


async def test_a_copy_waits_while_the_first_is_at_work_and_uses_up_no_attempt(
    tmp_path: Path,
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    text = """
        routes:
          once:
            from: {http: {path: /orders, method: POST}}
            steps:
              - skip_seen: {by: "headers['x-order']", window: 1h, scope: orders}
              - call: {http: {url: "${BACKEND}"}}
    """

    async def backend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        begun.set()
        await go_on.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        writer.close()

    server = await asyncio.start_server(backend, "127.0.0.1", 0)
    environ = {"BACKEND": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"}
    async with (
        server,
        running(text, tmp_path, environ=environ) as bus,
        aiohttp.ClientSession() as client,
    ):

        async def post() -> tuple[int, str]:
            headers = {"x-order": "1"}
            async with client.post(f"{url(bus)}/orders", headers=headers) as answer:
                return answer.status, answer.headers.get("Retry-After", "")

        first = asyncio.create_task(post())
        await begun.wait()
        assert await post() == (409, "1")
        go_on.set()
        assert await first == (200, "")
        assert await post() == (204, "")


@pytest.mark.parametrize("headers", [[], [("x-order", "")]])
async def test_a_message_without_the_value_is_refused(
    tmp_path: Path, headers: list[tuple[str, str]]
) -> None:
    async with running(ROUTE.format(more=""), tmp_path) as bus:
        store = store_of(bus)
        await store.put("queue:in", message(headers=Headers(headers)))
        await until(lambda: _empty(store, "queue:in"))
        [dead] = await store.browse(DEAD)
        assert dead.failure is not None
        assert dead.failure.step == "steps[0].skip_seen"
        assert dead.failure.code in ("bad-message", "route-failure")


def test_mistakes_are_found_at_load(tmp_path: Path) -> None:
    text = "routes: {r: {from: {queue: a}, steps: [{skip_seen: {by: 'headers[', windw: 1h}}]}}"
    found = [str(one) for one in load_text(text, tmp_path).diagnostics]
    assert len(found) >= 1
    assert "did you mean 'window'?" in found[0]


async def _empty(store: object, *channels: str) -> bool:
    counts = await store.counts()  # type: ignore[attr-defined]
    return not any(counts.get(channel) for channel in channels)
