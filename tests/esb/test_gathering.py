"""Whoever gathers goes on after trouble, and two who do it at once do no harm."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.bus import running, store_of
from support.stores import Place, opened, setting
from support.waiting import until

from esb.bus import Bus
from esb.clock import Clock
from esb.durable import Done, Entry, Put, Store
from esb.envelope import Body, Envelope
from esb.errors import Unavailable
from esb.gathering import Gathering
from esb.step import identity

ROUTE = """
routes:
  pairs:
    from: {queue: {name: in, concurrency: 20}}
    steps:
      - aggregate: {by: body.key, size: 2, steps: [{send: {queue: out}}]}
"""
SHORT = Clock(sleep=lambda seconds: asyncio.sleep(min(seconds, 0.01)))


class Told:
    """A rule that notes what it is told, and fails as often as it is asked to."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.known: list[str] = []
        self.acted = 0

    def forget(self) -> None:
        self.known = []

    def learn(self, entry: Entry, now: float) -> None:
        self.known.append(entry.id)

    async def act(self, now: float) -> None:
        self.acted += 1
        if self.failures:
            raise self.failures.pop()

    def due(self) -> float | None:
        return None


def member(key: str, ident: str = "") -> Envelope:
    body = Body.of({"key": key})
    return Envelope(id=ident, body=body) if ident else Envelope(body=body)


@contextlib.asynccontextmanager
async def gathering(store: Store, rule: Told, clock: Clock = SHORT) -> AsyncIterator[Gathering]:
    source = Gathering(store, "a", rule, clock=clock)
    await source.start(identity)
    try:
        yield source
    finally:
        await source.stop(0)


async def test_it_is_told_what_lies_there_and_what_comes(place: Place) -> None:
    async with opened(place) as store:
        await store.commit((Put("a", member("k", "1"), group="k"),))
        async with gathering(store, rule := Told()):
            await until(lambda: rule.known == ["1"])
            await store.commit((Put("a", member("k", "2"), group="k"),))
            await until(lambda: rule.known == ["1", "2"])


@pytest.mark.parametrize("failure", [Unavailable("the store is away"), ZeroDivisionError()])
async def test_after_trouble_it_begins_anew(tmp_path: Path, failure: Exception) -> None:
    stopped = asyncio.Event()
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await (stopped.wait() if source.health().detail else asyncio.sleep(0))

    async with opened(tmp_path / "bus.db") as store:
        await store.commit((Put("a", member("k", "1"), group="k"),))
        rule = Told(failure)
        async with gathering(store, rule, Clock(sleep=sleep)) as source:
            await until(lambda: not source.health().up)
            assert source.health().detail in ("the store is away", "internal error")
            stopped.set()
            await until(lambda: rule.acted == 2)
            assert rule.known == ["1"]
            await until(lambda: source.health().up)
        assert source.health().detail == "stopped"


async def test_one_gathers_at_a_time_and_the_next_when_that_one_ends(place: Place) -> None:
    async with opened(place) as store, gathering(store, second := Told()) as waiting:
        await until(lambda: second.acted)
        async with gathering(store, first := Told()) as other:
            await asyncio.sleep(0.05)
            assert not first.acted
            assert other.health().up
            await waiting.stop(0)
            await until(lambda: first.acted)


async def test_what_went_away_meanwhile_is_not_counted(tmp_path: Path) -> None:
    async with running(ROUTE, tmp_path) as bus:
        store = store_of(bus)
        channel = "aggregate:pairs/aggregate"
        await store.put("queue:in", member("k", "gone"))
        [gone] = await until(lambda: store.browse(channel))
        await store.commit((Done(gone.key),))
        await store.put("queue:in", member("k", "1"))
        await store.put("queue:in", member("k", "2"))
        await until(lambda: store.browse("queue:out"))
        assert await store.browse(channel) == []


async def test_two_who_gather_at_once_pass_on_each_group_once(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.asynccontextmanager
    async def not_alone(self: Gathering) -> AsyncIterator[None]:
        yield

    monkeypatch.setattr(Gathering, "_alone", not_alone)
    text = ROUTE + setting(database_url)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    async with running(text, tmp_path / "one") as one, running(text, tmp_path / "two") as two:
        stores = store_of(one), store_of(two)
        members = [member(f"k{n // 2}", str(n)) for n in range(100)]
        puts = (stores[n % 2].put("queue:in", each) for n, each in enumerate(members))
        await asyncio.gather(*puts)
        await until(lambda: count(one, "queue:out", 50))
        assert await stores[0].counts() == {"queue:out": 50}
        found = [stored.envelope for stored in await stores[0].browse("queue:out")]
        keys: list[Any] = [envelope.params["group"]["key"] for envelope in found]
        assert sorted(keys) == sorted({f"k{n}" for n in range(50)})


async def count(bus: Bus, channel: str, least: int) -> bool:
    return (await store_of(bus).counts()).get(channel, 0) >= least
