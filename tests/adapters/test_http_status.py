"""What a sender is told of a message that was only accepted: from the 202 to its end."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from textwrap import dedent
from typing import Any
from urllib.parse import urljoin

import aiohttp
import pytest
import trustme
from aiohttp import web
from support.bus import load_text, running, store_of, url
from support.stores import Place, setting
from support.waiting import until

from esb.durable import DEAD, MOST_CRASHES, Failure
from esb.envelope import Body, Envelope

ROUTES = """
    routes:
      orders in:
        from: {http: {path: "/orders/:what", method: POST}}
        accept: durable
        steps:
          - filter: path.what != 'nothing'
          - send: {http: {url: "${BACKEND}/{{ path.what }}", method: POST}}
        retry: {attempts: 3, backoff: 10ms..20ms, park_after: 1s}
"""


class Far:
    """A backend: /slow waits for `go`, /busy says when to come back, /bad refuses."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def behave(self, request: web.Request) -> web.Response:
        if request.path == "/slow":
            await self.go.wait()
        if request.path == "/busy":
            return web.Response(status=503, headers={"Retry-After": "100"})
        return web.Response(status=400 if request.path == "/bad" else 200)


@contextlib.asynccontextmanager
async def far_side() -> AsyncIterator[tuple[Far, dict[str, str]]]:
    far = Far()
    app = web.Application()
    app.router.add_post("/{any}", far.behave)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield far, {"BACKEND": f"http://{host}:{port}"}
    finally:
        far.go.set()
        await runner.cleanup()


class Sender:
    """Sends a message, and asks for it by what the 202 says."""

    def __init__(self, base: str, session: aiohttp.ClientSession) -> None:
        self.base = base
        self.session = session

    async def send(self, path: str, **options: Any) -> str:
        async with self.session.post(self.base + path, json={}, **options) as r:
            assert r.status == 202, await r.text()
            told = await r.json()
            assert r.headers["location"] == told["status_url"]
            assert told["id"] in told["status_url"]
            return str(told["status_url"])

    async def ask(self, status_url: str) -> tuple[int, dict[str, Any], Any]:
        async with self.session.get(urljoin(self.base, status_url)) as r:
            return r.status, await r.json(content_type=None), r.headers

    async def becomes(self, status_url: str, state: str) -> tuple[dict[str, Any], Any]:
        async def so() -> Any:
            status, told, headers = await self.ask(status_url)
            assert status == 200, f"{told} instead of {state}"
            return (told, headers) if told["state"] == state else None

        found: tuple[dict[str, Any], Any] = await until(so)
        return found


def recent(text: str) -> bool:
    return abs((datetime.now(UTC) - datetime.fromisoformat(text)).total_seconds()) < 60


async def test_each_state_is_told(tmp_path: Path, place: Place) -> None:
    async with (
        far_side() as (far, environ),
        running(dedent(ROUTES) + setting(place), tmp_path, environ=environ) as bus,
        aiohttp.ClientSession() as session,
    ):
        sender = Sender(url(bus), session)
        slow = await sender.send("/orders/slow")
        assert slow.startswith("/accepted/orders-in/")
        told, headers = await sender.becomes(slow, "working")
        assert set(told) == {"id", "state", "accepted", "attempts"}
        assert (told["attempts"], headers["retry-after"]) == (0, "1")
        assert headers["cache-control"] == "no-store"
        assert recent(told["accepted"])
        far.go.set()
        told, headers = await sender.becomes(slow, "delivered")
        assert set(told) == {"id", "state", "finished"}
        assert recent(told["finished"])
        assert "retry-after" not in headers

        told, headers = await sender.becomes(await sender.send("/orders/busy"), "retrying")
        assert (told["attempts"], set(told)) == (
            1,
            {"id", "state", "accepted", "attempts", "detail"},
        )
        assert 90 <= int(headers["retry-after"]) <= 101
        assert environ["BACKEND"] not in str(told)

        await sender.becomes(await sender.send("/orders/nothing"), "filtered")

        bad = await sender.send("/orders/bad")
        told, headers = await sender.becomes(bad, "dead")
        assert "refused" in told["detail"] or "400" in told["detail"]
        assert recent(told["finished"])
        assert "retry-after" not in headers
        async with session.head(urljoin(url(bus), bad)) as r:
            assert (r.status, await r.read()) == (200, b"")


async def test_a_message_is_never_hidden_between_two_states(tmp_path: Path, place: Place) -> None:
    text = """
        routes:
          in: {from: {http: /in}, accept: durable, steps: [{send: {queue: out}}]}
    """
    async with (
        running(dedent(text) + setting(place), tmp_path) as bus,
        aiohttp.ClientSession() as session,
    ):
        sender = Sender(url(bus), session)

        async def follow() -> None:
            status_url = await sender.send("/in")
            while True:
                status, told, _ = await sender.ask(status_url)
                assert status == 200
                if told["state"] == "delivered":
                    return

        await asyncio.gather(*(follow() for _ in range(60)))


async def test_only_who_sent_it_is_told(tmp_path: Path) -> None:
    ca, callers = trustme.CA(), trustme.CA()
    cert = ca.issue_cert("127.0.0.1")
    (tmp_path / "cert.pem").write_bytes(b"".join(pem.bytes() for pem in cert.cert_chain_pems))
    cert.private_key_pem.write_to_path(tmp_path / "key.pem")
    callers.cert_pem.write_to_path(tmp_path / "callers.pem")
    text = """
        listen: {port: 0, tls: {cert: cert.pem, key: key.pem, client_ca: callers.pem}}
        routes:
          in: {from: {http: /in}, accept: durable, steps: [{filter: body.through}]}
    """

    def calling(name: str) -> aiohttp.TCPConnector:
        tls = ssl.create_default_context()
        ca.configure_trust(tls)
        callers.issue_cert(name).configure_cert(tls)
        return aiohttp.TCPConnector(ssl=tls)

    async with (
        running(text, tmp_path) as bus,
        aiohttp.ClientSession(connector=calling("ada@example.org")) as ada,
        aiohttp.ClientSession(connector=calling("bob@example.org")) as bob,
    ):
        hers, his = Sender(url(bus), ada), Sender(url(bus), bob)
        async with ada.post(url(bus) + "/in", json={"through": False}) as r:
            filtered = (await r.json())["status_url"]
        dead = await hers.send("/in")
        for status_url, state in ((filtered, "filtered"), (dead, "dead")):
            told, _ = await hers.becomes(status_url, state)
            status, problem, _ = await his.ask(status_url)
            assert (status, problem["type"]) == (404, "urn:esb:problem:no-such-operation")
            unknown = await hers.ask(status_url.replace(told["id"][-4:], "0000"))
            assert unknown[0] == 404
            assert problem["detail"] == unknown[1]["detail"], "who asks cannot tell the two apart"


async def test_what_belongs_to_another_route_is_not_told(tmp_path: Path) -> None:
    text = """
        routes:
          in: {from: {http: /in}, accept: durable, steps: [{send: {queue: q}}]}
          other: {from: {http: /other}, accept: durable, steps: [{send: {queue: q}}]}
    """
    async with running(text, tmp_path) as bus, aiohttp.ClientSession() as session:
        sender, store = Sender(url(bus), session), store_of(bus)
        status_url = await sender.send("/in")
        await sender.becomes(status_url, "delivered")
        assert (await sender.ask(status_url.replace("/in/", "/other/")))[0] == 404
        later = time.time() + 1000
        when = datetime.now(UTC)
        message = Envelope(body=Body(b"{}", "application/json"), business_key="b-1")

        async def answer() -> tuple[int, dict[str, Any]]:
            return (await sender.ask(f"/accepted/in/{message.id}"))[:2]

        key = await store.put("queue:elsewhere", message, due=later)
        assert (await answer())[0] == 404
        await store.move(key, DEAD, failure=Failure("rejected", "no", "elsewhere", "", 1, when))
        assert (await answer())[0] == 404
        # The store, which names the channel as the place, buries what nobody lives to handle.
        poison = Failure("poison", "the bus died", "accept:in", "", MOST_CRASHES, when)
        await store.move(key, DEAD, failure=poison)
        assert (await answer())[1]["state"] == "dead"
        assert (await sender.ask("/accepted/in/b-1"))[0] == 404, "a business key is no id"
        await store.move(key, "accept:in", due=later)
        assert (await answer())[1]["state"] == "waiting"


async def test_where_to_ask_can_be_said_and_is_documented(tmp_path: Path) -> None:
    text = """
        listen: {port: 0, base_path: /esb, trusted_proxies: [127.0.0.1]}
        routes:
          in:
            from:
              http:
                path: /in/:x
                api: /shop
                cloudevents: true
                status_path: /in/état/:id
            accept: durable
            steps: [{send: {queue: q}}]
    """
    event = {"ce-specversion": "1.0", "ce-source": "/s", "ce-type": "t"}
    async with running(text, tmp_path) as bus, aiohttp.ClientSession() as session:
        sender = Sender(url(bus), session)
        status_url = await sender.send("/in/1")
        assert status_url.startswith("/esb/in/%C3%A9tat/")
        await sender.becomes(status_url, "delivered")
        behind = await sender.send("/in/1", headers={"X-Forwarded-Prefix": "/edge"})
        assert behind.startswith("/edge/esb/in/")
        named = await session.post(
            sender.base + "/in/1", json={}, headers={**event, "ce-id": "a%b"}
        )
        told, _ = await sender.becomes((await named.json())["status_url"], "delivered")
        assert told["id"] == "a%b"
        # An id that fits into no path cannot be asked for.
        odd = await session.post(sender.base + "/in/1", json={}, headers={**event, "ce-id": "a/b"})
        assert (odd.status, await odd.json()) == (202, {"id": "a/b"})
        assert "location" not in odd.headers

        async with session.get(sender.base + "/shop/openapi.json") as r:
            document = await r.json()
        accepted = document["paths"]["/in/{x}"]["post"]["responses"]["202"]
        assert "Location" in accepted["headers"]
        status = document["paths"]["/in/état/{id}"]["get"]
        assert [p["name"] for p in status["parameters"]] == ["id"]
        reference = status["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
        schema = document["components"]["schemas"][reference.rpartition("/")[2]]
        assert set(told) <= set(schema["properties"])
        assert told["state"] in schema["properties"]["state"]["enum"]


@pytest.mark.parametrize(
    ("route", "reason"),
    [
        ("{from: {http: {path: /a, status_path: /a/:id}}}", "accept: durable"),
        ("{from: {http: {path: /a, status_path: /a}}, accept: durable}", "ends in /:id"),
        ("{from: {http: {path: /a, status_path: /a/:b/:id}}, accept: durable}", "ends in /:id"),
        ("{from: {http: {path: /a, status_path: a/:id}}, accept: durable}", "starts with a slash"),
        ("{from: {http: {path: /a, status_path: /taken/:id}}, accept: durable}", "already"),
    ],
)
def test_what_is_no_status_path(tmp_path: Path, route: str, reason: str) -> None:
    text = f"""
        routes:
          taken: {{from: {{http: {{path: /taken/:x, method: GET}}}}}}
          wrong: {route}
    """
    project = load_text(text, tmp_path)
    [problem] = project.diagnostics
    assert reason in problem.message
    assert problem.line == 4
