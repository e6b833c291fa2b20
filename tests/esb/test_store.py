"""The store in one process: what is handed out, to whom, when, and what happens on a bad disk.

What takes a `place` is true of every store; the rest is SQLite's (see test_store_postgres.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest
from support.stores import Place, broken_disk, message, opened, store_at
from support.waiting import Jumping, until

from esb import record
from esb.adapter import Resource
from esb.durable import Done, Failure, Put
from esb.envelope import Body, Envelope
from esb.errors import BadMessage, Overloaded, RouteFailure, Transient, Unavailable
from esb.store import DAMAGED, SqliteStore, StoreOptions, StoreUnusable, open_store
from esb.store import commit as commit_module
from esb.store import schema as schema_module
from esb.store import sqlite as sqlite_module

PLACES = ("sqlite", "served", "postgres")

FAILURE = Failure(
    "unreachable", "no route", "orders", "steps[0].send", 2, datetime(2026, 1, 1, tzinfo=UTC)
)


def texts(found: list[Any]) -> list[str]:
    return [stored.envelope.body.text for stored in found]


async def test_what_was_put_is_taken_once_oldest_first(place: Place) -> None:
    async with opened(place) as store:
        for i in range(5):
            await store.put("a", message(str(i)))
        await store.put("b", message("other"))
        first = await store.take("a", 3)
        assert texts(first) == ["0", "1", "2"]
        assert texts(await store.take("a", 9)) == ["3", "4"]
        assert await store.take("a", 9) == []
        assert await store.counts() == {"a": 5, "b": 1}
        assert await store.done(first[0].key)
        assert not await store.done(first[0].key)
        assert await store.counts() == {"a": 4, "b": 1}


async def test_everything_that_is_said_of_a_message_is_kept(place: Place) -> None:
    async with opened(place) as store:
        sent = message("x", subject="s")
        before = time.time()
        key = await store.put("a", sent, due=5.0, attempts=2, failure=FAILURE)
        found = await store.get(key)
    async with opened(place) as store:
        assert await store.get(key) is not None
    assert found is not None
    assert (found.channel, found.due, found.attempts, found.failure) == ("a", 5.0, 2, FAILURE)
    assert before <= found.stored <= time.time()
    assert (found.envelope.id, found.envelope.subject) == (sent.id, "s")


async def test_a_message_is_not_handed_out_before_it_is_due(place: Place) -> None:
    jumping = Jumping()
    async with opened(place, clock=jumping.clock) as store:
        await store.put("a", message("later"), due=jumping.now + 10)
        await store.put("a", message("now"))
        assert texts(await store.take("a", 9)) == ["now"]
        await store.put("a", message("new"))
        jumping.now += 10
        assert texts(await store.take("a", 9)) == ["later", "new"]


async def test_a_moved_message_is_free_again_and_waits_its_time(place: Place) -> None:
    jumping = Jumping()
    async with opened(place, clock=jumping.clock) as store:
        await store.put("a", message("x"))
        [taken] = await store.take("a", 1)
        assert await store.move(taken.key, "a", due=jumping.now + 5, attempts=1, failure=FAILURE)
        assert await store.take("a", 1) == []
        jumping.now += 5
        [again] = await store.take("a", 1)
        assert (again.key, again.attempts, again.failure) == (taken.key, 1, FAILURE)
        assert again.envelope.id == taken.envelope.id
        assert await store.move(taken.key, "b")
        assert texts(await store.take("b", 1)) == ["x"]


async def test_who_means_another_channel_changes_nothing(place: Place) -> None:
    async with opened(place) as store:
        key = await store.put("dead", message())
        assert await store.move(key, "work", lying_in="dead")
        [taken] = await store.take("work", 1)
        assert not await store.move(key, "work", lying_in="dead")
        assert not await store.done(key, lying_in="dead")
        assert await store.take("work", 1) == [], "it is still held"
        assert await store.done(taken.key, lying_in="work")


async def test_listing_goes_by_key_in_pages_and_holds_nothing(place: Place) -> None:
    async with opened(place) as store:
        keys = [await store.put("a", message(str(i)), due=9e9 - i) for i in range(5)]
        page = await store.browse("a", limit=2)
        assert [stored.key for stored in page] == keys[:2]
        rest = await store.browse("a", after=page[-1].key)
        assert [stored.key for stored in rest] == keys[2:]
        assert len(await store.browse("a")) == 5
        assert await store.get(10**9) is None


async def test_keys_are_never_used_again(place: Place) -> None:
    async with opened(place) as store:
        first = await store.put("a", message())
        await store.done(first)
    async with opened(place) as store:
        assert await store.put("a", message()) > first


async def test_what_was_held_is_there_when_the_store_opens_again(place: Place) -> None:
    async with opened(place) as store:
        await store.put("a", message("x"))
        assert len(await store.take("a", 1)) == 1
    async with opened(place) as store:
        assert texts(await store.take("a", 1)) == ["x"]


@pytest.mark.parametrize("moment", ["asked", "taken", "told", "any"])
async def test_a_take_that_was_cancelled_holds_nothing(tmp_path: Path, moment: str) -> None:
    async with opened(tmp_path / "bus.db") as store:
        outside = apsw.Connection(str(tmp_path / "bus.db"))

        def in_hand() -> int:
            return int(outside.execute("SELECT count(*) FROM message WHERE hold <> 0").get)

        for i in range(20):
            await store.put("a", message(str(i)))
        for turns in range(1, 10):
            taking = asyncio.create_task(store.take("a", 20))
            await asyncio.sleep(0)
            if moment in ("taken", "told"):
                while in_hand() < 20:  # the event loop must not turn meanwhile
                    time.sleep(0.0001)
            if moment == "told":
                await asyncio.sleep(0)
            if moment == "any":
                for _ in range(turns):
                    await asyncio.sleep(0)
            if not taking.done():
                taking.cancel()
            [result] = await asyncio.gather(taking, return_exceptions=True)
            if isinstance(result, list):
                for stored in result:
                    await store.move(stored.key, "a")
            await until(lambda: not in_hand())
        outside.close()


async def test_competing_takers_share_without_a_double(place: Place) -> None:
    async with opened(place) as store:
        count = 300
        await asyncio.gather(*(store.put("a", message(str(i))) for i in range(count)))
        seen: list[str] = []

        async def consumer() -> None:
            while batch := await store.take("a", 7):
                for stored in batch:
                    seen.append(stored.envelope.body.text)
                    await store.done(stored.key)

        await asyncio.gather(*(consumer() for _ in range(5)))
        assert sorted(seen, key=int) == [str(i) for i in range(count)]
        assert await store.counts() == {}


async def test_waiting_ends_when_a_message_comes_or_becomes_due(place: Place) -> None:
    async with opened(place) as store:
        await store.wait("a", 0.01)  # nothing there: the timeout ends it
        waiting = asyncio.create_task(store.wait("a", 60))
        await until(lambda: "a" in store._bells)
        await store.put("b", message())
        await store.put("a", message())
        await asyncio.wait_for(waiting, 10)
        await asyncio.wait_for(store.wait("a", 60), 10)  # something is there already
        [taken] = await store.take("a", 1)
        await store.move(taken.key, "a", due=time.time() + 0.05)
        await asyncio.wait_for(store.wait("a", 60), 10)
        await until(lambda: store.take("a", 1))
        waiting = asyncio.create_task(store.wait("a", 60))
        await until(lambda: "a" in store._bells)
        assert not waiting.done(), "what is held is not waited for"
        await store.move(taken.key, "a")
        await asyncio.wait_for(waiting, 10)
        assert store._bells == {}


async def test_closing_ends_every_wait_and_refuses_what_comes_later(place: Place) -> None:
    store = store_at(place)
    assert not store.health().up
    await store.open()
    assert isinstance(store, Resource)
    assert store.health().up
    waiting = asyncio.create_task(store.wait("a", 60))
    await until(lambda: "a" in store._bells)
    puts = [asyncio.create_task(store.put("a", message())) for _ in range(20)]
    await asyncio.sleep(0)
    await store.close()
    await store.close()
    await asyncio.wait_for(waiting, 10)
    done = await asyncio.gather(*puts, return_exceptions=True)
    for refused in (store.put("a", message()), store.take("a", 1), store.counts()):
        with pytest.raises(Transient):
            await refused
    acknowledged = [key for key in done if isinstance(key, int)]
    async with opened(place) as again:
        assert [stored.key for stored in await again.browse("a")] == acknowledged


async def test_callers_that_come_together_share_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    transact = commit_module.GroupCommit._transact

    def counting(self: Any, jobs: list[Any]) -> None:
        batches.append(sum(not job.relaxed for job in jobs))
        transact(self, jobs)

    monkeypatch.setattr(commit_module.GroupCommit, "_transact", counting)
    async with opened(tmp_path / "bus.db") as store:
        for _ in range(5):
            await store.put("a", message())
        assert [batch for batch in batches if batch] == [1] * 5
        batches.clear()

        async def caller() -> None:
            for _ in range(20):
                await store.put("a", message())

        await asyncio.gather(*(caller() for _ in range(50)))
        assert sum(batches) == 1000
        assert len(batches) < 200, "50 callers at a time, so about 20 to 40 commits"


async def test_settings_open_a_file_with_its_folder_for_its_owner_alone(tmp_path: Path) -> None:
    store = open_store(StoreOptions(path=Path("data/deep/bus.db")), tmp_path)
    await store.open()
    await store.put("a", message())
    file = tmp_path / "data" / "deep" / "bus.db"
    for name in (file, Path(f"{file}-wal"), Path(f"{file}.lock")):
        assert name.stat().st_mode & 0o777 == 0o600, name
    await store.close()
    assert not Path(f"{file}-wal").exists(), "the log was written back"
    assert StoreOptions.model_validate({"max_size": "5MB"}).max_size == 5 * 1024**2


# --- what cannot be opened ------------------------------------------------------------------------


async def test_a_second_bus_on_the_same_file_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path / "bus.db") as store:
        await store.put("a", message())
        second = SqliteStore(tmp_path / "bus.db")
        with pytest.raises(StoreUnusable, match=r"in use by process \d+"):
            await second.open()
        assert not second.health().up
    async with opened(tmp_path / "bus.db") as store:
        assert await store.counts() == {"a": 1}


async def test_a_file_of_a_newer_bus_is_refused_and_left_alone(tmp_path: Path) -> None:
    async with opened(tmp_path / "bus.db"):
        pass
    db = apsw.Connection(str(tmp_path / "bus.db"))
    db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(StoreUnusable, match="made by a newer bus"):
        await SqliteStore(tmp_path / "bus.db").open()


async def test_a_file_of_an_older_bus_is_migrated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path / "bus.db") as store:
        await store.put("a", message("old"))
    later = (*schema_module.MIGRATIONS, "ALTER TABLE message ADD COLUMN colour TEXT;")
    monkeypatch.setattr(schema_module, "MIGRATIONS", later)
    async with opened(tmp_path / "bus.db") as store:
        assert texts(await store.take("a", 1)) == ["old"]
    db = apsw.Connection(str(tmp_path / "bus.db"))
    assert db.pragma("user_version") == len(later)
    db.close()


async def test_a_file_of_the_first_format_keeps_its_messages(tmp_path: Path) -> None:
    old = message("old", id="order-7")
    written = record.encode(old)
    db = apsw.Connection(str(tmp_path / "bus.db"))
    db.execute(schema_module.MIGRATIONS[0])
    db.execute("INSERT INTO message VALUES (5, 'a', 0, 2, 1.5, NULL)")
    db.execute("INSERT INTO content VALUES (5, ?, ?)", (record.digest(written), written))
    db.execute("PRAGMA user_version=1")
    db.close()
    async with opened(tmp_path / "bus.db") as store:
        ([found], _) = await store.find("order-7")
        [taken] = await store.take("a", 1)
        assert (found.key, taken.key, taken.attempts, texts([taken])) == (5, 5, 2, ["old"])


async def test_a_migration_that_fails_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path / "bus.db") as store:
        await store.put("a", message("old"))
    broken = (*schema_module.MIGRATIONS, "DROP TABLE content; SELECT nonsense;")
    with monkeypatch.context() as patch:
        patch.setattr(schema_module, "MIGRATIONS", broken)
        with pytest.raises(StoreUnusable):
            await SqliteStore(tmp_path / "bus.db").open()
    async with opened(tmp_path / "bus.db") as store:
        assert texts(await store.take("a", 1)) == ["old"]


async def test_a_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bus.db").write_text("not a database " * 100)
    with pytest.raises(StoreUnusable, match="cannot be opened"):
        await SqliteStore(tmp_path / "bus.db").open()
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnusable, match=r"cannot be opened: (not a directory|file exists)$"):
        await SqliteStore(tmp_path / "file" / "bus.db").open()


# --- bad disks ------------------------------------------------------------------------------------


def damage(path: Path, key: int) -> None:
    """Flip one bit of what is stored."""
    db = apsw.Connection(str(path))
    content = bytearray(db.execute("SELECT content FROM content WHERE key=?", (key,)).get)
    content[len(content) // 2] ^= 1
    db.execute("UPDATE content SET content=? WHERE key=?", (bytes(content), key))
    db.close()


async def test_a_damaged_message_is_set_aside_and_never_delivered(tmp_path: Path) -> None:
    path = tmp_path / "bus.db"
    async with opened(path) as store:
        keys = [await store.put("a", message(str(i)), attempts=1) for i in range(4)]
    damage(path, keys[1])
    damage(path, keys[2])
    db = apsw.Connection(str(path))
    db.execute("DELETE FROM content WHERE key=?", (keys[3],))
    db.close()
    async with opened(path) as store:
        assert store.health().up
        assert await store.get(keys[2]) is None, "however it is asked for"
        assert texts(await store.take("a", 2)) == ["0"]
        assert texts(await store.browse("a")) == ["0"]
        await until(lambda: _all_three(store))
        found = await store.browse(DAMAGED)
        assert [stored.key for stored in found] == keys[1:]
        assert "3 damaged messages" in store.health().detail
        assert found[0].attempts == 1
        assert found[0].failure is not None
        assert found[0].failure.code == "damaged"
        assert found[0].failure.route == "a"
        assert found[0].envelope.body.raw != b"", "what is left of it can be looked at"
        assert await store.done(keys[3])
    async with opened(path) as store:
        assert "2 damaged" in store.health().detail


async def _all_three(store: SqliteStore) -> bool:
    return (await store.counts()).get(DAMAGED) == 3


async def test_after_a_failed_fsync_nothing_more_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "bus.db"
    async with opened(path) as store:
        kept = await store.put("a", message("kept"))
        [taken] = await store.take("a", 1)
        with broken_disk(f"{path}-wal", loses=True):
            results = await asyncio.gather(
                *(store.put("a", message("lost")) for _ in range(10)), return_exceptions=True
            )
            assert all(isinstance(error, Transient) for error in results), results
        # The disk works again, but what it holds is not known any more.
        with pytest.raises(Transient) as caught:
            await store.put("a", message("refused"))
        assert str(caught.value) == "the store cannot be written"  # why, its sender need not know
        assert "restart the bus" in caught.value.notes[0]
        with pytest.raises(Transient):
            await store.done(taken.key)
        with pytest.raises(Transient):
            await store.move(taken.key, "b")
        assert not store.health().up
        assert "failed" in store.health().detail
    async with opened(path) as store:
        assert store.health().up
        assert [stored.key for stored in await store.browse("a")] == [kept]


async def test_a_failed_write_is_told_and_may_pass(tmp_path: Path) -> None:
    path = tmp_path / "bus.db"
    async with opened(path) as store:
        keys = [await store.put("a", message("before"))]
        with broken_disk(f"{path}-wal", loses=False):
            results = await asyncio.gather(
                *(store.put("a", message("lost")) for _ in range(5)), return_exceptions=True
            )
            assert all(isinstance(error, Unavailable) for error in results), results
            assert not any(error.for_good for error in results if isinstance(error, Unavailable))
        assert store.health().up
        keys.append(await store.put("a", message("after")))
        assert [stored.key for stored in await store.browse("a")] == keys


async def test_a_log_that_cannot_be_written_back_stops_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bus.db"
    async with opened(path) as store:
        keys = [await store.put("a", message("first"))]
        monkeypatch.setattr(commit_module, "CHECKPOINT_PAGES", 1)
        with broken_disk(str(path), loses=True):
            with contextlib.suppress(Transient):  # the writer may have begun before it
                keys.append(await store.put("a", message("second")))
            await until(lambda: not store.health().up)
        with pytest.raises(Transient):
            await store.put("a", message("third"))
    async with opened(path) as store:
        assert [stored.key for stored in await store.browse("a")] == keys, "the log still has them"


async def test_the_log_is_written_back_and_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_module, "CHECKPOINT_PAGES", 50)
    path = tmp_path / "bus.db"
    async with opened(path) as store:
        for _ in range(300):
            await store.done(await store.put("a", message("x" * 3000)))
            await store.take("b", 1)
        assert Path(f"{path}-wal").stat().st_size < 200 * 4096


async def test_a_full_store_refuses_new_messages_and_goes_on_with_the_old(place: Place) -> None:
    async with opened(place, max_size=2 * 1024**2) as store:
        keys = []
        large = Envelope(body=Body(b"x" * 100_000, "text/plain"))
        refused: list[Overloaded] = []
        while not refused:
            try:
                keys.append(await store.put("a", large))
            except Overloaded as e:
                refused.append(e)
        assert "no room" in refused[0].detail
        assert refused[0].retry_after
        assert 10 < len(keys) < 21
        assert store.health().up
        assert await store.move(keys[0], "dead", failure=FAILURE), "a dead letter needs no room"
        await store.put("a", message("a small one fits"))
        assert await store.done(keys[1])
        assert await store.done(keys[2])
        await store.put("a", large)


async def test_those_that_come_at_once_have_no_more_room_together(place: Place) -> None:
    async with opened(place, max_size=1024**2) as store:
        large = Envelope(body=Body(b"x" * 100_000, "text/plain"))
        puts = (store.put("a", large) for _ in range(20))
        done = await asyncio.gather(*puts, return_exceptions=True)
        assert 5 < sum(isinstance(key, int) for key in done) <= 10
        assert all(isinstance(e, int | Overloaded) for e in done)


async def test_what_takes_the_place_of_others_needs_no_room(place: Place) -> None:
    async with opened(place, max_size=1024**2) as store:
        large = Envelope(body=Body(b"x" * 100_000, "text/plain"))
        first = await store.put("a", large)
        with contextlib.suppress(Overloaded):
            while True:
                await store.put("a", large)
        await store.commit((Done(first), Put("b", large, instead=True)))
        assert (await store.counts())["b"] == 1


async def test_a_disk_that_is_full_for_a_while(tmp_path: Path) -> None:
    """SQLite itself says that there is no room: the page limit stands in for the disk's end."""
    async with opened(tmp_path / "bus.db") as store:
        db = store._connections[0]
        keys = [await store.put("a", message("x" * 50_000)) for _ in range(5)]
        limit = db.pragma("max_page_count")
        pages = db.pragma("page_count")
        db.pragma("max_page_count", pages)
        results = await asyncio.gather(
            *(store.put("a", message("y" * 50_000)) for _ in range(5)),
            store.done(keys[0]),
            store.move(keys[1], "dead", failure=FAILURE),
            return_exceptions=True,
        )
        assert all(isinstance(error, Overloaded) for error in results[:4])
        assert results[5:] == [True, True], "those that need no room pass"
        assert store.health().up
        db.pragma("max_page_count", limit)
        await store.put("a", message("y" * 50_000))


async def test_a_store_that_another_program_has_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_module, "BUSY_MILLIS", 20)
    path = tmp_path / "bus.db"
    async with opened(path) as store:
        other = apsw.Connection(str(path))
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Transient, match="locked"):
            await store.put("a", message())
        other.execute("ROLLBACK")
        other.close()
        await store.put("a", message())
        assert await store.counts() == {"a": 1}


async def test_one_bad_message_does_not_spoil_the_commit_it_shares(place: Place) -> None:
    async with opened(place, max_size=1024**2) as store:
        results = await asyncio.gather(
            store.put("a", message("one")),
            store.put("a", message("x" * 1024**2)),
            store.put("a", message("two")),
            return_exceptions=True,
        )
        assert [type(result) for result in results] == [int, Overloaded, int]
        with pytest.raises(BadMessage):
            await store.put("a", message(subject="\ud800"))
        assert await store.counts() == {"a": 2}


async def test_a_bug_in_one_job_harms_no_other_and_not_the_thread(place: Place) -> None:
    async with opened(place) as store:
        results = await asyncio.gather(
            store.put("a", message("one")),
            store.put("a", message("bad"), attempts=2**70),
            store.put("a", message("two")),
            return_exceptions=True,
        )
        assert [type(result) for result in results] == [int, RouteFailure, int]
        assert texts(await store.browse("a")) == ["one", "two"]
        reason = msgspec.structs.replace(FAILURE, detail="bad text \ud800")
        key = await store.put("a", message("three"), failure=reason)
        found = await store.get(key)
        assert found is not None
        assert found.failure is not None
        assert found.failure.detail == "bad text \\ud800"
