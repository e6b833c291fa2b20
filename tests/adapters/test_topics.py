"""Topics in the store of a whole bus: what is published together, and how a subscription ends."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from support.bus import load_text, running, store_of, url
from support.stores import Place, setting
from support.waiting import until
from support.web import ask

from esb.api import AdminServer
from esb.bus import Bus
from esb.config import load

ROUTES = """
listen: {port: 0}
routes:
  in:
    from: {http: {path: /in, method: POST}}
    steps:
      - send: {topic: events}
      - send: {queue: audit}
      - filter: body.good or body.bad / 0
"""
BILLING = """
  billing:
    from: {topic: events}
    steps: [{send: {queue: billed}}]
"""


async def post(bus: Bus, body: str) -> int:
    head = (
        f"POST /in HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    status, _, _ = await ask(url(bus), (head + body).encode())
    return status


async def counts_are(bus: Bus, **wanted: int) -> None:
    names = {name.replace("_", ":", 1).replace("__", "/"): n for name, n in wanted.items()}

    async def so() -> bool:
        return await store_of(bus).counts() == names

    await until(so)


async def test_what_is_published_is_there_with_the_rest_of_the_run_or_not_at_all(
    tmp_path: Path, place: Place
) -> None:
    async with running(ROUTES + BILLING + setting(place), tmp_path) as bus:
        await store_of(bus).subscribe("events", "archive")
        assert await post(bus, '{"good": true, "bad": 1}') == 202
        await counts_are(bus, topic_events__archive=1, queue_audit=1, queue_billed=1)
        assert await post(bus, '{"good": false, "bad": 1}') == 500
        assert await post(bus, '{"good": true, "bad": 1}') == 202
        await counts_are(bus, topic_events__archive=2, queue_audit=2, queue_billed=2)


async def test_nobody_subscribed(tmp_path: Path) -> None:
    async with running(ROUTES, tmp_path) as bus:
        assert await post(bus, '{"good": true, "bad": 1}') == 502
        assert await store_of(bus).counts() == {}, "the copy for the audit is not there either"
    text = ROUTES.replace("topic: events", "topic: {name: events, mandatory: false}")
    async with running(text, tmp_path) as bus:
        assert await post(bus, '{"good": true, "bad": 1}') == 202
        assert await store_of(bus).counts() == {"queue:audit": 1}


async def test_a_subscription_outlives_its_route_until_it_is_ended(
    tmp_path: Path, place: Place
) -> None:
    async with running(ROUTES + BILLING + setting(place), tmp_path) as bus:
        assert await post(bus, '{"good": true, "bad": 1}') == 202
        await counts_are(bus, queue_audit=1, queue_billed=1)
        [told] = await topics(bus)
        assert told == {
            "topic": "events",
            "subscription": "billing",
            "messages": 0,
            "routes": ["billing"],
        }
        status, body = await delete(bus, "billing")
        assert (status, body["detail"]) == (
            409,
            "route 'billing' reads subscription 'billing': take it out first",
        )
    async with running(ROUTES + setting(place), tmp_path) as bus:
        assert await post(bus, '{"good": true, "bad": 1}') == 202
        [told] = await topics(bus)
        assert (told["messages"], told["routes"]) == (1, [])
        assert (await delete(bus, "billing"))[0] == 204
        assert await topics(bus) == []
        assert (await delete(bus, "billing"))[0] == 404
        await counts_are(bus, queue_audit=2, queue_billed=1)


async def test_a_route_that_comes_with_a_reload_has_subscribed_before_it_starts(
    tmp_path: Path,
) -> None:
    async with running(ROUTES, tmp_path) as bus:
        file = tmp_path / "routes.yaml"
        file.write_text(file.read_text().replace("routes:", f"routes:{BILLING}", 1))
        bus.shared.begin()
        project = load([file], shared=bus.shared, root=tmp_path).check()
        changes = await bus.replace(project.routes)
        assert changes["added"] == ["billing"]
        assert await post(bus, '{"good": true, "bad": 1}') == 202
        await counts_are(bus, queue_audit=1, queue_billed=1)


async def topics(bus: Bus) -> list[dict[str, Any]]:
    _, told = await admin(bus, "GET", "/topics")
    assert isinstance(told, list)
    return told


async def delete(bus: Bus, name: str) -> tuple[int, Any]:
    return await admin(bus, "DELETE", f"/topics/events/subscriptions/{name}")


async def admin(bus: Bus, method: str, path: str) -> tuple[int, Any]:
    server = AdminServer(bus, None, "127.0.0.1", 0)
    await server.open()
    try:
        request = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"
        status, _, body = await ask(f"http://127.0.0.1:{server.port}", request.encode())
        return status, json.loads(body or b"null")
    finally:
        await server.close()


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("from: {topic: 'a b'}", "a name of a queue, topic or subscription is"),
        ("from: {topic: t}\n    steps: [{send: {queue: 'a b'}}]", "a name of a queue"),
        ("from: {topic: t}\n    steps: [{send: {topic: '{{ body }}'}}]", "a name of a queue"),
        ("from: {queue: q}\n    steps: [{send: {queue: '{{ bdy }}'}}]", "nothing called bdy"),
        (
            "from: {queue: q}\n    steps: [{send: {queue: {name: a, delay: 5s, expires: 5s}}}]",
            "before anybody gets to see it",
        ),
        ("from: {queue: {name: q, order: true}}", "needs a queue that has one reader at a time"),
    ],
)
def test_mistakes(tmp_path: Path, yaml: str, message: str) -> None:
    text = (
        "connections: {rabbit: {amqp: {url: amqp://localhost}}}\n"
        "queues: {on: {connection: rabbit}}\n"
        f"routes:\n  a route:\n    {yaml}\n"
    ).replace("a route", "a-route")
    [found] = load_text(text, tmp_path).diagnostics
    assert message in found.message
    assert found.line in (5, 6)


def test_a_route_whose_name_no_subscription_can_have_names_one(tmp_path: Path) -> None:
    [found] = load_text("routes: {a b: {from: {topic: t}}}", tmp_path).diagnostics
    assert "cannot be that of a subscription" in found.message
    assert not load_text(
        "routes: {a b: {from: {topic: {name: t, subscription: s}}}}", tmp_path
    ).diagnostics


@pytest.mark.parametrize("verb", ["from", "send"])
def test_a_connection_that_is_not_there_is_told_once_for_each_endpoint(
    tmp_path: Path, verb: str
) -> None:
    text = "queues: {on: {connection: rabbit}}\nroutes: {a: {from: {queue: q}}}\n"
    if verb == "send":
        text = text.replace("}}}\n", "}, steps: [{send: {queue: {name: a, key: b}}}]}}\n")
    found = load_text(text, tmp_path).diagnostics
    assert [one.message for one in found] == ["there is no connection 'rabbit'"] * len(found)
    assert len(found) == (2 if verb == "send" else 1)


def test_the_routes_on_the_page_load(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "queues.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        assert load_text(block, tmp_path).diagnostics == []
    [missing] = load_text(blocks[2].replace("one_reader: true, ", ""), tmp_path).diagnostics
    assert missing.hint == "queues: {each: {ledger: {one_reader: true}}}"
