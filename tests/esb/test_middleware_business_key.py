"""Business keys: what people look messages up by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.bus import load_text, running, store_of, url
from support.stores import Place, setting
from support.waiting import until

from esb.control import Selection, find, replay
from esb.durable import DEAD
from esb.envelope import Body, Envelope
from esb.errors import BadMessage, EsbError, RouteFailure
from esb.expressions import compile_expression
from esb.middleware.business_key import keyed
from esb.step import identity


async def key_of(expression: str, body: Any, **options: Any) -> str:
    step = keyed(compile_expression(expression), **options)(identity)
    return (await step(Envelope(body=Body.of(body, "application/json")))).business_key


@pytest.mark.parametrize(
    ("value", "key"), [("A-1", "A-1"), (17, "17"), (None, ""), ("", ""), ("x" * 200, "x" * 200)]
)
async def test_texts_and_numbers_are_names(value: Any, key: str) -> None:
    assert await key_of("body.n", {"n": value}) == key


@pytest.mark.parametrize(
    ("value", "error"),
    [([1], BadMessage), ({}, BadMessage), (True, BadMessage), ("x" * 201, BadMessage)],
)
async def test_what_is_no_name_is_told(value: Any, error: type[EsbError]) -> None:
    with pytest.raises(error, match="business key"):
        await key_of("body.n", {"n": value})
    assert await key_of("body.n", {"n": value}, required=False) == ""
    with pytest.raises(RouteFailure):
        await key_of("body.n.missing", {"n": {}})


ROUTES = """
routes:
  orders:
    from: {http: {path: /orders}}
    accept: durable
    business_key: body.number
    steps:
      - send: {queue: work}
  work:
    from: {queue: work}
    steps:
      - filter: body.good.really
      - send: {queue: out}
listen: {port: 0}
"""


async def test_it_leads_to_the_message_from_end_to_end(tmp_path: Path, place: Place) -> None:
    async with running(ROUTES + setting(place), tmp_path) as bus, aiohttp.ClientSession() as client:
        store = store_of(bus)

        async def order(number: Any, good: Any) -> tuple[int, Any]:
            body = {"number": number, "good": good}
            async with client.post(f"{url(bus)}/orders", json=body) as answer:
                return answer.status, await answer.json()

        async def states(key: str) -> list[tuple[str, str]]:
            found = await find(store, key)
            return [(one["state"], one.get("route") or one["channel"]) for one in found]

        async def are(key: str, *expected: tuple[str, str]) -> bool:
            return await states(key) == list(expected)

        assert (await order("A-1", good={"really": True}))[0] == 202
        through = [("delivered", "orders"), ("delivered", "work")]
        await until(lambda: are("A-1", *through, ("waiting", "queue:out")))

        assert (await order("A-2", good={}))[0] == 202
        await until(lambda: are("A-2", ("delivered", "orders"), ("dead", DEAD)))
        [dead] = await store.browse(DEAD)
        assert dead.envelope.business_key == "A-2"
        await replay(store, bus.routes, Selection(keys=[dead.key]), None)
        await until(lambda: are("A-2", ("delivered", "orders"), ("dead", DEAD)))

        status, told = await order([], good={"really": True})
        assert status == 400, "nothing is accepted that could not be found again"
        assert "business key" in told["detail"]


async def test_dead_letters_have_it_too_and_those_that_lack_it_are_dead(
    tmp_path: Path, place: Place
) -> None:
    text = """
routes:
  work:
    from: {queue: work}
    business_key: body.number
    steps:
      - send: {queue: out}
"""
    async with running(text + setting(place), tmp_path) as bus:
        store = store_of(bus)
        for body in ('{"number": 1}', '{"number": [1]}', "{}"):
            await store.put("queue:work", Envelope(body=Body(body.encode(), "application/json")))

        async def all_there() -> bool:
            return await store.counts() == {DEAD: 2, "queue:out": 1}

        await until(all_there)
        [out] = await store.browse("queue:out")
        assert out.envelope.business_key == "1"
        dead = [one.failure.code for one in await store.browse(DEAD) if one.failure]
        assert sorted(dead) == ["bad-message", "route-failure"]
        assert [one["state"] for one in await find(store, "1")] == ["delivered", "waiting"]


def test_a_mistake_in_it_is_found_at_load(tmp_path: Path) -> None:
    text = ROUTES.replace("body.number", "bdy.number")
    [found] = load_text(text, tmp_path).diagnostics
    assert (found.line, found.code) == (6, "expression")
