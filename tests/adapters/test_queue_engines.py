"""Queues and topics do the same wherever they are: on SQLite, on PostgreSQL, on a RabbitMQ."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support import crashing_bus
from support.backend import backend
from support.broker import Rabbit, unique
from support.processes import Process, free_ports, request
from support.stores import Place, database, setting
from support.waiting import until

from esb.adapter import Sink
from esb.bus import Shared
from esb.config import load, load_endpoint
from esb.durable import DEAD, Store
from esb.envelope import Body, Envelope, Headers
from esb.errors import (
    BadMessage,
    EsbError,
    Overloaded,
    Permanent,
    Rejected,
    RouteFailure,
    TooLarge,
    Transient,
)
from esb.middleware.accept import accept_channel
from esb.route import Route, assemble
from esb.step import Step
from esb.store import SqliteStore
from esb.store.postgres import PostgresStore


@dataclass(frozen=True)
class Engine:
    """Where queues are. yaml: what a project says of that, and of its store."""

    yaml: str
    broker: bool
    folder: Path

    def saying(self, more: str) -> Engine:
        """The same with more in the section `queues`."""
        if self.broker:
            return replace(self, yaml=self.yaml.replace("queues: {", f"queues: {{{more}, "))
        return replace(self, yaml=f"queues: {{{more}}}\n{self.yaml}")


@pytest.fixture(params=["sqlite", "postgres", "rabbitmq"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engine]:
    async with contextlib.AsyncExitStack() as around:
        place: Place = tmp_path / "bus.db"
        where, more = "", {}
        if request.param == "postgres":
            server = request.getfixturevalue("postgres_url")
            place = await around.enter_async_context(database(server))
            more = {"lease": "2s"}  # so that what a dead one had in hand is soon there again
        if request.param == "rabbitmq":
            url = request.getfixturevalue("broker_url")
            where = (
                f"connections: {{rabbit: {{amqp: {{url: '{url}', reconnect: 50ms..200ms}}}}}}\n"
                f"queues: {{on: {{connection: rabbit, prefix: {unique('esb')}}}}}\n"
            )
        yield Engine(where + setting(place, **more), bool(where), tmp_path)


class Buses:
    """Endpoints as the YAML of a project makes them, in routes whose steps are a test's own."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.file = engine.folder / "project.yaml"
        self.file.write_text(engine.yaml)
        self.shared = Shared()
        self.routes: list[Route] = []

    async def sink(self, kind: str = "queue", **options: Any) -> Sink:
        """What sends to a queue `q` or a topic `t`."""
        text = json.dumps({kind: {"name": kind[0], **options}})
        made: Sink = load_endpoint(text, "sink", [self.file], shared=self.shared)
        await self.shared.open(lambda _: None)
        return made

    async def route(
        self,
        step: Step,
        kind: str = "queue",
        *,
        name: str = "",
        retry: dict[str, Any] | None = None,
        **options: Any,
    ) -> Route:
        """A route, started, that reads from there."""
        if kind == "topic":
            options = {"subscription": "s", **options}
        options = {"name": kind[0], "backoff": "10ms..50ms", **options}
        name = name or f"route{len(self.routes)}"
        raw = {
            "from": {kind: options},
            "retry": retry or {"attempts": 50, "backoff": "10ms..20ms"},
        }
        made = (
            load([self.file], shared=self.shared, extra={"routes": {name: raw}}).check().routes[0]
        )
        store = await self.store()
        route = assemble(
            name, made.options, source=made.source, step=step, dead_sink=None, store=lambda: store
        )
        await self.shared.open(lambda _: None)
        await route.start()
        self.routes.append(route)
        await until(lambda: route.health().up)
        return route

    async def store(self) -> Store:
        """The project's store, open."""
        if not any(
            isinstance(o, SqliteStore | PostgresStore) for o in self.shared.objects.values()
        ):
            load_endpoint("{queue: q}", "sink", [self._plain()], shared=self.shared)
            await self.shared.open(lambda _: None)
        return next(
            o for o in self.shared.objects.values() if isinstance(o, SqliteStore | PostgresStore)
        )

    def _plain(self) -> Path:
        file = self.engine.folder / "store.yaml"
        lines = self.engine.yaml.splitlines()
        file.write_text(next(line for line in lines if line.startswith("store:")))
        return file

    async def dead(self) -> list[Any]:
        """The dead letters."""
        return await (await self.store()).browse(DEAD)

    async def close(self) -> None:
        """As when the bus stops."""
        await asyncio.gather(*(route.stop(5) for route in self.routes))
        await self.shared.close()


@contextlib.asynccontextmanager
async def bus_on(engine: Engine) -> AsyncIterator[Buses]:
    bus = Buses(engine)
    await bus.store()
    try:
        yield bus
    finally:
        await bus.close()


@pytest.fixture
async def bus(engine: Engine) -> AsyncIterator[Buses]:
    async with bus_on(engine) as one:
        yield one


def text(body: str, **fields: Any) -> Envelope:
    return Envelope(body=Body(body.encode(), "text/plain"), **fields)


def keyed(key: str, number: int) -> Envelope:
    return text(f"{key}{number}", headers=Headers([("x-key", key)]))


KEY = "{{ headers['x-key'] }}"


class Seen:
    """A step that remembers texts. blocked: those that wait until they are taken out of it; fails:
    how often each of these is to fail for now."""

    def __init__(self, *blocked: str, **fails: int) -> None:
        self.begun: list[str] = []
        self.done: list[str] = []
        self.envelopes: list[Envelope] = []
        self.blocked = set(blocked)
        self.fails = fails
        self.running = self.most = 0

    async def __call__(self, envelope: Envelope) -> Envelope:
        name = envelope.body.text
        self.begun.append(name)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            while name in self.blocked:
                await asyncio.sleep(0.002)
            if self.fails.get(name, 0):
                self.fails[name] -= 1
                raise Transient("not now")
        finally:
            self.running -= 1
        self.done.append(name)
        self.envelopes.append(envelope)
        return envelope


# --- what arrives ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["queue", "topic"])
async def test_a_message_arrives_as_it_was_sent(bus: Buses, kind: str) -> None:
    seen = Seen()
    await bus.route(seen, kind)
    sink = await bus.sink(kind, key="k", priority=3, expires="1h")
    sent = Envelope(
        body=Body("grün".encode("latin-1"), "text/plain; charset=latin-1"),
        id="order 4711 / ž",
        source="http:/orders",
        type="com.example.order",
        time=datetime(2026, 1, 31, 12, 0, 0, 123456, timezone(timedelta(hours=2))),
        subject="orders/1",
        correlation_id="c-1",
        business_key="4711",
        principal="alice",
        headers=Headers([("X-Tenant", "acme"), ("x-empty", ""), ("x-bytes", b"\0\xff")]),
        params={"path": {"id": "7"}, "query": {"price": Decimal("1.10"), "on": datetime.now(UTC)}},
        traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    )
    await sink.send(sent)
    await until(lambda: seen.envelopes)
    [got] = seen.envelopes
    assert got.body.raw == sent.body.raw
    assert got.replace(body=sent.body) == sent
    assert got.content_type == sent.content_type


async def test_a_message_without_a_body_has_none(bus: Buses) -> None:
    seen = Seen()
    await bus.route(seen)
    await (await bus.sink()).send(Envelope(id="1"))
    await until(lambda: seen.envelopes)
    assert seen.envelopes[0].body.is_empty
    assert seen.envelopes[0].content_type == ""


async def test_messages_outlive_the_bus_and_come_once(engine: Engine) -> None:
    async with bus_on(engine) as bus:
        sink = await bus.sink(key=KEY)
        for number in range(20):
            await sink.send(keyed("ab"[number % 2], number))
    seen = Seen()
    async with bus_on(engine) as bus:
        await bus.route(seen)
        await until(lambda: len(seen.done) == 20)
    assert sorted(seen.done) == sorted(f"{'ab'[n % 2]}{n}" for n in range(20))


async def test_names_may_be_of_the_messages_making(bus: Buses) -> None:
    seen = Seen()
    await bus.route(seen, name="reader")
    sink = await bus.sink(name="{{ headers['x-queue'] }}")
    await sink.send(text("1", headers=Headers([("x-queue", "q")])))
    await until(lambda: seen.done)
    assert list(seen.envelopes[0].headers) == [("x-queue", "q")]
    for name in ("", "a b", "../q", "topic:t/s", "q" * 201):
        with pytest.raises(RouteFailure, match="cannot be the name of a queue"):
            await sink.send(text("2", headers=Headers([("x-queue", name)])))


# --- who takes what, and when ---------------------------------------------------------------------


async def test_routes_compete_for_the_messages_of_a_queue(bus: Buses) -> None:
    slow, fast = Seen("0", "1"), Seen("0", "1")
    await bus.route(slow, concurrency=1)
    await bus.route(fast, concurrency=1)
    sink = await bus.sink()
    await sink.send(text("0"))
    await until(lambda: slow.running + fast.running == 1)
    one, other = (slow, fast) if slow.running else (fast, slow)
    await asyncio.gather(*(sink.send(text(str(n))) for n in range(2, 30)))
    await until(lambda: len(other.done) >= 27)  # one may be at hand for who is busy
    one.blocked.clear()
    await until(lambda: len(slow.done) + len(fast.done) == 29)
    assert sorted(slow.begun + fast.begun, key=int) == ["0", *map(str, range(2, 30))]
    assert (slow.most, fast.most) == (1, 1)


async def test_messages_of_a_key_are_taken_one_after_the_other(bus: Buses) -> None:
    seen = Seen("a0", b1=3)
    routes = [await bus.route(seen, concurrency=5) for _ in range(2)]
    sink = await bus.sink(key=KEY)
    for number in range(12):
        for key in ("a", "b", "c", ""):
            await sink.send(keyed(key, number))
    # One that does not end, and one that fails, hold up those behind them of their own keys.
    await until(lambda: len(seen.done) == 36)
    assert [name for name in seen.begun if name.startswith("a")] == ["a0"]
    seen.blocked.clear()
    await until(lambda: len(seen.done) == 48)
    by_key = defaultdict(list)
    for name in seen.done:
        by_key[name[:1] if name[0].isalpha() else ""].append(name)
    for key in "abc":
        assert by_key[key] == [f"{key}{n}" for n in range(12)]
    assert sorted(by_key[""], key=int) == list(map(str, range(12)))
    assert len(seen.begun) == 51, "the one that failed was tried again, and nothing else"
    assert all(route.health().up for route in routes)


async def test_a_key_whose_message_fails_for_good_goes_on_with_the_next(bus: Buses) -> None:
    done: list[str] = []

    async def step(envelope: Envelope) -> Envelope:
        if envelope.body.text == "a0":
            raise Rejected("not wanted")
        done.append(envelope.body.text)
        return envelope

    sink = await bus.sink(key=KEY)
    for number in range(3):
        await sink.send(keyed("a", number))
    await bus.route(step)
    await until(lambda: len(done) == 2)
    [dead] = await until(bus.dead)
    assert (dead.envelope.body.text, dead.failure.code) == ("a0", "rejected")
    assert dead.envelope.headers.get("x-key") == "a"
    assert done == ["a1", "a2"]


async def test_with_order_one_at_a_time_whoever_reads(engine: Engine) -> None:
    async with bus_on(engine.saying("each: {q: {one_reader: true}}")) as bus:
        await _in_order(bus)


async def _in_order(bus: Buses) -> None:
    seen = Seen(**{"3": 2, "7": 1})
    routes = [await bus.route(seen, order=True, name=f"one{n}") for n in range(2)]
    sink = await bus.sink()
    for number in range(20):
        await sink.send(text(str(number)))
    await until(lambda: len(seen.done) == 20)
    assert seen.done == list(map(str, range(20)))
    assert seen.most == 1
    assert len(seen.begun) == 23
    assert all(route.health().up for route in routes)


async def test_what_has_priority_is_taken_before_what_waits(bus: Buses) -> None:
    seen = Seen("first")
    await bus.route(seen, concurrency=1)
    plain, urgent = await bus.sink(), await bus.sink(priority=9)
    await plain.send(text("first"))
    await until(lambda: seen.running)
    for number in range(5):
        await plain.send(text(f"plain{number}"))
    for number in range(5):
        await urgent.send(text(f"urgent{number}"))
    await asyncio.sleep(0.2)  # until the broker has handed them out; no order is at stake before
    seen.blocked.clear()
    await until(lambda: len(seen.done) == 11)
    assert set(seen.done[1:6]) == {f"urgent{n}" for n in range(5)}


async def test_what_nobody_took_in_time_is_a_dead_letter(bus: Buses) -> None:
    soon, later = await bus.sink(expires="150ms"), await bus.sink(expires="1h")
    await soon.send(text("late"))
    await later.send(text("in time"))
    await asyncio.sleep(0.2)
    seen = Seen()
    route = await bus.route(seen)
    await soon.send(text("at once"))
    await until(lambda: len(seen.done) == 2)
    [dead] = await until(bus.dead)
    assert (dead.envelope.body.text, dead.failure.code) == ("late", "expired")
    assert sorted(seen.done) == ["at once", "in time"]
    # Whoever replays it wants it all the same.
    store = await bus.store()
    assert await store.move(dead.key, accept_channel(route.name), lying_in=DEAD)
    await until(lambda: len(seen.done) == 3)
    assert seen.done[-1] == "late"


@pytest.mark.parametrize("kind", ["queue", "topic"])
async def test_nobody_sees_a_delayed_message_before(bus: Buses, kind: str) -> None:
    seen = Seen()
    await bus.route(seen, kind)
    late, soon = await bus.sink(kind, delay="500ms"), await bus.sink(kind)
    began = asyncio.get_running_loop().time()
    await late.send(text("late"))
    await soon.send(text("soon"))
    await until(lambda: len(seen.done) == 2)
    assert seen.done == ["soon", "late"]
    assert asyncio.get_running_loop().time() - began >= 0.5


async def test_a_full_queue_refuses_and_drops_nothing(engine: Engine) -> None:
    async with bus_on(engine.saying("each: {q: {max_messages: 5}}")) as bus:
        sink = await bus.sink()
        taken = 0
        while taken < 50 and await _takes(sink, str(taken)):
            taken += 1
        assert 5 <= taken <= 6  # the broker counts roughly
        seen = Seen()
        await bus.route(seen)
        await until(lambda: len(seen.done) == taken)
        await until(lambda: _takes(sink, "again"))
        await until(lambda: len(seen.done) == taken + 1)
        assert sorted(seen.done) == [*map(str, range(taken)), "again"]


async def _takes(sink: Sink, name: str) -> bool:
    try:
        await sink.send(text(name))
    except Overloaded as e:
        return e.detail != "the queue is full" or e.retry_after is None
    return True


async def test_stopping_gives_back_what_waits(bus: Buses) -> None:
    seen = Seen("a", "b")
    route = await bus.route(seen, concurrency=2)
    sink = await bus.sink(key="{{ body }}")
    for name in "abcdef":
        await sink.send(text(name))
    await until(lambda: seen.running == 2)
    stopping = asyncio.create_task(route.stop(20))
    for _ in range(10):  # its parts stop in tasks of their own, a turn or two later
        await asyncio.sleep(0)
    seen.blocked.clear()
    await asyncio.wait_for(stopping, 10)
    assert seen.begun == ["a", "b"]
    after = Seen()
    await bus.route(after)
    await until(lambda: len(after.done) == 4)
    assert sorted(after.done) == list("cdef")


# --- topics ---------------------------------------------------------------------------------------


async def test_each_subscription_gets_a_copy_and_shares_it(bus: Buses) -> None:
    billing, audit = Seen(), Seen()
    for _ in range(2):
        await bus.route(billing, "topic", subscription="billing")
    await bus.route(audit, "topic", subscription="audit")
    sink = await bus.sink("topic", key=KEY)
    for number in range(10):
        await sink.send(keyed("ab"[number % 2], number))
    await until(lambda: len(billing.done) == len(audit.done) == 10)
    for seen in (billing, audit):
        assert [name for name in seen.done if name[0] == "a"] == ["a0", "a2", "a4", "a6", "a8"]
    assert {e.id for e in billing.envelopes} == {e.id for e in audit.envelopes}


async def test_a_subscription_keeps_messages_while_nobody_takes_them(engine: Engine) -> None:
    async with bus_on(engine) as bus:
        await bus.route(Seen(), "topic")
    async with bus_on(engine) as bus:
        await (await bus.sink("topic")).send(text("while nobody was there"))
        seen = Seen()
        await bus.route(seen, "topic")
        await until(lambda: seen.done)


async def test_what_nobody_subscribed_to_is_an_error_unless_that_is_said(bus: Buses) -> None:
    with pytest.raises(Rejected) as caught:
        await (await bus.sink("topic")).send(text("1"))
    assert caught.value.notes
    await (await bus.sink("topic", mandatory=False)).send(text("2"))
    seen = Seen()
    await bus.route(seen, "topic")
    await (await bus.sink("topic")).send(text("3"))
    await until(lambda: seen.done)
    assert seen.done == ["3"]


# --- a process that dies --------------------------------------------------------------------------


async def test_a_killed_bus_loses_nothing_and_keeps_order(engine: Engine) -> None:
    [port] = free_ports(1)
    with backend() as far:
        engine.folder.joinpath("routes.yaml").write_text(
            f"""
            listen: {{port: {port}}}
            routes:
              in:
                from: {{http: {{path: /in, method: POST}}}}
                steps:
                  - send: {{queue: {{name: q, key: "{{{{ body.key }}}}"}}}}
                  - send: {{topic: t}}
              out:
                from: {{queue: q}}
                steps: [{{send: {{http: {{url: "{far.url}/queue", method: POST}}}}}}]
              also:
                from: {{topic: t}}
                steps: [{{send: {{http: {{url: "{far.url}/topic", method: POST}}}}}}]
            """.replace("\n            ", "\n")
            + engine.yaml
        )
        command = [sys.executable, Path(crashing_bus.__file__), engine.folder]
        taken: list[dict[str, Any]] = []
        number = 0
        with Process(command, cwd=engine.folder) as process:
            process.until(lambda: request("POST", f"http://127.0.0.1:{port}/in", {}).status)
            far.statuses.extend([503] * 6)  # for the first of each key, and those of the topic
            while len(taken) < 30:
                message = {"key": "abc"[number % 3], "number": number}
                number += 1
                if len(taken) == 25:
                    far.statuses.extend([503] * 1000)  # so that something is left to be done
                if await asyncio.to_thread(_post, port, message) == 202:
                    taken.append(message)
            process.kill()
            far.statuses.clear()
            assert any(message not in _got(far, "/queue") for message in taken)
        with Process(command, cwd=engine.folder):
            for path in ("/queue", "/topic"):
                await until(lambda p=path: all(m in _got(far, p) for m in taken), 60)
    for key in "abc":
        tried = [m["number"] for m in _got(far, "/queue") if m["key"] == key]
        assert tried == sorted(tried), "each is through before the next is tried"


def _post(port: int, message: Any) -> int:
    try:
        return request("POST", f"http://127.0.0.1:{port}/in", message).status
    except OSError:
        return 0


def _got(far: Any, path: str) -> list[Any]:
    return [asked.json for asked in list(far.asked) if asked.path == path and b"key" in asked.body]


# --- RabbitMQ alone -------------------------------------------------------------------------------


@pytest.fixture
async def on_broker(broker_url: str, tmp_path: Path) -> AsyncIterator[tuple[Buses, str]]:
    prefix = unique("esb")
    yaml = (
        f"connections: {{rabbit: {{amqp: {{url: '{broker_url}'}}}}}}\n"
        f"queues: {{on: {{connection: rabbit, prefix: {prefix}}}}}\n" + setting(tmp_path / "bus.db")
    )
    async with bus_on(Engine(yaml, True, tmp_path)) as bus:
        yield bus, prefix


async def test_what_senders_put_into_headers_steers_nothing(
    on_broker: tuple[Buses, str],
) -> None:
    bus, _ = on_broker
    seen = Seen("1")
    await bus.route(seen)
    forged = Headers([("ESB-Expires", 1.0), ("Esb-Key", "a"), ("esb-envelope", b"\x80")])
    for sink in (await bus.sink(), await bus.sink(key="{{ body }}")):
        for name in ("1", "2"):
            await sink.send(text(name, headers=forged))
    await until(lambda: seen.done == ["2", "2"])
    seen.blocked.clear()
    await until(lambda: len(seen.done) == 4)
    assert [len(envelope.headers) for envelope in seen.envelopes] == [0] * 4
    assert await bus.dead() == []


async def test_others_may_put_messages_there_and_read_them(
    on_broker: tuple[Buses, str], rabbit: Rabbit
) -> None:
    bus, prefix = on_broker
    sink = await bus.sink()
    await sink.send(text("hello", id="1", headers=Headers([("x-a", "b")])))
    taken = await rabbit.take(f"{prefix}.queue.q")
    assert (taken.body, taken.message_id, taken.content_type) == (b"hello", "1", "text/plain")
    assert taken.headers["x-a"] == "b"
    seen = Seen()
    await bus.route(seen)
    await rabbit.put(f"{prefix}.queue.q", "foreign", message_id="2", content_type="text/plain")
    await until(lambda: seen.done)
    assert (seen.done, seen.envelopes[0].id) == (["foreign"], "2")


async def test_attributes_that_fit_into_no_frame_are_refused(
    on_broker: tuple[Buses, str],
) -> None:
    bus, _ = on_broker
    sink = await bus.sink()
    with pytest.raises(TooLarge, match="beside its body"):
        await sink.send(text("1", params={"query": {"q": "x" * 70_000}}))
    with pytest.raises(BadMessage, match="Unicode"):
        await sink.send(text("1", subject="\ud800"))
    await sink.send(text("2"))


async def test_what_is_published_waits_for_the_first_subscription(
    on_broker: tuple[Buses, str],
) -> None:
    bus, _ = on_broker
    sink = await bus.sink("topic")
    # Its channel is there then: what follows takes less time than a subscription.
    with pytest.raises(Rejected):
        await sink.send(text("0"))
    seen = Seen()
    starting = asyncio.create_task(bus.route(seen, "topic"))
    codes = []
    while not seen.done:
        try:
            await sink.send(text("1"))
        except EsbError as e:
            codes.append(e.code)
        await asyncio.sleep(0.005)
    await starting
    # Nobody has subscribed; somebody is about to; the message is there.
    assert "unreachable" in codes
    assert codes == sorted(codes)


async def test_a_route_that_stops_publishing_is_not_waited_for(
    on_broker: tuple[Buses, str],
) -> None:
    bus, _ = on_broker
    seen = Seen()
    route = await bus.route(seen, "topic")
    await route.stop(5)
    await (await bus.sink("topic")).send(text("1"))
    with pytest.raises(Permanent):
        await (await bus.sink("topic", name="other")).send(text("1"))


async def test_a_bus_that_stands_by_is_well_and_publishes(on_broker: tuple[Buses, str]) -> None:
    bus, _ = on_broker
    active, standby = Seen(), Seen()
    # By one name, as two buses on one store have it, or one bus during a reload.
    first = await bus.route(active, "topic", name="reader", order=True)
    second = await bus.route(standby, "topic", name="reader", order=True)
    assert "another one" in second.health().detail
    sink = await bus.sink("topic")
    for number in range(5):
        await sink.send(text(str(number)))
    await until(lambda: len(active.done) == 5)
    await first.stop(5)
    await sink.send(text("5"))
    await until(lambda: standby.done)
    assert active.done == list("01234")
    assert standby.done == ["5"]
