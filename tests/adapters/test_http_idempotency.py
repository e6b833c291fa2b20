"""`Idempotency-Key`: one effect a key, and one answer, whoever asks how often."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.bus import load_text, running, store_of, url
from support.waiting import until

from esb.auth.keys import digest

TEXT = """
    routes:
      pay:
        from: {http: {path: /pay/:to, method: POST, idempotency_key: %s}}
        steps:
          - send: {queue: paid}
          - set: {body: {to: path.to, sum: body.sum}, headers: {x-paid: "'yes'"}}
"""
JSON = {"content-type": "application/json"}


class Client:
    """Pays, and tells what was answered."""

    def __init__(self, base: str, session: aiohttp.ClientSession) -> None:
        self._base = base
        self._session = session

    async def pay(
        self, key: str | None, data: bytes = b'{"sum": 5}', to: str = "ada"
    ) -> tuple[int, Any, dict[str, str]]:
        headers = {**JSON, **({"Idempotency-Key": key} if key is not None else {})}
        async with self._session.post(f"{self._base}/pay/{to}", data=data, headers=headers) as r:
            body = await r.json(content_type=None) if r.status != 204 else None
            return r.status, body, {n.lower(): v for n, v in r.headers.items()}


async def test_a_repeat_gets_the_answer_and_has_no_effect(tmp_path: Path) -> None:
    async with running(TEXT % "optional", tmp_path) as bus, aiohttp.ClientSession() as session:
        client = Client(url(bus), session)
        first = await client.pay("k1")
        again = await client.pay('"k1"')  # the same, written as a structured field
        assert first[:2] == again[:2] == (200, {"to": "ada", "sum": 5})
        assert (first[2]["x-paid"], again[2]["x-paid"]) == ("yes", "yes")
        assert "idempotency-replayed" not in first[2]
        assert again[2]["idempotency-replayed"] == "true"
        assert await store_of(bus).counts() == {"queue:paid": 1}
        await client.pay("k2")
        await client.pay(None)
        await client.pay(None)
        assert await store_of(bus).counts() == {"queue:paid": 4}
    async with running(TEXT % "optional", tmp_path) as bus, aiohttp.ClientSession() as session:
        after_a_restart = await Client(url(bus), session).pay("k1")
        assert after_a_restart[:2] == first[:2]
        assert await store_of(bus).counts() == {"queue:paid": 4}


async def test_another_request_with_the_key_is_refused(tmp_path: Path) -> None:
    async with running(TEXT % "optional", tmp_path) as bus, aiohttp.ClientSession() as session:
        client = Client(url(bus), session)
        await client.pay("k1")
        for other in ({"data": b'{"sum": 6}'}, {"to": "bob"}):
            status, body, _ = await client.pay("k1", **other)  # type: ignore[arg-type]
            assert (status, body["type"]) == (422, "urn:esb:problem:idempotency-key-reused")
        assert await store_of(bus).counts() == {"queue:paid": 1}


async def test_many_at_once_have_one_effect(tmp_path: Path) -> None:
    async with running(TEXT % "optional", tmp_path) as bus, aiohttp.ClientSession() as session:
        client = Client(url(bus), session)
        answers = await asyncio.gather(*(client.pay("k1") for _ in range(100)))
        assert {status for status, _, _ in answers} <= {200, 409}
        assert any(status == 200 for status, _, _ in answers)
        assert all(h.get("retry-after") for status, _, h in answers if status == 409)
        assert (await client.pay("k1"))[0] == 200
        assert await store_of(bus).counts() == {"queue:paid": 1}


async def test_a_key_can_be_required_and_is_checked(tmp_path: Path) -> None:
    async with running(TEXT % "required", tmp_path) as bus, aiohttp.ClientSession() as session:
        client = Client(url(bus), session)
        status, body, _ = await client.pay(None)
        assert (status, "Idempotency-Key" in body["detail"]) == (400, True)
        for bad in ("", "x" * 256, "a b", '"a'):
            assert (await client.pay(bad))[0] == 400
        assert await store_of(bus).counts() == {}


async def test_what_failed_without_an_effect_may_be_repeated(tmp_path: Path) -> None:
    async with running(TEXT % "optional", tmp_path) as bus, aiohttp.ClientSession() as session:
        client = Client(url(bus), session)
        assert (await client.pay("k1", data=b"{"))[0] == 400
        assert await store_of(bus).counts() == {}, "the run is undone as a whole"
        assert (await client.pay("k1"))[0] == 200
        assert await store_of(bus).counts() == {"queue:paid": 1}


@pytest.mark.parametrize(("status", "asked"), [(422, 1), (503, 2)])
async def test_an_answer_of_the_far_side_counts_and_its_absence_does_not(
    tmp_path: Path, status: int, asked: int
) -> None:
    calls = 0

    async def backend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        await reader.readuntil(b"\r\n\r\n")
        calls += 1
        writer.write(b"HTTP/1.1 %d Oh\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % status)
        writer.close()

    text = """
        routes:
          pay:
            from: {http: {path: /pay/:to, method: POST, idempotency_key: {window: 1h}}}
            steps:
              - call: {http: {url: "${BACKEND}"}}
    """
    server = await asyncio.start_server(backend, "127.0.0.1", 0)
    environ = {"BACKEND": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"}
    async with (
        server,
        running(text, tmp_path, environ=environ) as bus,
        aiohttp.ClientSession() as session,
    ):
        client = Client(url(bus), session)
        first, again = await client.pay("k1"), await client.pay("k1")
        assert first[0] == again[0]
        assert first[0] == status
        assert calls == asked


async def test_a_durable_route_stores_a_repeat_once(tmp_path: Path) -> None:
    text = """
        routes:
          pay:
            from: {http: {path: /pay/:to, method: POST, idempotency_key: required}}
            accept: durable
            steps: [{send: {queue: paid}}]
    """
    async with running(text, tmp_path) as bus, aiohttp.ClientSession() as session:
        client = Client(url(bus), session)
        first, again = await client.pay("k1"), await client.pay("k1")
        assert first[0] == again[0] == 202
        assert first[1]["id"] == again[1]["id"]


async def test_a_dead_letter_of_a_refused_request_is_kept(tmp_path: Path) -> None:
    text = """
        routes:
          pay:
            from: {http: {path: /pay/:to, method: POST, idempotency_key: required}}
            steps: [{filter: body.nothing}]
            dead_letter: {queue: refused}
    """
    async with running(text, tmp_path) as bus, aiohttp.ClientSession() as session:
        assert (await Client(url(bus), session).pay("k1"))[0] == 500
        assert await store_of(bus).counts() == {"queue:refused": 1}


def test_mistakes_are_found_at_load(tmp_path: Path) -> None:
    text = "routes: {r: {from: {http: {path: /a, idempotency_key: %s}}}}"
    for wrong in ("always", "{use: required, windw: 1h}"):
        [found] = load_text(text % wrong, tmp_path).diagnostics
        assert "optional, required" in found.message or "window" in found.hint


@pytest.mark.parametrize("accept", ["", "accept: durable"])
async def test_who_may_not_any_more_gets_no_kept_answer(tmp_path: Path, accept: str) -> None:
    payer = {"name": "acme", "sha256": digest("y" * 40), "roles": ["payer"]}
    reader = {"name": "acme", "sha256": digest("n" * 40)}
    (tmp_path / "keys.yml").write_text(json.dumps({"keys": [payer, reader]}))
    text = f"""
    auth: {{it: {{api_keys: {{file: keys.yml}}}}}}
    routes:
      pay:
        from: {{http: {{path: /pay/:to, method: POST, auth: it, idempotency_key: required}}}}
        allow: {{roles: payer}}
        rate_limit: 3/1h
        {accept}
        steps: [{{send: {{queue: paid}}}}]
    """
    async with running(text, tmp_path) as bus, aiohttp.ClientSession() as session:

        async def pay(may: str) -> tuple[int, str | None]:
            headers = {"Idempotency-Key": "k1", "X-API-Key": may[0] * 40}
            async with session.post(f"{url(bus)}/pay/ada", data=b"5", headers=headers) as r:
                return r.status, r.headers.get("idempotency-replayed")

        assert await pay("yes") == (202, None)
        assert await pay("yes") == (202, "true")
        assert await pay("no") == (403, None)
        assert await pay("yes") == (202, "true")
        assert await pay("yes") == (429, None)

        async def paid() -> bool:
            return await store_of(bus).counts() == {"queue:paid": 1}

        await until(paid)
