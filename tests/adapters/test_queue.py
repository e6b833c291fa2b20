"""The bus's own queues, on a real store."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from support.contract import Arrived, QueueFarSide, QueueSourceContract, SinkContract, SinkFarSide
from support.fake_build import FakeBuild
from support.stores import broken_disk, message, opened
from support.waiting import until

from esb.adapter import Sink, Source
from esb.durable import DEAD, Change
from esb.envelope import Body, Envelope, Headers, Outcome
from esb.errors import BadMessage, Overloaded, Rejected, Transient, Unreachable
from esb.store import SqliteStore
from esb_queue import queue
from esb_queue.options import Queues, QueueSink, QueueSource, TopicSink, TopicSource
from esb_queue.stored import channel


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with opened(tmp_path / "bus.db") as store:
        yield store


def source(store: SqliteStore, **options: Any) -> Source:
    assert queue.source is not None
    options = {"name": "q", "backoff": "10ms..20ms", **options}
    build = FakeBuild(store=store, queues=Queues())
    made: Source = queue.source.make(QueueSource.model_validate(options), build)
    return made


def make_sink(store: SqliteStore, **options: Any) -> Sink:
    assert queue.sink is not None
    options = {"name": "q", **options}
    build = FakeBuild(store=store, queues=Queues())
    made: Sink = queue.sink.make(QueueSink.model_validate(options), build)
    return made


async def send(store: SqliteStore, *texts: str, **options: Any) -> None:
    sink = make_sink(store, **options)
    for text in texts:
        await sink.send(message(text))


async def empty(store: SqliteStore) -> bool:
    return "queue:q" not in await store.counts()


class FarSide(QueueFarSide, SinkFarSide):
    """Both ends of a queue; the outside of it is the store."""

    def __init__(self, store: SqliteStore, closed: SqliteStore) -> None:
        self.store = store
        self.closed = closed
        self.given = 0

    def source(self) -> Source:
        return source(self.store, backoff="100ms")

    async def put(
        self,
        body: bytes,
        *,
        content_type: str = "application/octet-stream",
        id: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        named = {"id": id} if id else {}
        envelope = Envelope(
            body=Body(body, content_type), headers=Headers((headers or {}).items()), **named
        )
        await make_sink(self.store).send(envelope)

    async def left(self) -> int:
        lying = await self.store.browse(channel("q"), limit=1000)
        return sum(not stored.hold for stored in lying)

    async def refused(self) -> list[bytes]:
        return [stored.envelope.body.raw for stored in await self.store.browse(DEAD)]

    def sink(self) -> Sink:
        return make_sink(self.store)

    def unreachable(self) -> Sink:
        return make_sink(self.closed)

    def refusing(self) -> Sink:
        return make_sink(self.store)

    async def arrived(self, count: int) -> list[Arrived]:
        taken = await self.store.take(channel("q"), count)
        assert len(taken) == count
        return [
            Arrived(e.body.raw, e.content_type, e.id, dict(e.headers))  # type: ignore[arg-type]
            for e in (stored.envelope for stored in taken)
        ]

    async def more(self) -> int:
        return await self.left()


@pytest.fixture
def far_side(store: SqliteStore, tmp_path: Path) -> FarSide:
    return FarSide(store, SqliteStore(tmp_path / "never-opened.db"))


class TestSource(QueueSourceContract):
    """What every source promises."""


class TestSink(SinkContract):
    """What every sink promises."""

    async def test_a_far_side_that_is_away_may_come_back(self, far_side: SinkFarSide) -> None:
        with pytest.raises(Transient, match="not open"):  # there is no connection to speak of
            await far_side.unreachable().send(message())

    async def test_a_far_side_that_refuses_is_not_asked_again(self, far_side: SinkFarSide) -> None:
        with pytest.raises(BadMessage, match="Unicode"):  # a queue refuses what it cannot keep
            await far_side.refusing().send(message(subject="\ud800"))


class Collecting:
    """A step that remembers, and fails as it is told."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.seen: list[Envelope] = []

    async def __call__(self, envelope: Envelope) -> Envelope:
        self.seen.append(envelope)
        if self.errors:
            raise self.errors.pop(0)
        return envelope

    @property
    def texts(self) -> list[str]:
        return [envelope.body.text for envelope in self.seen]


async def test_messages_go_through_and_are_forgotten(store: SqliteStore) -> None:
    step = Collecting()
    reader = source(store)
    assert not reader.waits
    assert not reader.health().up
    await send(store, "1", "2")
    await reader.start(step)
    await send(store, "3")
    await until(lambda: len(step.seen) == 3)
    await until(lambda: empty(store))
    assert reader.health().up
    await reader.stop(5)
    assert sorted(step.texts) == ["1", "2", "3"]
    assert {envelope.attempt for envelope in step.seen} == {1}
    assert await store.counts() == {}


async def test_what_fails_for_now_comes_back_and_is_counted(store: SqliteStore) -> None:
    step = Collecting(Unreachable("down"), Transient("busy"))
    reader = source(store)
    await send(store, "x")
    await reader.start(step)
    await until(lambda: len(step.seen) == 3)
    await until(lambda: empty(store))
    await reader.stop(5)
    assert [envelope.attempt for envelope in step.seen] == [1, 2, 3]
    assert len({envelope.id for envelope in step.seen}) == 1
    assert await store.counts() == {}


async def test_a_far_side_that_asks_for_time_gets_it(store: SqliteStore) -> None:
    step = Collecting(Overloaded("busy", retry_after=200), Overloaded("busy", retry_after=1e9))
    reader = source(store)
    await send(store, "x", "y")
    await reader.start(step)
    await until(lambda: len(step.seen) == 2)
    waiting = await until(lambda: _waiting(store))
    await reader.stop(5)
    later = [stored.due - stored.stored for stored in waiting]
    assert 199 < later[0] < 260
    assert 299 < later[1] < 360, "but no more than five minutes"
    assert waiting[0].failure.code == "overloaded"


async def _waiting(store: SqliteStore) -> Any:
    found = await store.browse(channel("q"))
    return found if len(found) == 2 and all(stored.due for stored in found) else None


async def test_what_fails_for_good_goes_to_the_dead_letters(store: SqliteStore) -> None:
    step = Collecting(Rejected("not wanted"))
    reader = source(store)
    await send(store, "bad")
    await reader.start(step)
    await send(store, "good")
    await until(lambda: empty(store))
    await reader.stop(5)
    [dead] = await store.browse(DEAD)
    assert dead.envelope.body.text == "bad"
    assert dead.failure is not None
    assert (dead.failure.code, dead.failure.detail) == ("rejected", "not wanted")
    assert (dead.failure.route, dead.failure.attempts) == ("test", 1)
    assert step.texts == ["bad", "good"]


async def test_a_bug_gives_the_message_back_and_says_nothing_of_itself(store: SqliteStore) -> None:
    step = Collecting(ValueError("hunter2"))
    reader = source(store, backoff="60s")
    await send(store, "x")
    await reader.start(step)
    [stored] = await until(lambda: _put_back(store))
    await reader.stop(5)
    assert (stored.failure.code, stored.failure.detail) == ("route-failure", "internal error")
    assert stored.attempts == 1


async def _put_back(store: SqliteStore) -> Any:
    return [stored for stored in await store.browse(channel("q")) if stored.attempts]


async def test_a_delayed_message_is_not_seen_before(store: SqliteStore) -> None:
    step = Collecting()
    reader = source(store)
    await reader.start(step)
    await send(store, "late", delay="300ms")
    await send(store, "soon")
    await until(lambda: len(step.seen) == 2)
    await reader.stop(5)
    assert step.texts == ["soon", "late"]
    [late] = [envelope for envelope in step.seen if envelope.body.text == "late"]
    assert late.outcome is Outcome.MESSAGE


async def test_no_more_at_a_time_than_wanted(store: SqliteStore) -> None:
    running = most = 0
    done = 0

    async def step(envelope: Envelope) -> Envelope:
        nonlocal running, most, done
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        done += 1
        return envelope

    await send(store, *map(str, range(30)))
    reader = source(store, concurrency=3)
    await reader.start(step)
    await until(lambda: done == 30)
    await reader.stop(5)
    assert most == 3


async def test_order_is_kept_though_one_fails(store: SqliteStore) -> None:
    generator = random.Random(1)
    passed: list[str] = []

    async def step(envelope: Envelope) -> Envelope:
        await asyncio.sleep(0)
        if generator.random() < 0.3:
            raise Transient("not now")
        passed.append(envelope.body.text)
        return envelope

    texts = [str(i) for i in range(25)]
    await send(store, *texts)
    reader = source(store, order=True, backoff="1ms")
    await reader.start(step)
    await until(lambda: len(passed) == 25)
    await reader.stop(5)
    assert passed == texts


async def test_several_routes_share_a_queue(store: SqliteStore) -> None:
    steps = [Collecting() for _ in range(3)]
    readers = [source(store, concurrency=2) for _ in steps]
    for reader, step in zip(readers, steps, strict=True):
        await reader.start(step)
    await asyncio.gather(*(send(store, *map(str, range(i, 120, 6))) for i in range(6)))
    await until(lambda: empty(store))
    await asyncio.gather(*(reader.stop(5) for reader in readers))
    assert sorted((text for step in steps for text in step.texts), key=int) == [
        str(i) for i in range(120)
    ]
    assert await store.counts() == {}


async def test_stop_lets_finish_what_is_in_the_step_and_gives_the_rest_back(
    store: SqliteStore,
) -> None:
    begun: list[str] = []
    finish = asyncio.Event()

    async def step(envelope: Envelope) -> Envelope:
        begun.append(envelope.body.text)
        await finish.wait()
        return envelope

    await send(store, *map(str, range(8)))
    reader = source(store, concurrency=3)
    await reader.start(step)
    await until(lambda: len(begun) == 3)
    stopping = asyncio.create_task(reader.stop(30))
    await asyncio.sleep(0)
    finish.set()
    await asyncio.wait_for(stopping, 10)
    assert len(begun) == 3
    assert not reader.health().up
    left = await store.take(channel("q"), 10)
    assert [stored.envelope.body.text for stored in left] == ["3", "4", "5", "6", "7"]
    assert {stored.attempts for stored in left} == {0}


async def test_what_does_not_finish_in_time_is_given_back(store: SqliteStore) -> None:
    begun: list[str] = []

    async def step(envelope: Envelope) -> Envelope:
        begun.append(envelope.body.text)
        await asyncio.Event().wait()
        return envelope

    await send(store, "1", "2", "3")
    reader = source(store, concurrency=2)
    await reader.start(step)
    await until(lambda: len(begun) == 2)
    await asyncio.wait_for(reader.stop(0.01), 10)
    left = await store.take(channel("q"), 10)
    assert [stored.envelope.body.text for stored in left] == ["1", "2", "3"]
    # Another one, as after a reload, takes over.
    for stored in left:
        await store.move(stored.key, channel("q"))
    step2 = Collecting()
    await reader.start(step2)
    await until(lambda: len(step2.seen) == 3)
    await reader.stop(5)


async def test_while_the_store_cannot_write_the_message_is_held_not_repeated(
    store: SqliteStore,
) -> None:
    class Failing:
        """The store, with a disk that refuses for a while."""

        refusals = 3

        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        async def commit(self, changes: Sequence[Change]) -> list[int]:
            if self.refusals:
                self.refusals -= 1
                raise Transient("the store cannot be written")
            return await store.commit(changes)

    failing = Failing()
    step = Collecting()
    reader = source(failing)  # type: ignore[arg-type]
    await reader.start(step)
    await send(store, "x")
    await until(lambda: empty(store))
    await reader.stop(5)
    assert step.texts == ["x"]
    assert failing.refusals == 0


async def test_a_stop_waits_for_nothing_that_a_failed_store_will_never_take(tmp_path: Path) -> None:
    path = tmp_path / "bus.db"
    async with opened(path) as store:
        step = Collecting()
        reader = source(store)
        await send(store, "x")
        with broken_disk(f"{path}-wal", loses=True):
            with pytest.raises(Transient):
                await send(store, "lost")
            await reader.start(step)
            await until(lambda: not reader.health().up)
            await asyncio.wait_for(reader.stop(600), 30)
    async with opened(path) as store:
        assert [one.envelope.body.text for one in await store.take(channel("q"), 9)] == ["x"]


async def test_a_store_that_cannot_be_read_shows_and_passes(store: SqliteStore) -> None:
    fails = True

    class Failing:
        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        async def take(self, channel: str, limit: int, **more: Any) -> Any:
            if fails:
                raise Transient("the store cannot be read")
            return await store.take(channel, limit, **more)

    step = Collecting()
    reader = source(Failing())  # type: ignore[arg-type]
    await reader.start(step)
    await until(lambda: not reader.health().up)
    assert "cannot be read" in reader.health().detail
    fails = False
    await send(store, "x")
    await until(lambda: step.seen)
    await until(lambda: reader.health().up)
    await reader.stop(5)


async def test_a_message_outlives_the_process_that_sent_it(tmp_path: Path) -> None:
    async with opened(tmp_path / "q.db") as store:
        await send(store, "x")
        await store.take(channel("q"), 1)
    async with opened(tmp_path / "q.db") as store:
        step = Collecting()
        reader = source(store)
        await reader.start(step)
        await until(lambda: step.seen)
        await reader.stop(5)


@pytest.mark.parametrize("name", ["", "a b", "../x", "a:b", "-x", "x" * 201, "a\n"])
def test_names_of_queues(name: str) -> None:
    for options in (QueueSource, QueueSink, TopicSource, TopicSink):
        with pytest.raises(ValidationError):
            options.model_validate({"name": name})
        assert options.model_validate({"name": "orders.in-1_a"})
