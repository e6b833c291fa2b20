"""The embedded store: one SQLite file, written by one thread, read by another.

Write-ahead log with `synchronous=FULL`: what a method returned from is on the disk. A lock file
keeps a second process off, so what is in hand when the file is opened was a dead process's.
https://sqlite.org/wal.html
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import cast

import apsw
import structlog

from esb.adapter import Health
from esb.clock import REAL, Clock
from esb.durable import (
    Change,
    Claim,
    Failure,
    Move,
    Store,
    Stored,
    Superseded,
    Usage,
    subscription,
)
from esb.errors import EsbError, Transient, Unavailable
from esb.store import schema
from esb.store.commit import SYNCHRONOUS, GroupCommit
from esb.store.files import StoreUnusable, lock, snapshot, sync_folder
from esb.store.hands import Asked
from esb.store.reading import Reading, ReadsFile
from esb.store.room import Disk, Room, disk_of
from esb.store.rows import DAMAGED, prepared, used
from esb.store.writing import Transaction, Writing

log = structlog.get_logger("esb.store")

BUSY_MILLIS = 2000
TIDY_EVERY = 15.0
LOOK_EVERY = 2.0
WAL_RESET_FIXED = (3, 51, 3)  # https://sqlite.org/wal.html#walresetbug


class SqliteStore(ReadsFile, Store):
    """`esb.durable.Store` in the file `path`, and a Resource: open it before use.

    max_size: bytes that messages may take up; beyond it `commit` raises Overloaded, while what is
        there can still be moved and forgotten. The log beside the file comes on top.
    min_free: the same holds when fewer bytes than this are left on the disk (see `Room`).
    receipts: seconds that receipts are kept.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_size: int = 10 * 1024**3,
        min_free: int | None = None,
        receipts: float = 7 * 86400.0,
        clock: Clock = REAL,
        disk: Disk = disk_of,
    ) -> None:
        self.path = path
        self.where = str(path.resolve())
        self._room = Room(max_size, path.parent, min_free, disk)
        self._receipts = receipts
        self._clock = clock
        self._writing = Writing(clock, self._left)
        self._counts: Counter[str] = Counter()
        self._lock = -1
        self._bells: dict[str, set[asyncio.Future[None]]] = {}
        self._asking: set[Asked] = set()
        self._threads: tuple[GroupCommit, Reading] | None = None
        self._upkeep: list[asyncio.Task[None]] = []

    # --- Resource --------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the file, made or migrated as needed. Raises StoreUnusable with the reason."""
        loop = asyncio.get_running_loop()
        self._connections = await asyncio.to_thread(self._connect)
        writer, reader = self._connections
        reading = Reading(
            reader,
            self._clock,
            set_aside=self._set_aside,
            damaged=lambda: commit.fail("its file is damaged"),
        )
        commit = GroupCommit(writer, loop, writing=self._writing, told=self._told)
        self._threads = (commit, reading)
        await self._look()
        self._upkeep = [
            asyncio.create_task(self._again_and_again(self._tidy, TIDY_EVERY), name="esb store"),
            asyncio.create_task(self._again_and_again(self._look, LOOK_EVERY), name="esb store"),
        ]

    async def close(self) -> None:
        """Finish what is being written and close the file; whoever waits returns."""
        if self._threads is None:
            return
        for task in self._upkeep:
            task.cancel()
        await asyncio.gather(*self._upkeep, return_exceptions=True)
        commit, reading = self._threads
        with contextlib.suppress(EsbError):
            # What is on its way to nobody comes before this and is given back: nobody died of it.
            await commit.submit(lambda db, told: None, relaxed=True)
        await asyncio.to_thread(commit.close)
        self._threads = None
        await asyncio.to_thread(reading.close)
        await asyncio.to_thread(self._disconnect)
        self._ring(set(self._bells))
        for asked in self._asking:
            if not asked.answer.done():
                asked.answer.set_result([])

    def health(self) -> Health:
        """Whether messages can be stored."""
        if self._threads is None:
            return Health(False, "the store is not open")
        if self._threads[0].failure:
            return Health(False, self._threads[0].failure)
        if self._room.health.detail:
            return self._room.health
        if damaged := self._counts[DAMAGED]:
            return Health(True, f"{damaged} damaged messages were set aside")
        return Health(True)

    # --- Store -----------------------------------------------------------------------------------

    def prepare(self, change: Change) -> Change:
        """See `Store.prepare`."""
        return prepared(change)

    async def commit(self, changes: Sequence[Change]) -> list[int]:
        """See `Store.commit`."""
        ready = [prepared(change) for change in changes]
        return await self._writes().submit(lambda db, told: self._writing.apply(db, told, ready))

    async def take(
        self, channel: str, limit: int, *, in_order: bool = False, wait: float = 0.0
    ) -> list[Stored]:
        """See `Store.take`."""
        loop = asyncio.get_running_loop()
        end = loop.time() + wait
        while True:
            waits = wait > 0
            asked = Asked(channel, limit, loop.create_future(), in_order=in_order, waits=waits)
            taken = await self._answer(asked, end)
            if taken or loop.time() >= end:
                return taken

    async def _answer(self, asked: Asked, end: float) -> list[Stored]:
        """What one is told who asked, and waits no longer than until `end`."""
        loop = asyncio.get_running_loop()
        alarm: asyncio.TimerHandle | None = None
        self._asking.add(asked)
        try:
            due = await self._writes().submit(
                lambda db, told: self._writing.take(db, told, asked), relaxed=True
            )
            if not asked.answer.done():
                pause = end - loop.time()
                if due is not None:
                    pause = min(pause, due - self._clock.time())
                alarm = loop.call_later(max(pause, 0.0), self._look_again_at, asked)
            return await asked.answer
        except BaseException:
            # Nobody will ever see what was or will be taken, so it must not stay in hand.
            with contextlib.suppress(Transient):  # closing: it is free when it opens
                self._writes().post(lambda db, told: self._writing.given_up(told, asked))
            raise
        finally:
            self._asking.discard(asked)
            if alarm is not None:
                alarm.cancel()

    def _look_again_at(self, asked: Asked) -> None:
        with contextlib.suppress(Transient):  # closing: it is told
            self._writes().post(
                lambda db, told: self._writing.look_again_at(told, asked), relaxed=True
            )

    async def wait(self, channel: str, timeout: float, *, news: bool = False) -> None:
        """See `Store.wait`."""
        bell: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        bells = self._bells.setdefault(channel, set())
        bells.add(bell)  # before looking, so that what is put in between rings it
        try:
            due = None if news else await self._reads().next_due(channel)
            if due is not None and channel not in self._writing.turned_away:
                timeout = min(timeout, due - self._clock.time())
            if timeout > 0:
                await asyncio.wait((bell,), timeout=timeout)
        finally:
            bells.discard(bell)
            if not bells and self._bells.get(channel) is bells:
                del self._bells[channel]

    async def claim(self, scope: str, value: str, until: float) -> Claim:
        """See `Store.claim`."""
        claiming = self._writes().submit(
            lambda db, told: self._writing.claim(db, told, scope, value, until), relaxed=True
        )
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            # Nobody will ever confirm or release what was or will be claimed.
            claiming.add_done_callback(lambda claimed: self._unclaim(claimed, scope, value))
            raise

    async def subscribe(self, topic: str, name: str) -> None:
        """See `Store.subscribe`."""
        sql = "INSERT OR IGNORE INTO subscription VALUES (?, ?)"
        await self._writes().submit(lambda db, told: db.execute(sql, (topic, name)).get)

    async def unsubscribe(self, topic: str, name: str) -> bool:
        """See `Store.unsubscribe`."""
        channel = subscription(topic, name)

        def work(db: apsw.Connection, told: Transaction) -> bool:
            sql = "DELETE FROM subscription WHERE topic = ? AND name = ?"
            db.execute(sql, (topic, name))
            found = db.changes() > 0
            self._writing.clear(told, channel)
            return found

        return await self._writes().submit(work)

    async def counts(self) -> dict[str, int]:
        """See `Store.counts`."""
        self._reads()
        return {channel: count for channel, count in self._counts.items() if count}

    async def usage(self) -> Usage:
        """See `Store.usage`."""
        used, room = await self._reads().used(), self._room
        return Usage(self.where, used, room.max_size, room.free())

    # --- for those who serve it to other processes -----------------------------------------------

    async def give_back(self, hold: int, keys: list[int]) -> None:
        """What was taken for nobody is free again."""
        await self._writes().submit(
            lambda db, told: self._writing.give_back(told, hold, keys), relaxed=True
        )

    async def unclaim(self, scope: str, value: str) -> None:
        """What was claimed for nobody is free again."""
        await self._writes().submit(
            lambda db, told: self._writing.unclaim(db, scope, value), relaxed=True
        )

    async def left_behind(
        self, held: Sequence[tuple[int, int]], claims: Sequence[tuple[str, str]]
    ) -> None:
        """What a process that is gone had in hand (keys, and the numbers of their takes), or was
        doing, is free again, and counted."""
        freed = await self._writes().submit(
            lambda db, told: self._writing.left_behind(told, held, claims), relaxed=True
        )
        if freed:
            log.warning("messages that a dead process had in hand are free again", count=freed)

    def set_aside(self, key: int, failure: Failure) -> None:
        """A message was found to be damaged."""
        self._set_aside(key, failure)

    def damaged(self) -> None:
        """The file was found to be damaged."""
        self._writes().fail("its file is damaged")

    # --- opening and closing, in a worker thread -------------------------------------------------

    def _connect(self) -> tuple[apsw.Connection, apsw.Connection]:
        if tuple(map(int, apsw.sqlite_lib_version().split("."))) < WAL_RESET_FIXED:
            raise StoreUnusable(
                f"SQLite {apsw.sqlite_lib_version()} can damage its log; 3.51.3 or newer is needed"
            )
        opened = contextlib.ExitStack()
        opened.callback(self._unlock)
        try:
            self._claim()
            writer = apsw.Connection(str(self.path))
            opened.callback(writer.close)
            writer.set_busy_timeout(BUSY_MILLIS)
            for setting in (
                "journal_mode=WAL",
                f"synchronous={SYNCHRONOUS[False]}",
                "fullfsync=ON",
            ):
                writer.execute(f"PRAGMA {setting}")
            writer.execute(f"PRAGMA journal_size_limit={64 * 1024**2}")
            self._migrate(writer)
            if freed := schema.after_a_crash(writer):
                log.warning("messages that a dead process had in hand are free again", count=freed)
            rows = writer.execute("SELECT channel, count(*) FROM message GROUP BY channel")
            self._counts = Counter(dict(cast("list[tuple[str, int]]", rows.fetchall())))
            self._writing.begin(writer)
            reader = apsw.Connection(str(self.path))
            reader.set_busy_timeout(BUSY_MILLIS)
            reader.execute("PRAGMA query_only=ON")
        except (apsw.Error, OSError) as e:
            opened.close()
            reason = e.strerror.lower() if isinstance(e, OSError) and e.strerror else str(e)
            raise StoreUnusable(f"the store {self.path} cannot be opened: {reason}") from e
        except StoreUnusable:
            opened.close()
            raise
        return writer, reader

    def _claim(self) -> None:
        folder = self.path.parent
        if not folder.is_dir():
            folder.mkdir(parents=True, mode=0o700)
            sync_folder(folder.parent)
        self._lock = lock(self.path)
        # Messages may be confidential, so the file is made for its owner alone.
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))

    def _unlock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _migrate(self, db: apsw.Connection) -> None:
        version = cast(int, db.pragma("user_version"))
        if version > len(schema.MIGRATIONS):
            raise StoreUnusable(
                f"the store {self.path} has format {version}, made by a newer bus; "
                f"this one reads up to {len(schema.MIGRATIONS)}"
            )
        if 0 < version < len(schema.MIGRATIONS):
            # For those who want to go back to the bus of before, which refuses what this one makes.
            kept = self.path.with_name(f"{self.path.name}.v{version}.bak")
            snapshot(db, kept)
            log.info("the store is brought to a new format", before=version, kept=str(kept))
        schema.migrate(db, version)

    def _disconnect(self) -> None:
        # The writer last: the last connection writes the log back into the file.
        for connection in reversed(self._connections):
            with contextlib.suppress(apsw.Error):
                connection.close()
        self._unlock()

    def _writes(self) -> GroupCommit:
        if self._threads is None:
            raise Unavailable("the store is not open")
        return self._threads[0]

    def _reads(self) -> Reading:
        if self._threads is None:
            raise Unavailable("the store is not open")
        return self._threads[1]

    # --- in the writing thread -------------------------------------------------------------------

    def _left(self, db: apsw.Connection) -> int:
        return self._room.left(used(db))

    # --- in the reading thread -------------------------------------------------------------------

    def _set_aside(self, key: int, failure: Failure) -> None:
        move = Move(key, DAMAGED, attempts=failure.attempts, failure=failure)

        def work(db: apsw.Connection, told: Transaction) -> None:
            with contextlib.suppress(Superseded):
                self._writing.apply(db, told, (move,))

        with contextlib.suppress(Transient):  # closing: it is found again
            self._writes().post(work)

    # --- in the event loop -----------------------------------------------------------------------

    def _told(self, told: Transaction) -> None:
        for channel, more in told.counts.items():
            self._counts[channel] += more
        if self._bells:
            self._ring(told.rung)
        if told.freed and self._writing.turned_away:
            away, self._writing.turned_away = self._writing.turned_away, set()
            self._ring(away)
        for asked in told.answers:
            if not asked.answer.done():
                asked.answer.set_result(asked.got)

    def _ring(self, channels: set[str]) -> None:
        for channel in channels:
            for bell in self._bells.get(channel, ()):
                if not bell.done():
                    bell.set_result(None)

    def _unclaim(self, claiming: asyncio.Future[Claim], scope: str, value: str) -> None:
        if claiming.cancelled() or claiming.exception() or claiming.result().state != "new":
            return
        with contextlib.suppress(Transient):  # closing: it is free when it opens
            self._writes().post(lambda db, told: self._writing.unclaim(db, scope, value))

    async def _tidy(self) -> None:
        while await self._writes().submit(
            lambda db, told: self._writing.tidy(db, told, self._clock.time() - self._receipts),
            relaxed=True,
        ):
            pass

    async def _look(self) -> None:
        self._room.look(await self._reads().used())
        if not self._room.health.up:
            self._writing.look_again()

    async def _again_and_again(self, what: Callable[[], Awaitable[None]], pause: float) -> None:
        while True:
            with contextlib.suppress(EsbError, OSError):  # the next time, then
                await what()
            await asyncio.sleep(pause)
