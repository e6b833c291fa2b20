"""The reading thread: what lies in the store, verified against its checksums."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar, cast

import apsw
import structlog

from esb import record
from esb.clock import Clock
from esb.durable import DEAD, Entry, Failure, Receipt, Stored
from esb.errors import Unavailable
from esb.store.rows import ROW, damage, next_due, stored, used

T = TypeVar("T")
log = structlog.get_logger("esb.store")

_ONE = ROW + "m.key = ?"
_OF_CHANNEL = "SELECT key FROM message WHERE channel = ? AND key > ? ORDER BY key LIMIT ?"
# Dead letters are in nobody's hand, so that the index of turns has them by key.
_DEAD = (
    "SELECT key FROM message WHERE channel = ? AND hold = 0 AND blocked = 0"
    " AND priority = 0 AND due = 0 AND key > ? ORDER BY key LIMIT ?"
)
_OF_GROUP = (
    "SELECT key FROM message WHERE channel = ? AND grp = ? AND grp <> '' AND key > ?"
    " ORDER BY key LIMIT ?"
)
_ENTRIES = "SELECT key, id, grp, stored FROM message {} WHERE channel = ? AND grp <> '' AND key > ?"
# All of a channel by its own index; what is new by key, since that is at the end of the table.
_ALL_ENTRIES = _ENTRIES.format("INDEXED BY message_by_group") + " ORDER BY key LIMIT ?"
_NEW_ENTRIES = _ENTRIES.format("NOT INDEXED") + " ORDER BY key LIMIT ?"
_BY_NAME = (
    "SELECT key FROM message WHERE id = ?1"
    " UNION SELECT key FROM message WHERE business_key = ?1 AND business_key <> ''"
    " ORDER BY key LIMIT ?2"
)
_RECEIPTS = (
    "SELECT id, route, outcome, business_key, principal, finished FROM receipt WHERE rowid IN ("
    "SELECT rowid FROM receipt WHERE id = ?1"
    " UNION SELECT rowid FROM receipt WHERE business_key = ?1 AND business_key <> '')"
    " ORDER BY finished LIMIT ?2"
)


class Reading:
    """Reads with `connection`, which nobody else uses from now on.

    set_aside: moves a damaged message away, and tells whom it concerns.
    damaged: told when the file itself cannot be read.
    """

    def __init__(
        self,
        connection: apsw.Connection,
        clock: Clock,
        *,
        set_aside: Callable[[int, Failure], None],
        damaged: Callable[[], None],
    ) -> None:
        self._db = connection
        self._clock = clock
        self._set_aside = set_aside
        self._file_damaged = damaged
        self._bad: set[int] = set()
        self._thread = ThreadPoolExecutor(1, "esb-store-read")

    def close(self) -> None:
        """Finish what is being read. Blocks."""
        self._thread.shutdown()

    async def taken(self, keys: Sequence[int]) -> list[Stored]:
        """Messages by their keys, in that order; one that is damaged is set aside instead."""
        return await self._told(self._thread.submit(self._each, keys))

    async def next_due(self, channel: str) -> float | None:
        """When the next free message of a channel is due (0: it is), None if there is none."""
        return await self._told(self._thread.submit(next_due, self._db, channel))

    async def get(self, key: int) -> Stored | None:
        """One message."""
        found = await self._told(self._thread.submit(self._read, key))
        return found[0] if found else None

    async def some(self, channel: str, limit: int, after: int, group: str) -> list[Stored]:
        """Messages of a channel, or of a group there, by key."""
        if group:
            of_group = (channel, group, after, limit)
            return await self._told(self._thread.submit(self._those, _OF_GROUP, of_group))
        if channel == DEAD:
            return await self._told(self._thread.submit(self._those, _DEAD, (DEAD, after, limit)))
        values = (channel, after, limit)
        return await self._told(self._thread.submit(self._those, _OF_CHANNEL, values))

    async def entries(self, channel: str, limit: int, after: int) -> list[Entry]:
        """What is known of messages of a channel that have a group, by key."""
        return await self._told(self._thread.submit(self._entries, channel, limit, after))

    async def find(self, text: str, limit: int) -> tuple[list[Stored], list[Receipt]]:
        """Messages and receipts by id or business key."""
        return await self._told(self._thread.submit(self._find, text, limit))

    async def used(self) -> int:
        """Bytes of the file that are in use."""
        return await self._told(self._thread.submit(used, self._db))

    async def subscriptions(self, topic: str) -> list[tuple[str, str]]:
        """Those of a topic, or all."""
        return await self._told(self._thread.submit(self._subscriptions, topic))

    # --- in the thread ---------------------------------------------------------------------------

    def _each(self, keys: Sequence[int]) -> list[Stored]:
        return [stored for key in keys for stored in self._read(key)]

    def _those(self, sql: str, values: tuple[Any, ...]) -> list[Stored]:
        return self._each([cast(int, key) for (key,) in self._db.execute(sql, values).fetchall()])

    def _entries(self, channel: str, limit: int, after: int) -> list[Entry]:
        sql = _NEW_ENTRIES if after else _ALL_ENTRIES
        rows = self._db.execute(sql, (channel, after, limit)).fetchall()
        return [Entry(*row) for row in cast(Any, rows)]

    def _find(self, text: str, limit: int) -> tuple[list[Stored], list[Receipt]]:
        lying = self._those(_BY_NAME, (text, limit))
        # Looked for afterwards: what is through in between is told twice, not hidden.
        rows = self._db.execute(_RECEIPTS, (text, limit)).fetchall()
        return lying, [Receipt(*row) for row in cast(Any, rows)]

    def _subscriptions(self, topic: str) -> list[tuple[str, str]]:
        rows = self._db.execute(
            "SELECT topic, name FROM subscription WHERE ?1 = '' OR topic = ?1", (topic,)
        )
        return cast(list[tuple[str, str]], rows.fetchall())

    def _read(self, key: int) -> list[Stored]:
        row = self._db.execute(_ONE, (key,)).fetchall()
        if not row:
            return []  # it was dropped a moment ago
        try:
            return [stored(row[0])]
        except record.Damaged as e:
            if key not in self._bad:  # else it is on its way
                self._bad.add(key)
                _, channel, _, attempts, *_ = cast(Any, row[0])
                log.error("a stored message is damaged and is set aside", key=key, channel=channel)
                self._set_aside(key, damage(channel, attempts, self._clock.time(), e))
            return []

    async def _told(self, reading: Future[T]) -> T:
        try:
            return await asyncio.wrap_future(reading)
        except (apsw.CorruptError, apsw.NotADBError) as e:
            self._file_damaged()
            raise Unavailable("the store's file is damaged") from e
        except apsw.Error as e:
            log.warning("the store could not be read", error=str(e))
            raise Unavailable("the store cannot be read") from e


class ReadsFile(ABC):
    """What stores have in common that read the file, whoever writes it."""

    async def subscriptions(self, topic: str = "") -> list[tuple[str, str]]:
        """See `Store.subscriptions`."""
        return await self._reads().subscriptions(topic)

    async def browse(
        self, channel: str, *, limit: int = 100, after: int = 0, group: str = ""
    ) -> list[Stored]:
        """See `Store.browse`."""
        return await self._reads().some(channel, limit, after, group)

    async def entries(self, channel: str, *, limit: int, after: int = 0) -> list[Entry]:
        """See `Store.entries`."""
        return await self._reads().entries(channel, limit, after)

    async def get(self, key: int) -> Stored | None:
        """See `Store.get`."""
        return await self._reads().get(key)

    async def find(self, text: str, *, limit: int = 100) -> tuple[list[Stored], list[Receipt]]:
        """See `Store.find`."""
        return await self._reads().find(text, limit)

    @abstractmethod
    def _reads(self) -> Reading:
        """The reading thread. Raises Unavailable when the store is not open."""
