"""A message that the bus dies of ends in the dead letters, and none beside it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web
from support import crashing_bus
from support.amqp import Endpoints, endpoints
from support.broker import Rabbit
from support.bus import running
from support.contract import Recorder
from support.processes import Process
from support.stores import opened
from support.waiting import until

from esb.durable import MOST_CRASHES, Claim
from esb.envelope import Envelope, Outcome
from esb.errors import Permanent, Transient
from esb_amqp.client import Channel
from esb_amqp.link import Standby
from esb_amqp.suspects import Suspects

INNOCENT = [b"innocent %d" % number for number in range(6)]


class Backend:
    """Takes everything, and kills the bus that sends it poison."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.bus: Process | None = None
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.asked.append(body)
        if body == b"poison":
            assert self.bus is not None
            self.bus.kill()
        await asyncio.sleep(0.05)  # so that others are in the route when it dies
        return web.Response()


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    made = Backend()
    app = web.Application()
    app.router.add_post("/", made.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    yield made
    await runner.cleanup()


@contextlib.asynccontextmanager
async def put_aside(rabbit: Rabbit) -> AsyncIterator[tuple[str, list[Any]]]:
    """A queue for dead letters, and what came into it."""
    queue = await rabbit.queue("dead")
    got: list[Any] = []

    async def on_message(message: Any) -> None:
        got.append(message)
        await message.ack()

    await (await rabbit.channel.get_queue(queue)).consume(on_message)
    yield queue, got


@pytest.mark.parametrize(
    ("kind", "options", "remembers", "deaths"),
    [
        ("classic", "", True, MOST_CRASHES),
        ("stream", "offset: first,", True, MOST_CRASHES),
        # The broker counts, so it is found by a bus that keeps nothing over its death, too.
        ("quorum", "declare: {type: quorum}, max_deliveries: 2, prefetch: 1,", False, 2),
    ],
    ids=["classic", "stream", "quorum"],
)
async def test_a_message_that_kills_the_bus_is_put_aside(
    rabbit: Rabbit,
    broker_url: str,
    backend: Backend,
    tmp_path: Path,
    kind: str,
    options: str,
    remembers: bool,
    deaths: int,
) -> None:
    queue = await rabbit.queue(kind, arguments={"x-queue-type": kind})
    for body in [*INNOCENT[:3], b"poison", *INNOCENT[3:]]:
        await rabbit.put(queue, body)
    killed = 0
    async with put_aside(rabbit) as (dead, buried):
        while not buried:
            assert killed <= deaths
            folder = tmp_path if remembers else tmp_path / str(killed)
            folder.mkdir(exist_ok=True)
            (folder / "routes.yaml").write_text(
                f"""
store: {{path: bus.db}}
routes:
  fatal:
    from: {{amqp: {{url: "{broker_url}", queue: {queue}, {options}}}}}
    steps: [{{send: {{http: "{backend.url}"}}}}]
    dead_letter: {{amqp: {{url: "{broker_url}", queue: {dead}}}}}
"""
            )
            command = [sys.executable, Path(crashing_bus.__file__), folder]
            with Process(command, cwd=folder) as backend.bus:
                bus = backend.bus
                await until(lambda b=bus: buried or b.ended is not None)
                if bus.ended is not None:
                    killed += 1
                else:
                    await until(lambda: set(INNOCENT) <= set(backend.asked))
    assert killed == deaths
    assert backend.asked.count(b"poison") == deaths
    (message,) = buried
    assert message.body == b"poison"
    assert message.headers["x-esb-error-code"] == "poison"
    assert f"{deaths} times" in message.headers["x-esb-error-detail"]


async def test_poison_that_cannot_be_put_aside_is_not_run_all_the_same(
    rabbit: Rabbit, broker_url: str, tmp_path: Path
) -> None:
    queue = await rabbit.queue()
    await rabbit.put(queue, b"poison", message_id="m-1")
    found = await (await rabbit.channel.get_queue(queue)).get()
    await found.nack()
    for _ in range(MOST_CRASHES - 1):  # what a process leaves behind that dies with it in hand
        async with opened(tmp_path / "bus.db") as store:
            for noted in (queue, f"{queue}/m-1"):
                await store.claim("amqp:test", noted, time.time() + 60)
    refused, run = [], Recorder()
    async with opened(tmp_path / "bus.db") as store:
        made = Endpoints(broker_url, store)
        source = made.source(queue=queue)

        async def step(envelope: Envelope) -> Envelope:
            try:
                await source.admit(envelope)
            except Permanent as e:
                refused.append(e.code)
                if len(refused) < 3:
                    raise Transient("no dead letter could be written") from e
                return envelope.replace(outcome=Outcome.DEAD)
            return await run(envelope)

        await made.open()
        await source.start(step)
        await until(lambda: len(refused) == 3)
        await source.stop(5)
        assert await store.claim("amqp:test", f"{queue}/m-1", 0) == Claim("new")
        await made.close()
    assert refused == ["poison"] * 3
    assert run.got == []
    assert await rabbit.ready(queue) == 0


async def test_a_note_that_the_store_was_away_for_keeps_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esb.durable.GIVE_UP_AGAIN", 0.01)
    channel = cast(Channel, object())  # it is not asked for anything
    async with opened(tmp_path / "bus.db") as store:
        before, after = Suspects(store, "r", "q"), Suspects(store, "r", "q")
        await before.start(channel, only_one=True)
        with monkeypatch.context() as away:
            away.setattr(store, "commit", _away)
            await before.stop()
        with pytest.raises(Standby):
            await after.start(channel, only_one=True)
        await until(lambda: _starts(after, channel))


async def _away(*_: object) -> None:
    raise Transient("the store does not answer")


async def _starts(suspects: Suspects, channel: Channel) -> bool:
    try:
        await suspects.start(channel, only_one=True)
    except Standby:
        return False
    return True


async def test_after_an_orderly_stop_nobody_is_a_suspect(rabbit: Rabbit, broker_url: str) -> None:
    """What was given back comes again all at once."""
    queue = await rabbit.queue()
    for number in range(5):
        await rabbit.put(queue, b"%d" % number)
    async with endpoints(broker_url) as made:
        for _ in range(2):
            step = Recorder(gate=asyncio.Event())
            source = made.source(queue=queue)
            await made.open()
            await source.start(step)
            await until(lambda s=step: s.running == 5)
            await source.stop(0)
            assert await rabbit.ready(queue) == 5


async def test_a_count_that_the_sender_wrote_counts_nothing(
    rabbit: Rabbit, broker_url: str, tmp_path: Path
) -> None:
    queue = await rabbit.queue()
    await rabbit.put(queue, b"forged", headers={"x-delivery-count": 1000})
    await rabbit.put(queue, b"next")
    found = await (await rabbit.channel.get_queue(queue)).get()
    await found.nack()  # so that it comes again
    target = await rabbit.queue("target")
    routes = f"""
    connections: {{rabbit: {{amqp: {{url: "{broker_url}"}}}}}}
    routes:
      all:
        from: {{amqp: {{connection: rabbit, queue: {queue}}}}}
        steps: [{{send: {{amqp: {{connection: rabbit, queue: {target}}}}}}}]
    """
    async with running(routes, tmp_path):
        assert {m.body for m in await rabbit.take_all(target, 2)} == {b"forged", b"next"}
