"""The story of a message, as it is told to people."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from support.bus import running, store_of, url
from support.processes import request
from support.waiting import until

from esb.bus import Bus
from esb.envelope import Body, Envelope
from esb.story import story

ROUTES = """
trace: {sample: 1}
routes:
  orders:
    from: {http: {path: /orders, method: POST}}
    accept: durable
    business_key: body.number
    steps:
      - set: {headers: {x-kind: body.kind}, fields: {seen: "true"}}
      - choose:
          - when: body.kind == 'bad'
            steps: [{set: {body: body.nothing}}]
          - otherwise:
            steps:
              - split: {each: body.lines, steps: [{run: line}]}
      - send: {queue: out}
  line:
    steps:
      - filter: body.n > 1
      - send: {queue: lines}
  out:
    from: {queue: out}
    retry: {attempts: 2, backoff: 10ms}
    steps:
      - call: {http: {url: "http://127.0.0.1:1/x"}}
"""


async def told(bus: Bus, text: str) -> dict[str, Any]:
    tracing: Any = bus.shared.objects["traces"]
    return await story(text, store_of(bus), tracing.store, bus.routes)


async def order(bus: Bus, number: str, kind: str) -> str:
    body = {"number": number, "kind": kind, "lines": [{"n": 1}, {"n": 2}]}
    answer = await asyncio.to_thread(request, "POST", f"{url(bus)}/orders", body)
    assert answer.status == 202
    ident: str = answer.json["id"]
    return ident


def words(event: dict[str, Any]) -> list[str]:
    return [f"{step['place']}: {step['text']}" for step in event["steps"]]


async def test_the_story_of_a_message_that_is_given_up_in_its_second_route(tmp_path: Path) -> None:
    async with running(ROUTES, tmp_path) as bus:
        ident = await order(bus, "A-1", "good")

        async def over() -> bool:
            return sum("steps" in event for event in (await told(bus, "A-1"))["events"]) == 3

        await until(over)
        found = await told(bus, "A-1")
    stored, orders, out = found["events"]
    assert {event["id"] for event in found["events"]} == {ident}
    assert stored["text"].startswith("came in from POST /orders, into route orders with ")
    assert stored["end"].startswith("was stored after ")
    choose = "steps[1].choose[1].steps[0].split"
    assert words(orders)[0].startswith("steps[0].set: set header x-kind: good, made the body ")
    assert words(orders)[1:4] == [
        "steps[1].choose: took the branch 'otherwise', ran for 2 parts",
        f"{choose}: ran for 2 parts",
        f"{choose}.steps[0].run: it ended within: filtered",
    ]
    assert "line: steps[0].filter: did not let it pass" in words(orders)
    assert "line: steps[1].send.queue: gave it to queue lines" in words(orders)
    assert "steps[2].send.queue: gave it to queue out" in words(orders)
    assert out["text"].startswith("came in from queue out, into route out with ")
    assert sum("failed: unreachable" in line for line in words(out)) == 4  # step and endpoint
    assert ": unreachable at steps[0].call: the service cannot be reached" in out["end"]
    assert "went to the dead letters" in out["end"]
    [dead, waiting] = sorted(found["now"], key=lambda one: str(one["state"]))
    assert (dead["state"], dead["id"]) == ("dead", ident)
    assert (waiting["channel"], waiting["id"]) == ("queue:lines", f"{ident}.1")
    assert found["related"] == [f"{ident}.0", f"{ident}.1"]
    assert any(f"esb dead replay {dead['key']}" in hint for hint in found["hints"])


async def test_a_part_tells_of_the_whole(tmp_path: Path) -> None:
    async with running(ROUTES, tmp_path) as bus:
        ident = await order(bus, "A-1", "good")

        async def over() -> bool:
            return bool((await told(bus, f"{ident}.1"))["events"])

        await until(over)
        found = await told(bus, f"{ident}.1")
    [whole] = found["events"]
    assert whole["id"] == ident
    assert [one["channel"] for one in found["now"] if one["id"] == f"{ident}.1"] == ["queue:lines"]


async def test_without_traces_what_is_known_is_told_and_how_to_know_more(tmp_path: Path) -> None:
    async with running(ROUTES.replace("sample: 1", "sample: 0"), tmp_path) as bus:
        await order(bus, "A-2", "bad")
        await store_of(bus).put("queue:lines", Envelope(id="x", body=Body.of(1)))

        async def dead() -> bool:
            return bool((await store_of(bus).counts()).get("dead"))

        await until(dead)
        bad, waits, nothing = [await told(bus, text) for text in ("A-2", "x", "nothing")]
    assert [one["state"] for one in bad["now"]] == ["dead"]
    assert bad["events"] == []
    assert "esb trace ROUTE" in bad["hints"][0]
    assert [one["state"] for one in waits["now"]] == ["waiting"]
    assert nothing["hints"][0].startswith("nothing is known of 'nothing'")


async def test_a_receipt_tells_that_it_went_through(tmp_path: Path) -> None:
    async with running(ROUTES.replace("sample: 1", "sample: 0"), tmp_path) as bus:
        ident = await order(bus, "A-3", "good")

        async def through() -> bool:
            return bool((await told(bus, ident))["events"])

        await until(through)
        [event] = (await told(bus, ident))["events"]
    assert event["text"] == (
        "went through route orders: it was through: whoever it was sent to has taken it"
    )


async def test_what_was_put_off_is_not_told_to_be_through(tmp_path: Path) -> None:
    routes = ROUTES.replace("backoff: 10ms", "backoff: 1h, park_after: 10ms")
    async with running(routes, tmp_path) as bus:
        await store_of(bus).put("queue:out", Envelope(id="x", body=Body.of(1)))

        async def tried() -> bool:
            return bool((await told(bus, "x"))["events"])

        await until(tried)
        [event] = (found := await told(bus, "x"))["events"]
    assert event["end"].startswith("was put off after ")
    assert "to be tried again: unreachable at steps[0].call" in event["end"]
    assert [one["state"] for one in found["now"]] == ["retrying"]


async def test_a_member_of_a_group_is_put_aside_and_the_group_goes_on(tmp_path: Path) -> None:
    routes = """
    trace: {sample: 1}
    routes:
      lines:
        from: {queue: lines}
        business_key: body.order
        steps:
          - aggregate: {by: body.order, size: 2, steps: [{send: {queue: parcels}}]}
    """
    async with running(routes, tmp_path) as bus:
        for number in "ab":
            body = Body.of({"order": "O-1", "n": number})
            await store_of(bus).put("queue:lines", Envelope(id=number, body=body))

        async def over() -> bool:
            return sum("steps" in event for event in (await told(bus, "O-1"))["events"]) == 3

        await until(over)
        found = await told(bus, "O-1")
    assert [event["route"] for event in found["events"]] == ["lines", "lines", "lines/aggregate"]
    assert words(found["events"][0]) == ["steps[0].aggregate: put it aside, to go on with it later"]
    assert words(found["events"][2])[-1].endswith("gave it to queue parcels")
    assert [one["channel"] for one in found["now"]] == ["queue:parcels"]
