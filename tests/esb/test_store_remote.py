"""The store as several processes have it, beside what every store does (see `place`): what they
share, and what becomes of one that is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import chain
from pathlib import Path

import pytest
from support.stores import Served, ServedStore, message
from support.waiting import until

from esb.durable import MOST_CRASHES, Done, Put, Superseded
from esb.errors import Unavailable
from esb.store.remote import RemoteStore


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[ServedStore]:
    """What one process has; `another` is what the next one has."""
    store = ServedStore(Served(tmp_path / "bus.db"))
    await store.open()
    yield store
    await store.close()


def die(store: RemoteStore) -> None:
    """As the kernel ends the connections of a process that is killed."""
    store._line.link.transport.abort()


async def test_each_message_goes_to_one_of_them(store: ServedStore) -> None:
    others = [await store.another() for _ in range(3)]
    await store.commit([Put("a", message(str(number))) for number in range(40)])

    async def all_of(one: RemoteStore) -> list[str]:
        found = []
        while taken := await one.take("a", 3):
            found += [stored.envelope.body.text for stored in taken]
        return found

    shares = await asyncio.gather(*map(all_of, (store, *others)))
    assert sorted(chain(*shares)) == sorted(map(str, range(40)))
    for one in others:
        await one.close()


async def test_one_that_waits_hears_of_what_another_puts(store: ServedStore) -> None:
    other = await store.another()
    waiting = asyncio.create_task(other.wait("a", 60.0))
    await until(lambda: "a" in store._bells)
    await store.put("a", message())
    await asyncio.wait_for(waiting, 10)
    await other.close()


async def test_a_group_and_a_channel_in_order_are_in_one_hand_whoever_has_it(
    store: ServedStore,
) -> None:
    other = await store.another()
    await store.commit([Put("keys", message(text), group="k") for text in "12"])
    [first] = await store.take("keys", 9)
    assert await other.take("keys", 9) == []
    await store.commit((Done(first.key, first.hold),))
    [second] = await other.take("keys", 9)
    assert (first.envelope.body.text, second.envelope.body.text) == ("1", "2")

    await store.commit([Put("line", message(text)) for text in "12"])
    [first] = await other.take("line", 1, in_order=True)
    assert await store.take("line", 1, in_order=True) == []
    await other.commit((Done(first.key, first.hold),))
    [second] = await store.take("line", 1, in_order=True)
    assert second.envelope.body.text == "2"
    await other.close()


async def test_what_a_dead_one_had_in_hand_comes_again_and_is_counted(store: ServedStore) -> None:
    await store.put("a", message("killer"))
    await store.put("b", message("kept"))
    [mine] = await store.take("b", 1)
    for died in range(MOST_CRASHES):
        other = await store.another()
        [taken] = await until(lambda other=other: other.take("a", 1))
        assert taken.crashes == died
        die(other)
        with pytest.raises(Unavailable):
            await other.put("a", message("late"))
        if not died:
            await store.commit((Done(mine.key, mine.hold),))  # not to blame, so still its own
    assert await until(lambda: _lying(store, "dead")) == 1


async def _lying(store: ServedStore, channel: str) -> int:
    await store.take("a", 1)  # which is when a killer is found out
    return (await store.counts()).get(channel, 0)


async def test_what_a_dead_one_was_doing_may_be_done_by_another(store: ServedStore) -> None:
    other = await store.another()
    assert (await other.claim("files", "a.csv", 9e9)).state == "new"
    assert (await store.claim("files", "a.csv", 9e9)).state == "busy"
    die(other)

    async def free() -> bool:
        claim = await store.claim("files", "a.csv", 9e9)
        assert claim.crashes == (1 if claim.state == "new" else 0)
        return claim.state == "new"

    assert await until(free)


async def test_whoever_was_taken_for_dead_changes_nothing(store: ServedStore) -> None:
    other = await store.another()
    await store.put("a", message())
    [taken] = await other.take("a", 1)
    die(other)
    [again] = await until(lambda: store.take("a", 1))
    with pytest.raises(Superseded):
        await store.commit((Done(taken.key, taken.hold),))
    await store.commit((Done(again.key, again.hold),))
