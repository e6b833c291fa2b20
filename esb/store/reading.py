"""The reading thread: what lies in the store, and who holds what of it.

One thread does it all, so that nothing here needs a lock: a message is set free only between two
takes. A take that sees it in an older snapshot of the file therefore still finds it held.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, Final, TypeVar, cast

import apsw
import msgspec
import structlog

from esb.adapter import Failure, Stored
from esb.clock import Clock
from esb.envelope import Body, Envelope
from esb.errors import Transient
from esb.store import record

T = TypeVar("T")
log = structlog.get_logger("esb.store")

DAMAGED: Final = "damaged"
"""The channel where messages lie that are not what was stored; they are never delivered."""

_ROW = (
    "SELECT m.key, channel, due, attempts, stored, failure, digest, content"
    " FROM message m LEFT JOIN content c ON c.key = m.key WHERE "
)
_ONE = _ROW + "m.key = ?"
_AFTER = "SELECT key FROM message WHERE channel = ? AND key > ? ORDER BY key LIMIT ?"
_SOME = f"{_ROW} m.key IN ({_AFTER}) ORDER BY m.key"
_TURNS = "SELECT key, due FROM message WHERE channel = ? AND "
# Two index ranges in the place of one sort over everything that waits.
_NOW = _TURNS + "due <= 0 ORDER BY key"
_LATER = _TURNS + "due > 0 AND due <= ? ORDER BY due, key"


class Reading:
    """Reads with `connection`, which nobody else uses from now on.

    set_aside: moves a damaged message away, and tells whom it concerns.
    damaged: told when the file itself cannot be read.
    ring: called in the event loop with channels where something may be due.
    """

    def __init__(
        self,
        connection: apsw.Connection,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        *,
        set_aside: Callable[[int, Failure], None],
        damaged: Callable[[], None],
        ring: Callable[[set[str]], None],
    ) -> None:
        self._db = connection
        self._loop = loop
        self._clock = clock
        self._set_aside = set_aside
        self._file_damaged = damaged
        self._ring = ring
        self._held: set[int] = set()
        self._bad: set[int] = set()
        self._thread = ThreadPoolExecutor(1, "esb-store-read")

    def close(self) -> None:
        """Finish what is being read. Blocks."""
        self._thread.shutdown()

    def release(self, keys: Iterable[int]) -> None:
        """From any thread: nobody holds these any more."""
        with contextlib.suppress(RuntimeError):  # closed: nothing is held any more
            self._thread.submit(self._held.difference_update, keys)

    async def take(self, channel: str, limit: int) -> list[Stored]:
        """Up to `limit` due messages, held from now on; those put off come first, being older."""
        taking = self._thread.submit(self._take, channel, limit)
        try:
            return await self._told(taking)
        except asyncio.CancelledError:
            # Nobody will ever see what was or will be taken, so it must not stay held.
            taking.add_done_callback(self._untake)
            raise

    async def next_due(self, channel: str) -> float | None:
        """When the next free message of a channel is due (0: it is), None if there is none."""
        return await self._told(self._thread.submit(self._next_due, channel))

    async def get(self, key: int) -> Stored | None:
        """One message."""
        found = await self._told(self._thread.submit(self._read, _ONE, (key,)))
        return found[0] if found else None

    async def some(self, channel: str, limit: int, after: int) -> list[Stored]:
        """Messages of a channel by key."""
        return await self._told(self._thread.submit(self._read, _SOME, (channel, after, limit)))

    async def counts(self) -> dict[str, int]:
        """Messages by channel."""
        return await self._told(self._thread.submit(self._counts))

    # --- in the thread ---------------------------------------------------------------------------

    def _take(self, channel: str, limit: int) -> list[Stored]:
        keys = self._free(_LATER, (channel, self._clock.time()), limit)
        if len(keys) < limit:
            keys += self._free(_NOW, (channel,), limit - len(keys))
        taken: list[Stored] = []
        for key, _ in keys:
            self._held.add(key)
            taken += self._read(_ONE, (key,))  # or nothing, if it was dropped a moment ago
        return taken

    def _next_due(self, channel: str) -> float | None:
        found = self._free(_NOW, (channel,), 1) or self._free(_LATER, (channel, 1e300), 1)
        return found[0][1] if found else None

    def _free(self, sql: str, values: tuple[Any, ...], limit: int) -> list[tuple[int, float]]:
        found: list[tuple[int, float]] = []
        rows = self._db.execute(sql, values)
        try:
            for key, due in rows:
                if key not in self._held and key not in self._bad:
                    found.append((cast(int, key), cast(float, due)))
                    if len(found) == limit:
                        break
        finally:
            rows.close(True)  # an open cursor would keep the log from being written back
        return found

    def _counts(self) -> dict[str, int]:
        rows = self._db.execute("SELECT channel, count(*) FROM message GROUP BY channel")
        return {cast(str, channel): cast(int, count) for channel, count in rows}

    def _read(self, sql: str, values: tuple[Any, ...]) -> list[Stored]:
        found: list[Stored] = []
        for row in self._db.execute(sql, values).fetchall():
            key, channel, due, attempts, stored, failure, digest, content = cast(Any, row)
            try:
                envelope = (
                    _remains(key, stored, content)
                    if channel == DAMAGED
                    else _verified(content, digest)
                )
            except record.Damaged as e:
                if key in self._bad:
                    continue  # it is on its way
                self._bad.add(key)
                log.error("a stored message is damaged and is set aside", key=key, channel=channel)
                when = datetime.fromtimestamp(self._clock.time(), UTC)
                detail = f"the stored message is damaged: {e}"
                self._set_aside(key, Failure("damaged", detail, channel, "", attempts, when))
                continue
            cause = msgspec.msgpack.decode(failure, type=Failure) if failure else None
            found.append(Stored(key, channel, envelope, attempts, due, stored, cause))
        return found

    # --- between the threads ---------------------------------------------------------------------

    def _untake(self, taking: Future[list[Stored]]) -> None:
        if taking.cancelled() or taking.exception() is not None:
            return
        taken = taking.result()
        self.release([stored.key for stored in taken])
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._ring, {stored.channel for stored in taken})

    async def _told(self, reading: Future[T]) -> T:
        try:
            return await asyncio.wrap_future(reading)
        except (apsw.CorruptError, apsw.NotADBError) as e:
            self._file_damaged()
            raise Transient("the store's file is damaged") from e
        except apsw.Error as e:
            log.warning("the store could not be read", error=str(e))
            raise Transient("the store cannot be read") from e


def _verified(content: bytes | None, digest: bytes | None) -> Envelope:
    if content is None or record.digest(content) != digest:
        raise record.Damaged("its checksum does not match")
    return record.decode(content)


def _remains(key: int, stored: float, content: bytes | None) -> Envelope:
    """What an operator is shown of a damaged message: its bytes as they lie there."""
    return Envelope(
        id=f"damaged-{key}",
        type="damaged",
        time=datetime.fromtimestamp(stored, UTC),
        body=Body(content or b"", "application/octet-stream"),
    )
