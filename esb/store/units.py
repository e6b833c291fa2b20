"""Group commit on PostgreSQL: the changes of many callers are one call of `make`, and one fsync.

While one group is being committed the next gathers. When a group fails, its halves are tried, and
theirs, so that only those units fail that are to blame.

A connection that is lost while a commit is under way leaves it in doubt. Each has a number, and
`made` tells whether it happened: nothing is answered before that is known.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from time import monotonic
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid4

import asyncpg
import structlog

from esb import record
from esb.clock import Clock
from esb.durable import Change, Confirm, Done, Move, Publish, Put, Release, Superseded
from esb.errors import EsbError, Overloaded, RouteFailure, TooLarge, Unavailable
from esb.store.rows import pack
from esb.store.writing import FULL, OVERHEAD, RETRY_AFTER

if TYPE_CHECKING:
    Pool = asyncpg.Pool[asyncpg.Record]

log = structlog.get_logger("esb.store")

MOST_AT_ONCE: Final = 500
MOST_BYTES: Final = 16 * 1024**2
LARGEST: Final = 256 * 1024**2  # what a statement holds is below 1 GB, on both sides
CONNECT_TIMEOUT: Final = 5.0
DOUBT: Final = 20.0
"""Seconds within which a commit in doubt must be cleared up."""

SUPERSEDED: Final = "ESB01"  # the error codes of postgres_1.sql
TAKEN_FOR_DEAD: Final = "ESB02"
DISK_FULL: Final = "53100"  # and those of PostgreSQL (its documentation, appendix A)
TOO_MUCH: Final = frozenset({"53200", "54000"})
MAY_PASS: Final = frozenset({"25", "28", "3D", "40", "42", "53", "55", "57", "58", "F0", "XX"})
"""Classes of errors that are the database's, and no message's."""

_MAKE = "SELECT * FROM make($1, $2, $3, $4, $5, $6, $7, $8, $9)"
_MADE = "SELECT * FROM made($1)"


@dataclass(slots=True)
class Unit:
    """Changes as rows of the types in postgres_1.sql."""

    puts: list[tuple[Any, ...]] = field(default_factory=list)
    published: list[tuple[Any, ...]] = field(default_factory=list)
    settled: list[tuple[Any, ...]] = field(default_factory=list)
    receipts: list[tuple[Any, ...]] = field(default_factory=list)
    confirmed: list[tuple[Any, ...]] = field(default_factory=list)
    released: list[tuple[Any, ...]] = field(default_factory=list)
    rung: set[str] = field(default_factory=set)
    size: int = 0

    @classmethod
    def of(cls, changes: Sequence[Change], now: float) -> Unit:
        """The rows of prepared changes. Raises TooLarge."""
        unit = cls()
        for change in changes:
            unit._add(change, now)
        if unit.size > LARGEST:
            raise TooLarge("the messages are together larger than the store can hold")
        return unit

    def _add(self, change: Change, now: float) -> None:
        match change:
            case Put():
                self.puts.append(self._put(change, change.channel, change.attempts, change.failure))
                self.rung.add(change.channel)
            case Publish():
                self.published.append(self._put(change, change.topic, 0, None))
            case Done(receipt=r):
                self.settled.append((change.key, change.hold, change.lying_in, None, 0.0, 0, None))
                if r is not None:
                    names = (r.id, r.route, r.outcome, r.business_key, r.principal)
                    self.receipts.append((*map(_text, names), now))
            case Move():
                due = max(change.due, 0.0)
                row = (change.key, change.hold, change.lying_in, change.channel, due)
                self.settled.append((*row, change.attempts, pack(change.failure)))
                self.rung.add(change.channel)
            case Confirm():
                answer = change.written or None
                digest = record.digest(answer) if answer else None
                self.size += len(answer) + OVERHEAD if answer else 0
                what = (change.scope, indexed(change.value), change.until)
                self.confirmed.append((*what, digest, answer))
            case Release():
                self.released.append((change.scope, indexed(change.value), change.done))

    def _put(
        self, put: Put | Publish, channel: str, attempts: int, failure: Any
    ) -> tuple[Any, ...]:
        if isinstance(put, Publish) or not put.instead:
            self.size += len(put.written) + OVERHEAD
        envelope = put.envelope
        return (
            channel, max(put.due, 0.0), attempts, pack(failure), put.priority, put.expires,
            indexed(put.group), _text(envelope.id), _text(envelope.business_key),
            record.digest(put.written), put.written,
        )  # fmt: skip


Group = list[tuple[Unit, asyncio.Future[list[int]]]]


class Units:
    """Commits units on connections of `pool`.

    me: the holder that claims belong to. room: sees to it that so many bytes may be added to so
        many that are on their way, or raises Overloaded. told: called with a unit that was made and
        the channels where something may be due.
    """

    def __init__(
        self,
        pool: Pool,
        clock: Clock,
        *,
        me: Callable[[], int],
        room: Callable[[int, int], Awaitable[None]],
        told: Callable[[Unit, set[str]], None],
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._me = me
        self._room = room
        self._told = told
        self._pending: deque[tuple[Unit, asyncio.Future[list[int]]]] = deque()
        self._some = asyncio.Event()
        self._closing = False
        self._task = asyncio.create_task(self._run(), name="esb store: commits")

    def submit(self, unit: Unit) -> asyncio.Future[list[int]]:
        """The keys of what was put, once the unit is on the disk. It fails with Superseded,
        Overloaded, RouteFailure, or Transient when nothing can be written."""
        if self._closing:
            raise Unavailable("the store is closed")
        future: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self._pending.append((unit, future))
        self._some.set()
        return future

    async def close(self) -> None:
        """Commit what is pending."""
        self._closing = True
        self._some.set()
        await self._task

    async def _run(self) -> None:
        while not (self._closing and not self._pending):
            if not self._pending:
                self._some.clear()
                await self._some.wait()
                continue
            await self._commit(await self._admitted(self._next()))
            # Those that were just told shall be in the next group, and not in the one after it.
            await asyncio.sleep(0)

    def _next(self) -> Group:
        group = [self._pending.popleft()]
        size = group[0][0].size
        while self._pending and len(group) < MOST_AT_ONCE:
            size += self._pending[0][0].size
            if size > MOST_BYTES:
                break
            group.append(self._pending.popleft())
        return group

    async def _admitted(self, group: Group) -> Group:
        """Those for which there is room."""
        admitted = []
        together = 0
        for unit, future in group:
            try:
                if unit.size:
                    await self._room(unit.size, together)
                    together += unit.size
                admitted.append((unit, future))
            except EsbError as e:
                _fail(future, e)
        return admitted

    async def _commit(self, group: Group) -> None:
        if not group:
            return
        try:
            row = await self._make([unit for unit, _ in group])
        except Exception as e:  # noqa: BLE001 - whatever one unit does, the others go on
            if isinstance(e, EsbError) or len(group) == 1:
                for _, future in group:
                    _fail(future, e if isinstance(e, EsbError) else translated(e))
            else:
                half = len(group) // 2
                await self._commit(group[:half])
                await self._commit(group[half:])
        else:
            keys = iter(row["keys"] or ())
            rung = set(row["rung"] or ())
            for unit, future in group:
                own = [next(keys) for _ in unit.puts]
                self._told(unit, rung | unit.rung)
                if not future.done():
                    future.set_result(own)

    async def _make(self, units: list[Unit]) -> asyncpg.Record:
        number = uuid4()
        lists = [
            [row for unit in units for row in getattr(unit, name)]
            for name in ("puts", "published", "settled", "receipts", "confirmed", "released")
        ]
        sent = False
        try:
            async with self._pool.acquire(timeout=CONNECT_TIMEOUT) as connection:
                sent = True
                made = await connection.fetchrow(
                    _MAKE, self._me(), number, self._clock.time(), *lists
                )
                assert made is not None
                return made
        except Exception as e:
            if not is_lost(e):
                raise
            if not sent:
                raise unreachable(e) from e
            log.warning("the connection was lost during a commit", error=str(e) or repr(e))
            happened = await self._happened(number)
            if happened is None:
                raise unreachable(e) from e
            return happened

    async def _happened(self, number: UUID) -> asyncpg.Record | None:
        """What a commit returned whose answer was lost; None if it never happened, and never will.

        Raises Transient if the database does not say: then the messages may be stored, and who
        sends them again sends them twice.
        """
        end = monotonic() + DOUBT
        pause = 0.05
        while True:
            try:
                async with self._pool.acquire(timeout=CONNECT_TIMEOUT) as connection:
                    made = await connection.fetchrow(_MADE, number)
                assert made is not None
                return made if made["happened"] else None
            except Exception as e:
                if not is_lost(e) or monotonic() > end:
                    raise unreachable(e).noted(
                        "the connection was lost during a commit: it may have been made"
                    ) from e
            await asyncio.sleep(pause)
            pause = min(2 * pause, 1.0)


def is_lost(error: Exception) -> bool:
    """Whether it says that there is no connection, and nothing of what became of the statement."""
    if isinstance(error, asyncpg.PostgresError):
        # Class 08, and a server that shuts down (57P01), crashed (57P02) or starts (57P03).
        return (error.sqlstate or "08").startswith(("08", "57P"))
    if isinstance(error, ValueError):
        return False  # of asyncpg's own errors, those that blame an argument
    return isinstance(
        error, OSError | TimeoutError | asyncpg.InterfaceError | asyncpg.InternalClientError
    )


def unreachable(cause: Exception) -> Unavailable:
    """The error of a store that does not answer."""
    return Unavailable("the store does not answer").noted(str(cause) or repr(cause))


def translated(cause: Exception) -> EsbError:
    """What an error of the database means to those who use the store."""
    if is_lost(cause):
        return unreachable(cause)
    state = (cause.sqlstate or "") if isinstance(cause, asyncpg.PostgresError) else ""
    if state == SUPERSEDED:
        return Superseded(str(cause))
    if state == DISK_FULL:
        return Overloaded(FULL, retry_after=RETRY_AFTER)
    if state in TOO_MUCH:
        return TooLarge("the message is larger than the store can hold")
    if state[:2] in MAY_PASS:
        log.warning("the store could not be used", error=str(cause))
        return Unavailable("the store cannot be used").noted(str(cause))
    log.error("the store failed to write a message", exc_info=cause)
    return RouteFailure("the message cannot be stored")


def indexed(text: str) -> str:
    """A text that an index can hold (they end at 2.7 KB): itself, or what stands for it."""
    if len(text) <= 500 and "\0" not in text:
        return text
    return f"{_text(text[:100])}...{blake2b(text.encode(), digest_size=16).hexdigest()}"


def _text(text: str) -> str:
    return text.replace("\0", "\ufffd")  # PostgreSQL has no such character


def _fail(future: asyncio.Future[list[int]], error: EsbError) -> None:
    if not future.done():
        with contextlib.suppress(asyncio.InvalidStateError):
            future.set_exception(error)
