"""The embedded store: one SQLite file, written by one thread, read by another.

Write-ahead log with `synchronous=FULL`: what a method returned from is on the disk. Who holds
which message is known to this process alone, so a lock file keeps a second process off; what a
dead process held is there again when the next one opens the file. https://sqlite.org/wal.html
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from pathlib import Path
from typing import cast

import apsw
import msgspec

from esb.adapter import Failure, Health, Stored
from esb.clock import REAL, Clock
from esb.envelope import Envelope
from esb.errors import EsbError, Overloaded, TooLarge, Transient
from esb.store import record
from esb.store.commit import FULL, RETRY_AFTER, Effects, GroupCommit, Work
from esb.store.reading import DAMAGED, Reading

BUSY_MILLIS = 2000
LARGEST = 900 * 1024**2  # SQLite takes values below 1 GB
OVERHEAD = 512  # a message's rows, index entries and share of half-filled pages
WAL_RESET_FIXED = (3, 51, 3)  # https://sqlite.org/wal.html#walresetbug

MIGRATIONS: tuple[str, ...] = (
    # Content is apart from what moves, so that a retry or a dead letter rewrites a few bytes only.
    """
    CREATE TABLE message (
        key INTEGER PRIMARY KEY AUTOINCREMENT,
        channel TEXT NOT NULL,
        due REAL NOT NULL,
        attempts INTEGER NOT NULL,
        stored REAL NOT NULL,
        failure BLOB
    ) STRICT;
    CREATE INDEX message_by_turn ON message (channel, due, key);
    CREATE TABLE content (
        key INTEGER PRIMARY KEY,
        digest BLOB NOT NULL,
        content BLOB NOT NULL
    ) STRICT;
    CREATE TRIGGER message_gone AFTER DELETE ON message
    BEGIN DELETE FROM content WHERE key = old.key; END;
    """,
)
"""Each brings the file from the version before to the next; `user_version` counts them. Never
change one that was released: add another."""


class StoreUnusable(EsbError):
    """The store cannot be opened: in use by another process, damaged, or made by a newer bus."""

    code = "store-unusable"


class SqliteStore:
    """`esb.adapter.Store` in the file `path`, and a Resource: open it before use.

    max_size: bytes that messages may take up; beyond it `put` raises Overloaded, while what is
        there can still be moved and forgotten. The log beside the file comes on top.
    """

    def __init__(self, path: Path, *, max_size: int = 10 * 1024**3, clock: Clock = REAL) -> None:
        self.path = path
        self._max_size = max_size
        self._clock = clock
        self._room = 0
        self._damaged = 0
        self._lock = -1
        self._bells: dict[str, set[asyncio.Future[None]]] = {}
        self._threads: tuple[GroupCommit, Reading] | None = None

    # --- Resource --------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the file, made or migrated as needed. Raises StoreUnusable with the reason."""
        loop = asyncio.get_running_loop()
        self._connections = await asyncio.to_thread(self._connect)
        writer, reader = self._connections
        reading = Reading(
            reader,
            loop,
            self._clock,
            set_aside=self._set_aside,
            damaged=lambda: commit.fail("its file is damaged"),
            ring=self._ring,
        )
        commit = GroupCommit(writer, loop, released=reading.release, ring=self._ring)
        self._threads = (commit, reading)

    async def close(self) -> None:
        """Finish what is being written and close the file; whoever waits returns."""
        if self._threads is None:
            return
        commit, reading = self._threads
        await asyncio.to_thread(commit.close)
        self._threads = None
        await asyncio.to_thread(reading.close)
        await asyncio.to_thread(self._disconnect)
        self._ring(set(self._bells))

    def health(self) -> Health:
        """Whether messages can be stored."""
        if self._threads is None:
            return Health(False, "the store is not open")
        if self._threads[0].failure:
            return Health(False, self._threads[0].failure)
        if self._damaged:
            return Health(True, f"{self._damaged} damaged messages were set aside")
        return Health(True)

    # --- Store -----------------------------------------------------------------------------------

    async def put(
        self,
        channel: str,
        envelope: Envelope,
        *,
        due: float = 0.0,
        attempts: int = 0,
        failure: Failure | None = None,
    ) -> int:
        """See `Store.put`. Raises TooLarge beside what the protocol says."""
        content = record.encode(envelope)
        if len(content) > LARGEST:
            raise TooLarge("the message is larger than the store can hold")
        digest = record.digest(content)
        row = (channel, due, attempts, self._clock.time(), _pack(failure))

        def work(db: apsw.Connection, effects: Effects) -> int:
            self._take_room(db, len(content) + OVERHEAD)
            db.execute(
                "INSERT INTO message (channel, due, attempts, stored, failure)"
                " VALUES (?, ?, ?, ?, ?)",
                row,
            )
            key = db.last_insert_rowid()
            db.execute("INSERT INTO content VALUES (?, ?, ?)", (key, digest, content))
            effects.rung.add(channel)
            return key

        return await self._writes().submit(work)

    async def take(self, channel: str, limit: int) -> list[Stored]:
        """See `Store.take`."""
        return await self._reads().take(channel, limit)

    async def done(self, key: int, *, lying_in: str = "") -> bool:
        """See `Store.done`."""

        def work(db: apsw.Connection, effects: Effects) -> bool:
            db.execute(
                "DELETE FROM message WHERE key = ?1 AND (?2 = '' OR channel = ?2)", (key, lying_in)
            )
            if db.changes() == 0:
                return False
            effects.released.append(key)
            return True

        return await self._writes().submit(work)

    async def move(
        self,
        key: int,
        channel: str,
        *,
        due: float = 0.0,
        attempts: int = 0,
        failure: Failure | None = None,
        lying_in: str = "",
    ) -> bool:
        """See `Store.move`."""
        return await self._writes().submit(_moving(key, channel, due, attempts, failure, lying_in))

    async def wait(self, channel: str, timeout: float) -> None:
        """See `Store.wait`."""
        bell: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        bells = self._bells.setdefault(channel, set())
        bells.add(bell)  # before looking, so that what is put in between rings it
        try:
            due = await self._reads().next_due(channel)
            if due is not None:
                timeout = min(timeout, due - self._clock.time())
            if timeout > 0:
                await asyncio.wait((bell,), timeout=timeout)
        finally:
            bells.discard(bell)
            if not bells and self._bells.get(channel) is bells:
                del self._bells[channel]

    async def list(self, channel: str, *, limit: int = 100, after: int = 0) -> list[Stored]:
        """See `Store.list`."""
        return await self._reads().some(channel, limit, after)

    async def get(self, key: int) -> Stored | None:
        """See `Store.get`."""
        return await self._reads().get(key)

    async def counts(self) -> dict[str, int]:
        """See `Store.counts`."""
        return await self._reads().counts()

    # --- opening and closing, in a worker thread -------------------------------------------------

    def _connect(self) -> tuple[apsw.Connection, apsw.Connection]:
        if tuple(map(int, apsw.sqlite_lib_version().split("."))) < WAL_RESET_FIXED:
            raise StoreUnusable(
                f"SQLite {apsw.sqlite_lib_version()} can damage its log; 3.51.3 or newer is needed"
            )
        opened = contextlib.ExitStack()
        opened.callback(self._unclaim)
        try:
            self._claim()
            writer = apsw.Connection(str(self.path))
            opened.callback(writer.close)
            writer.set_busy_timeout(BUSY_MILLIS)
            for setting in ("journal_mode=WAL", "synchronous=FULL", "fullfsync=ON"):
                writer.execute(f"PRAGMA {setting}")
            writer.execute(f"PRAGMA journal_size_limit={64 * 1024**2}")
            self._migrate(writer)
            self._damaged = int(
                writer.execute("SELECT count(*) FROM message WHERE channel = ?", (DAMAGED,)).get
            )
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
            _sync_folder(folder.parent)
        lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(lock, 32).decode(errors="replace").strip()
            os.close(lock)
            raise StoreUnusable(
                f"the store {self.path} is in use by process {holder or 'unknown'}; "
                "two buses need two stores"
            ) from None
        os.truncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        self._lock = lock
        # Messages may be confidential, so the file is made for its owner alone.
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))

    def _unclaim(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _migrate(self, db: apsw.Connection) -> None:
        version = cast(int, db.pragma("user_version"))
        if version > len(MIGRATIONS):
            raise StoreUnusable(
                f"the store {self.path} has format {version}, made by a newer bus; "
                f"this one reads up to {len(MIGRATIONS)}"
            )
        for number, migration in enumerate(MIGRATIONS[version:], version + 1):
            with db:
                db.execute(migration)
                db.execute(f"PRAGMA user_version={number}")

    def _disconnect(self) -> None:
        # The writer last: the last connection writes the log back into the file.
        for connection in reversed(self._connections):
            with contextlib.suppress(apsw.Error):
                connection.close()
        self._unclaim()

    def _writes(self) -> GroupCommit:
        if self._threads is None:
            raise Transient("the store is not open")
        return self._threads[0]

    def _reads(self) -> Reading:
        if self._threads is None:
            raise Transient("the store is not open")
        return self._threads[1]

    # --- in the writing thread -------------------------------------------------------------------

    def _take_room(self, db: apsw.Connection, size: int) -> None:
        if self._room < size:
            pages = cast(int, db.pragma("page_count")) - cast(int, db.pragma("freelist_count"))
            self._room = self._max_size - pages * cast(int, db.pragma("page_size"))
            if self._room < size:
                self._room = 0
                raise Overloaded(FULL, retry_after=RETRY_AFTER)
        self._room -= size

    # --- in the reading thread -------------------------------------------------------------------

    def _set_aside(self, key: int, failure: Failure) -> None:
        self._damaged += 1
        with contextlib.suppress(Transient):  # closing: it is found again
            self._writes().post(
                _moving(key, DAMAGED, 0.0, failure.attempts, failure, failure.route)
            )

    # --- in the event loop -----------------------------------------------------------------------

    def _ring(self, channels: set[str]) -> None:
        for channel in channels:
            for bell in self._bells.get(channel, ()):
                if not bell.done():
                    bell.set_result(None)


def _moving(
    key: int, channel: str, due: float, attempts: int, failure: Failure | None, lying_in: str
) -> Work[bool]:
    row = (channel, due, attempts, _pack(failure), key, lying_in)

    def work(db: apsw.Connection, effects: Effects) -> bool:
        db.execute(
            "UPDATE message SET channel = ?, due = ?, attempts = ?, failure = ?"
            " WHERE key = ? AND (?6 = '' OR channel = ?6)",
            row,
        )
        if db.changes() == 0:
            return False
        effects.released.append(key)
        effects.rung.add(channel)
        return True

    return work


def _pack(failure: Failure | None) -> bytes | None:
    if failure is None:
        return None
    try:
        return msgspec.msgpack.encode(failure)
    except UnicodeEncodeError:
        # A reason may quote what was wrong with a message, and must not itself be what is wrong.
        detail = failure.detail.encode(errors="backslashreplace").decode()
        return msgspec.msgpack.encode(msgspec.structs.replace(failure, detail=detail))


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
