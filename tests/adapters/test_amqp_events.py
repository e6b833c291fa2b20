"""CloudEvents in AMQP messages, in both modes and both directions."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.amqp import Endpoints, endpoints
from support.broker import Rabbit
from support.bus import running, store_of
from support.contract import Recorder, started
from support.waiting import until

import esb.codecs  # noqa: F401 - what a bus has
from esb.adapter import Admitting
from esb.durable import DEAD
from esb.envelope import Body, Envelope, Headers
from esb.step import pipeline

TIME = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
async def made(broker_url: str) -> AsyncIterator[Endpoints]:
    async with endpoints(broker_url) as made:
        yield made


async def consumed(made: Endpoints, queue: str, **options: Any) -> Envelope:
    """The next message of a queue as a route's first step gets it."""
    step = Recorder()
    source = made.source(queue=queue, **options)
    await made.open()
    assert isinstance(source, Admitting)
    async with started(source, pipeline([("from", source.admit), ("", step)])):
        await until(lambda: step.finished)
    return step.got[0]


def attributes(prefix: str) -> dict[str, Any]:
    return {
        f"{prefix}specversion": "1.0",
        f"{prefix}id": "e-1",
        f"{prefix}source": "/shop",
        f"{prefix}type": "order.created",
        f"{prefix}subject": "order/7 žluť",
        f"{prefix}time": "2026-01-02T03:04:05Z",
        f"{prefix}correlationid": "c-1",
        f"{prefix}number": 7,
    }


@pytest.mark.parametrize("prefix", ["cloudEvents_", "cloudEvents:"])
async def test_an_event_in_binary_mode(rabbit: Rabbit, made: Endpoints, prefix: str) -> None:
    queue = await rabbit.queue()
    await rabbit.put(
        queue,
        b"\x00\xff",
        content_type="image/png",
        message_id="m-1",
        type="other",
        headers={**attributes(prefix), "x-own": "1"},
    )
    got = await consumed(made, queue, cloudevents=True)
    assert (got.id, got.source, got.type) == ("e-1", "/shop", "order.created")
    assert (got.subject, got.time, got.correlation_id) == ("order/7 žluť", TIME, "c-1")
    assert got.params["cloudevents"] == {"number": 7}
    assert (got.body.raw, got.content_type) == (b"\x00\xff", "image/png")
    assert dict(got.headers) == {"x-own": "1"}
    assert got.params["amqp"]["headers"] == {}


async def test_a_time_may_be_one_of_amqp(rabbit: Rabbit, made: Endpoints) -> None:
    queue = await rabbit.queue()
    headers = {**attributes("cloudEvents_"), "cloudEvents_time": TIME, "when": TIME}
    await rabbit.put(queue, headers=headers)
    got = await consumed(made, queue, cloudevents=True)
    assert got.time == TIME
    assert got.headers.get("when") == TIME


async def test_an_event_in_structured_mode(rabbit: Rabbit, made: Endpoints) -> None:
    queue = await rabbit.queue()
    event = {**attributes(""), "datacontenttype": "application/json", "data": {"total": 1.10}}
    await rabbit.put(queue, json.dumps(event), content_type="application/cloudevents+json")
    got = await consumed(made, queue, cloudevents=True)
    assert (got.id, got.type, got.content_type) == ("e-1", "order.created", "application/json")
    assert json.loads(got.body.raw) == {"total": 1.1}


async def test_what_is_no_event_stays_what_it_is(rabbit: Rabbit, made: Endpoints) -> None:
    queue = await rabbit.queue()
    await rabbit.put(queue, b"plain", message_id="m-1", headers={"x-own": "1"})
    got = await consumed(made, queue, cloudevents=True)
    assert (got.id, got.body.raw, got.headers.get("x-own")) == ("m-1", b"plain", "1")


async def test_without_the_option_attributes_are_just_headers(
    rabbit: Rabbit, made: Endpoints
) -> None:
    queue = await rabbit.queue()
    await rabbit.put(queue, message_id="m-1", headers=attributes("cloudEvents_"))
    got = await consumed(made, queue)
    assert (got.id, got.type) == ("m-1", "message")
    assert got.headers.get("cloudEvents_id") == "e-1"


@pytest.mark.parametrize(
    "wrong",
    [
        {"cloudEvents_source": ""},
        {"cloudEvents_specversion": "2.0"},
        {"cloudEvents_time": "yesterday"},
        {"cloudEvents_id": "a\r\nX-Evil: b"},
        {"cloudEvents:subject": "a\r\nX-Evil: b"},
    ],
    ids=["source", "version", "time", "line break", "line break of the other prefix"],
)
async def test_a_wrong_event_goes_to_the_dead_letters_as_it_came(
    rabbit: Rabbit, broker_url: str, tmp_path: Path, wrong: dict[str, str]
) -> None:
    queue = await rabbit.queue()
    headers = {**attributes("cloudEvents_"), **wrong}
    await rabbit.put(queue, b"kept", message_id="m-1", headers=headers)
    routes = f"""
    routes:
      events:
        from: {{amqp: {{url: "{broker_url}", queue: {queue}, cloudevents: true}}}}
        steps: [{{log: reached}}]
    """
    async with running(routes, tmp_path) as bus:
        (dead,) = await until(lambda: store_of(bus).browse(DEAD))
    assert dead.failure is not None
    assert (dead.failure.code, dead.failure.step) == ("bad-message", "from")
    assert (dead.envelope.id, dead.envelope.body.raw) == ("m-1", b"kept")
    assert await rabbit.counts(queue) == (0, 0)


EVENT = Envelope(
    id="e-1",
    source="/shop",
    type="order.created",
    subject="order/7 žluť",
    time=TIME,
    body=Body(b'{"total":1.10}', "application/json"),
    headers=Headers([("x-own", "1"), ("cloudEvents_id", "forged"), ("cloudEvents_evil", "1")]),
    params={
        "cloudevents": {"number": 7},
        "amqp": {"headers": {"cloudEvents:id": "forged"}, "content_encoding": None},
    },
)


async def test_a_message_leaves_as_an_event_in_binary_mode(rabbit: Rabbit, made: Endpoints) -> None:
    queue = await rabbit.queue()
    sink = made.sink(queue=queue, cloudevents="binary", forward_headers=False)
    more = made.sink(queue=queue, cloudevents="binary", headers={"x-more": "2"})
    await made.open()
    expected = {k: v for k, v in attributes("cloudEvents_").items() if "correlationid" not in k}
    await sink.send(EVENT)
    got = await rabbit.take(queue)
    assert (got.body, got.content_type, got.message_id) == (
        b'{"total":1.10}',
        "application/json",
        "e-1",
    )
    assert got.headers == expected
    await more.send(EVENT)
    assert (await rabbit.take(queue)).headers == {**expected, "x-own": "1", "x-more": "2"}


async def test_a_message_leaves_as_an_event_in_structured_mode(
    rabbit: Rabbit, made: Endpoints
) -> None:
    queue = await rabbit.queue()
    sink = made.sink(queue=queue, cloudevents="structured")
    await made.open()
    await sink.send(EVENT)
    got = await rabbit.take(queue)
    assert got.content_type == "application/cloudevents+json"
    assert got.headers == {"x-own": "1"}
    event = json.loads(got.body)
    assert event.pop("data") == {"total": 1.1}
    assert event.pop("datacontenttype") == "application/json"
    assert event == {k: v for k, v in attributes("").items() if k != "correlationid"}


@pytest.mark.parametrize("mode", ["binary", "structured"])
async def test_nothing_of_an_event_is_lost_there_and_back(
    rabbit: Rabbit, made: Endpoints, mode: str
) -> None:
    queue = await rabbit.queue()
    sink = made.sink(queue=queue, cloudevents=mode, forward_headers=False)
    await made.open()
    packed = EVENT.replace(
        body=Body(b"\x1f\x8b\x08", "application/x-blob"),
        params={**EVENT.params, "amqp": {"content_encoding": "gzip"}},
    )
    await sink.send(packed)
    got = await consumed(made, queue, cloudevents=True)
    for name in ("id", "source", "type", "subject", "time", "content_type"):
        assert getattr(got, name) == getattr(packed, name)
    assert got.body.raw == packed.body.raw
    assert got.params["cloudevents"] == {"number": 7}
    kept = "gzip" if mode == "binary" else None  # a whole document is not what was packed
    assert got.params["amqp"]["content_encoding"] == kept
