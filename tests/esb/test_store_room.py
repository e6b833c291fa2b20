"""The alarm before the disk is full, and what a store still does then.

The disk of most tests is a figure; one is real, and said to need more than it has.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import aiohttp
import pytest
from pydantic import ValidationError
from structlog.testing import capture_logs
from support.bus import running, store_of, url
from support.stores import Place, message, opened
from support.waiting import until

from esb.bus import Bus
from esb.durable import DEAD
from esb.errors import Overloaded
from esb.options import spelled_size
from esb.store import StoreOptions
from esb.store import sqlite as sqlite_module
from esb.store.room import Room

MB = 1024**2
ORDERS = """
routes:
  orders:
    from: {http: {path: /orders, method: POST}}
    accept: durable
    steps: [{send: {queue: out}}]
"""


class Disk:
    """A disk of 100 GB of which `free` bytes are left."""

    def __init__(self, free: int) -> None:
        self.free = free

    def __call__(self, path: Path) -> tuple[int, int]:
        assert path.is_dir()
        return 100 * 1024 * MB, self.free


async def test_below_min_free_nothing_new_is_taken_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_module, "LOOK_EVERY", 0.01)
    disk = Disk(50 * 1024 * MB)
    with capture_logs() as logs:
        async with opened(tmp_path / "bus.db", disk=disk) as store:
            keys = [await store.put("a", message(str(i))) for i in range(3)]
            disk.free = 300 * MB
            await until(lambda: store.health().detail)
            assert store.health().up
            assert "300 MB left" in store.health().detail
            await store.put("a", message("warned of, and taken"))

            disk.free = 255 * MB
            await until(lambda: not store.health().up)
            assert "min_free is 256 MB: new messages are refused" in store.health().detail
            with pytest.raises(Overloaded, match="no room") as refused:
                await store.put("a", message("a small one"))
            assert refused.value.retry_after
            [taken] = await store.take("a", 1)
            assert await store.move(taken.key, DEAD)
            assert await store.done(keys[1])

            disk.free = 50 * 1024 * MB
            await until(lambda: store.health().up)
            await store.put("a", message("x" * 17 * MB))
    alarms = [log for log in logs if log["log_level"] == "error"]
    assert len(alarms) == 1, "told once, not at each look"
    assert "there is room again" in [log["event"] for log in logs]


async def test_others_who_fill_the_disk_are_noticed_while_messages_come(tmp_path: Path) -> None:
    disk = Disk(1024 * MB)
    async with opened(tmp_path / "bus.db", disk=disk) as store:
        await store.put("a", message())
        disk.free = 0
        puts = (store.put("a", message("x" * MB)) for _ in range(20))
        done = await asyncio.gather(*puts, return_exceptions=True)
        assert isinstance(done[-1], Overloaded)
        assert (await store.counts())["a"] <= 17


async def test_a_disk_that_does_not_tell_is_written_to(tmp_path: Path) -> None:
    def unwell(_: Path) -> tuple[int, int]:
        raise OSError("stale file handle")

    room = Room(10 * MB, tmp_path, None, unwell)
    assert room.left(MB) == 9 * MB
    assert room.free() is None


async def test_a_small_disk_keeps_a_share_of_itself(tmp_path: Path) -> None:
    small = Room(10 * MB, tmp_path, None, lambda _: (24 * MB, 2 * MB))
    assert 0 < small.left(0) < MB
    assert Room(10 * MB, tmp_path, 0, lambda _: (24 * MB, 2 * MB)).left(0) == 2 * MB


async def test_a_store_that_fills_up_is_told_of(place: Place) -> None:
    async with opened(place, max_size=2 * MB) as store:
        for _ in range(17):
            await store.put("a", message("x" * 100_000))
        usage = await store.usage()
        assert 1.6 * MB < usage.used < usage.max_size == 2 * MB
        assert (usage.free is None) is isinstance(place, str)
        health = await until(lambda: store.health() if store.health().detail else None)
        assert health.up
        assert "of max_size (2 MB)" in health.detail


async def test_callers_hear_503_and_when_to_come_back(tmp_path: Path) -> None:
    """On the real disk, which has less left than it is told to keep."""
    store = {"path": str(tmp_path / "bus.db"), "min_free": 2**60}
    async with (
        running(f"{ORDERS}store: {json.dumps(store)}\n", tmp_path) as bus,
        aiohttp.ClientSession() as client,
        client.post(f"{url(bus)}/orders", json={"number": 1}) as answer,
    ):
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) > 0
        ready, told = bus.readyz()
        assert ready, "other routes may need no store"
        assert told["status"] == "degraded"
        assert "new messages are refused" in told["down"]["store"]
        assert await store_of(bus).counts() == {}


def test_what_the_options_say() -> None:
    options = StoreOptions.model_validate({"min_free": "1GB", "receipts": "30d"}, context={})
    assert (options.min_free, options.receipts) == (1024 * MB, 30 * 86400)
    with pytest.raises(ValidationError, match="a database's is not seen"):
        StoreOptions.model_validate({"url": "postgresql://h/d", "min_free": 1})


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (1536, "1.5 KB"), (256 * MB, "256 MB"), (3 * 1024**4, "3 TB")],
)
def test_sizes_are_spelled_for_people(count: int, text: str) -> None:
    assert spelled_size(count) == text


@pytest.mark.parametrize(("kept", "left"), [("1d", 1), ("1ms", 0)])
async def test_receipts_are_kept_as_long_as_is_said(tmp_path: Path, kept: str, left: int) -> None:
    store = {"path": str(tmp_path / "bus.db"), "receipts": kept}
    text = f"{ORDERS}store: {json.dumps(store)}\n"
    async with running(text, tmp_path) as bus, aiohttp.ClientSession() as client:
        async with client.post(f"{url(bus)}/orders", json={}) as answer:
            ident = (await answer.json())["id"]
        await until(lambda: _receipts(bus, ident))
    async with running(text, tmp_path) as bus:  # which tidies up when it starts
        await until(lambda: _are(bus, ident, left))


async def _receipts(bus: Bus, ident: str) -> int:
    return len((await store_of(bus).find(ident))[1])


async def _are(bus: Bus, ident: str, count: int) -> bool:
    return await _receipts(bus, ident) == count
