"""How many messages a consumer takes at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.stores import message
from support.waiting import until

from esb import consumer as consumer_module
from esb.consumer import Consumer
from esb.durable import Stored
from esb.envelope import Envelope
from esb.store import SqliteStore

FOREVER = 1e9
NEVER = 0.0


class Noting(SqliteStore):
    """Tells how many were asked for at a time."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.asked: list[int] = []

    async def take(self, channel: str, limit: int, **how: Any) -> list[Stored]:
        self.asked.append(limit)
        return await super().take(channel, limit, **how)


async def through(folder: Path, *, messages: int = 100, order: bool = False) -> list[int]:
    """What a consumer of two at a time asks for until it has had so many messages."""
    store = Noting(folder / "store.db")
    await store.open()
    had: list[str] = []

    async def note(envelope: Envelope) -> Envelope:
        had.append(envelope.id)
        return envelope

    try:
        for number in range(messages):
            await store.put("queue:in", message(str(number)))
        consumer = Consumer(store, "queue:in", route="r", concurrency=2, order=order)
        await consumer.start(note)
        await until(lambda: len(had) == messages)
        await consumer.stop(10)
        assert not await store.counts()
    finally:
        await store.close()
    return store.asked


async def test_who_is_quick_takes_more_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "_QUICK", FOREVER)
    asked = await through(tmp_path)
    assert asked[:5] == [2, 4, 8, 10, 10]
    assert max(asked) == 10


async def test_who_is_slow_leaves_the_others_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "_QUICK", NEVER)
    assert set(await through(tmp_path)) == {2}


async def test_where_little_comes_little_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "_QUICK", FOREVER)
    assert (await through(tmp_path, messages=1)) == [2, 2]


async def test_in_order_none_is_taken_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "_QUICK", FOREVER)
    assert set(await through(tmp_path, order=True)) == {1}
