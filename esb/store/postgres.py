"""The shared store: a PostgreSQL database for any number of bus processes.

Each process is a holder with a lease on the database's clock. What a process has in hand when its
lease runs out is free for the others, and a number that no two takes share keeps the late one from
settling it: its commits are Superseded. All that changes anything is a function in postgres_1.sql,
called once, so that no transaction outlasts a call and a stopped process locks nothing.

Whoever waits is woken by NOTIFY, gathered for a moment and sent only if there are others; each
heartbeat looks besides, should one get lost. The sessions are the store's own (LISTEN, prepared
statements, settings): connect to the server, not to a PgBouncer that shares sessions out.
https://www.postgresql.org/docs/current/sql-notify.html
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any, Final, cast
from urllib.parse import urlsplit

import asyncpg
import structlog

from esb import record
from esb.adapter import Health
from esb.clock import REAL, Clock
from esb.durable import (
    DEAD,
    KEPT,
    MOST_CRASHES,
    Change,
    Claim,
    Done,
    Entry,
    Failure,
    Move,
    Receipt,
    Store,
    Stored,
    Superseded,
    Usage,
    subscription,
)
from esb.errors import EsbError, Overloaded, Unavailable
from esb.metrics import buried
from esb.store.files import StoreUnusable
from esb.store.room import Room
from esb.store.rows import DAMAGED, prepared, remains, unpack, verified
from esb.store.units import (
    CONNECT_TIMEOUT,
    LARGEST,
    TAKEN_FOR_DEAD,
    Unit,
    Units,
    indexed,
    is_lost,
    translated,
    unreachable,
)
from esb.store.writing import FULL, OVERHEAD, RETRY_AFTER

log = structlog.get_logger("esb.store")

BEAT: Final = 2.0
BEAT_IN_TROUBLE: Final = 0.5
TIDY_EVERY: Final = 60.0
TELL_AFTER: Final = 0.02
WAIT_FOR_SERVER: Final = 30.0
COMMAND_TIMEOUT: Final = 30.0
KEEP_GIVING_BACK: Final = 60.0
READERS: Final = 4
LATE: Final = 5.0
"""Seconds after which a commit that has begun is seen by everybody."""
OLDEST: Final = 130000
SUSPECT: Final = MOST_CRASHES - 1

MIGRATIONS: Final = (Path(__file__).with_name("postgres_1.sql").read_text(),)
"""Each brings the database from the format before to the next; the table `format` counts them.
Never change one that was released: add another."""

_ENTRIES = (
    "(SELECT key, id, grp, stored FROM message WHERE channel = $1 AND grp <> ''"
    "  AND key > $2 ORDER BY key LIMIT $3)"
    " UNION ALL (SELECT key, id, grp, stored FROM message WHERE channel = $1 AND grp <> ''"
    "  AND key <= $2 AND key >= (SELECT min(keys[1]) FROM unit"
    "   WHERE at > now() - make_interval(secs => $4)))"
    " ORDER BY key"
)
_LOCK = 0x657362  # of migrations
_SETTINGS = {
    "application_name": "esb",
    "search_path": "esb",
    "default_transaction_isolation": "read committed",
    # What waits changes faster than its statistics, and every statement has its index.
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}


class PostgresStore(Store):
    """`esb.durable.Store` in the schema `esb` of a database, and a Resource: open it before use.

    url: postgresql://user:password@host:port/database, also with several hosts (libpq's form).
    max_size: bytes that messages may take up; beyond it `commit` raises Overloaded, while what is
        there can still be moved and forgotten.
    receipts: seconds that receipts are kept.
    lease: seconds after which a process that is not heard of counts as dead.
    """

    def __init__(
        self,
        url: str,
        *,
        max_size: int = 10 * 1024**3,
        receipts: float = 7 * 86400.0,
        lease: float = 15.0,
        clock: Clock = REAL,
    ) -> None:
        self._url = url
        self._max_size = max_size
        self._receipts = receipts
        self._lease = lease
        self._clock = clock
        self._me = 0
        self._takes = 0
        self._room = 0
        self._full = Room(max_size)
        self._damaged = 0
        self._others = 0
        self._trouble = "the store is not open"
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._writer: asyncpg.Pool[asyncpg.Record] | None = None
        self._listener: asyncpg.Connection[asyncpg.Record] | None = None
        self._units: Units | None = None
        self._bells: dict[str, set[asyncio.Future[None]]] = {}
        self._turned_away: set[str] = set()
        self._to_tell: set[str] = set()
        self._to_give_back: dict[int, float] = {}
        self._asking: set[asyncio.Future[list[asyncpg.Record]]] = set()
        self._hurry = asyncio.Event()
        self._entering = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    # --- Resource --------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect, and make or migrate the tables as needed. A server that is away is waited for.
        Raises StoreUnusable with the reason."""
        try:
            connection = await self._first_connection()
            try:
                await self._check(connection)
                await self._migrate(connection)
            finally:
                await connection.close()
            self._pool, self._writer = [
                await asyncpg.create_pool(
                    min_size=0, max_size=size, reset=_nothing, **self._connecting()
                )
                for size in (READERS, 1)
            ]
            await self._listen()
            await self._enter()
            await self._beat()
            self._damaged = (await self.counts()).get(DAMAGED, 0)
        except BaseException as e:
            await self._disconnect()
            if isinstance(e, asyncpg.PostgresError | asyncpg.InterfaceError | OSError | ValueError):
                raise StoreUnusable(f"the store {self.where} cannot be opened: {e}") from e
            raise
        self._units = Units(
            self._writer, self._clock, me=lambda: self._me, room=self._take_room, told=self._told
        )
        self._trouble = ""
        self._background(self._for_ever(self._live, self._until_next_beat))
        self._background(self._for_ever(self._tidy, lambda: asyncio.sleep(TIDY_EVERY)))

    async def close(self) -> None:
        """Finish what is being written and disconnect; whoever waits returns."""
        if self._units is None:
            return
        units, self._units = self._units, None
        await units.close()
        if self._asking:
            await asyncio.wait(self._asking, timeout=CONNECT_TIMEOUT)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(EsbError):  # else the lease ends by itself
            await self._give_all_back()  # before it counts as what a dead process had
            [[channels]] = await self._fetch("SELECT bury($1)", self._me)
            await self._fetch("SELECT pg_notify('esb', $1)", self._news(set(channels)))
        self._trouble = "the store is not open"
        await self._disconnect()
        self._ring(set(self._bells))

    def health(self) -> Health:
        """Whether messages can be stored."""
        if self._trouble:
            return Health(False, self._trouble)
        if self._full.health.detail:
            return self._full.health
        if self._damaged:
            return Health(True, f"{self._damaged} damaged messages were set aside")
        return Health(True)

    # --- Store -----------------------------------------------------------------------------------

    def prepare(self, change: Change) -> Change:
        """See `Store.prepare`."""
        return prepared(change, LARGEST)

    async def commit(self, changes: Sequence[Change]) -> list[int]:
        """See `Store.commit`. A Transient with the note that the commit may have been made is the
        one case where something may be stored all the same: the database was lost in the middle of
        it and did not come back in time."""
        unit = Unit.of([self.prepare(change) for change in changes], self._clock.time())
        if self._units is None:
            raise Unavailable("the store is not open")
        return await self._units.submit(unit)

    async def take(
        self, channel: str, limit: int, *, in_order: bool = False, wait: float = 0.0
    ) -> list[Stored]:
        """See `Store.take`."""
        end = monotonic() + wait
        while not (taken := await self._take(channel, limit, in_order)):
            left = end - monotonic()
            if left <= 0:
                break
            await self.wait(channel, left)
        return taken

    async def _take(self, channel: str, limit: int, in_order: bool) -> list[Stored]:
        while True:
            number, rows = await self._numbered(
                "SELECT * FROM take($1, $2, $3, $4, $5, $6, $7)",
                *(channel, limit, in_order, SUSPECT, self._clock.time()),
            )
            if rows and rows[0]["key"] is None:
                self._turned_away.add(channel)
                return []
            try:
                if (taken := await self._sorted_out(rows)) or not rows:
                    return taken
            except BaseException:
                self._give_back(number)
                raise

    async def wait(self, channel: str, timeout: float, *, news: bool = False) -> None:
        """See `Store.wait`. Something that is due is taken for news at each heartbeat."""
        bell: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        bells = self._bells.setdefault(channel, set())
        bells.add(bell)  # before looking, so that what is put in between rings it
        try:
            due = None if news else (await self._fetch("SELECT next_due($1)", channel))[0][0]
            if due is not None and channel not in self._turned_away:
                timeout = min(timeout, due - self._clock.time())
            if timeout > 0:
                await asyncio.wait((bell,), timeout=timeout)
        finally:
            bells.discard(bell)
            if not bells and self._bells.get(channel) is bells:
                del self._bells[channel]

    async def claim(self, scope: str, value: str, until: float) -> Claim:
        """See `Store.claim`."""
        await self._take_room(OVERHEAD)
        _, [row] = await self._numbered(
            "SELECT * FROM claim($1, $2, $3, $4, $5, $6)",
            *(scope, indexed(value), until, self._clock.time()),
        )
        answer = None
        if row["answer"] is not None:
            if record.digest(row["answer"]) != row["digest"]:
                raise Unavailable("the answer that was given before is damaged")
            answer = record.decode(row["answer"])
        return Claim(row["answer_state"], row["crashes"], answer)

    async def subscribe(self, topic: str, name: str) -> None:
        """See `Store.subscribe`."""
        await self._fetch(
            "INSERT INTO subscription VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            *(topic, name, subscription(topic, name)),
        )

    async def unsubscribe(self, topic: str, name: str) -> bool:
        """See `Store.unsubscribe`."""
        gone = await self._fetch(
            "WITH ended AS ("
            " DELETE FROM subscription WHERE topic = $1 AND name = $2 RETURNING channel"
            "), gone AS ("
            " DELETE FROM message m USING ended WHERE m.channel = ended.channel RETURNING m.key"
            "), freed AS (DELETE FROM hold h USING gone WHERE h.key = gone.key)"
            " SELECT channel FROM ended",
            *(topic, name),
        )
        return bool(gone)

    async def subscriptions(self, topic: str = "") -> list[tuple[str, str]]:
        """See `Store.subscriptions`."""
        rows = await self._fetch(
            "SELECT topic, name FROM subscription WHERE $1 IN ('', topic) ORDER BY topic, name",
            topic,
        )
        return [(topic, name) for topic, name in rows]

    async def browse(
        self, channel: str, *, limit: int = 100, after: int = 0, group: str = ""
    ) -> list[Stored]:
        """See `Store.browse`."""
        which, values = "", [channel, after, limit]
        if group:
            which = "AND m.grp = $4 AND m.grp <> ''"
            values.append(indexed(group))
        elif channel == DEAD:
            # Dead letters all lie on one level, where the index of turns has them by key.
            which = "AND NOT m.blocked AND m.priority = 0 AND m.due = 0"
        rows = await self._fetch(
            "SELECT * FROM lying WHERE key IN (SELECT m.key FROM message m"  # noqa: S608
            f" WHERE m.channel = $1 {which} AND m.key > $2 ORDER BY m.key LIMIT $3) ORDER BY key",
            *values,
        )
        return [stored for row in rows for stored in self._read(row)]

    async def entries(self, channel: str, *, limit: int, after: int = 0) -> list[Entry]:
        """See `Store.entries`."""
        late = LATE if self._others else 0.0
        rows = await self._fetch(_ENTRIES, channel, after, limit, late)
        return [Entry(*row) for row in rows]

    async def get(self, key: int) -> Stored | None:
        """See `Store.get`."""
        for row in await self._fetch("SELECT * FROM lying WHERE key = $1", key):
            for stored in self._read(row):
                return stored
        return None

    async def find(self, text: str, *, limit: int = 100) -> tuple[list[Stored], list[Receipt]]:
        """See `Store.find`."""
        named = (
            "(left(id, 500) = left($1, 500) AND id = $1) OR"
            " (business_key <> '' AND left(business_key, 500) = left($1, 500)"
            " AND business_key = $1)"
        )
        rows = await self._fetch(
            "SELECT * FROM lying WHERE key IN"  # noqa: S608
            f" (SELECT m.key FROM message m WHERE {named}) ORDER BY key LIMIT $2",
            *(text, limit),
        )
        receipts = await self._fetch(
            f"SELECT * FROM receipt WHERE {named} ORDER BY finished LIMIT $2",  # noqa: S608
            *(text, limit),
        )
        lying = [stored for row in rows for stored in self._read(row)]
        return lying, [Receipt(*row) for row in receipts]

    async def counts(self) -> dict[str, int]:
        """See `Store.counts`."""
        rows = await self._fetch(
            "SELECT channel, sum(messages)::bigint FROM tally"
            " GROUP BY channel HAVING sum(messages) <> 0"
        )
        return {row[0]: row[1] for row in rows}

    async def usage(self) -> Usage:
        """See `Store.usage`. What is left on the server's disk cannot be seen from here."""
        [[used]] = await self._fetch("SELECT used()")
        return Usage(self.where, used, self._max_size)

    # --- opening and closing ---------------------------------------------------------------------

    @property
    def where(self) -> str:
        """What may be said of the URL."""
        parts = urlsplit(self._url)
        return f"{parts.netloc.rpartition('@')[2]}{parts.path}"

    def _connecting(self) -> dict[str, Any]:
        return {
            "dsn": self._url,
            "timeout": CONNECT_TIMEOUT,
            "command_timeout": COMMAND_TIMEOUT,
            "target_session_attrs": "read-write",  # after a failover, the one that is in charge
            "server_settings": _SETTINGS,
        }

    async def _first_connection(self) -> asyncpg.Connection[asyncpg.Record]:
        end = monotonic() + WAIT_FOR_SERVER
        while True:
            try:
                # A migration takes its time, and one waits for another.
                return await asyncpg.connect(**{**self._connecting(), "command_timeout": None})
            except Exception as e:
                if not is_lost(e):
                    raise
                if monotonic() > end:
                    raise StoreUnusable(f"the store {self.where} does not answer: {e}") from e
                log.warning("the store does not answer yet", where=self.where, error=str(e))
            await asyncio.sleep(1.0)

    async def _check(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        version, fsync, synchronous = await connection.fetchrow(
            "SELECT current_setting('server_version_num')::int, current_setting('fsync'),"
            " current_setting('synchronous_commit')"
        ) or (0, "", "")
        if version < OLDEST:
            raise StoreUnusable(f"PostgreSQL {OLDEST // 10000} or newer is needed")
        for name, value in (("fsync", fsync), ("synchronous_commit", synchronous)):
            if value == "off":
                raise StoreUnusable(
                    f"the store {self.where} has {name} off: what it says is stored may be lost"
                )

    async def _migrate(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
            # Not IF NOT EXISTS: that asks for the right to make one where there is one.
            if not await connection.fetchval("SELECT to_regnamespace('esb') IS NOT NULL"):
                await connection.execute("CREATE SCHEMA esb")
            if not await connection.fetchval("SELECT to_regclass('esb.format') IS NOT NULL"):
                await connection.execute("CREATE TABLE format (version integer NOT NULL)")
            version = await connection.fetchval("SELECT max(version) FROM format") or 0
            if version > len(MIGRATIONS):
                raise StoreUnusable(
                    f"the store {self.where} has format {version}, made by a newer bus; "
                    f"this one reads up to {len(MIGRATIONS)}"
                )
            for number, migration in enumerate(MIGRATIONS[version:], version + 1):
                await connection.execute(migration)
                await connection.execute("INSERT INTO format VALUES ($1)", number)

    async def _enter(self, instead_of: int = 0) -> None:
        """Become a holder, once for all who notice that we are none."""
        async with self._entering:
            if self._me != instead_of:
                return
            if instead_of:
                log.warning("this process was taken for dead: what it had in hand is others' now")
            [[self._me]] = await self._fetch(
                "INSERT INTO holder (name, since, until) VALUES"
                " ($1, clock_timestamp(), clock_timestamp() + make_interval(secs => $2))"
                " RETURNING id",
                *(f"{socket.gethostname()}/{os.getpid()}", self._lease),
            )
            await self._fetch("SELECT pg_notify('esb', $1)", self._news(set()))

    async def _disconnect(self) -> None:
        if self._listener is not None:
            self._listener.terminate()
        for pool in (self._pool, self._writer):
            if pool is not None:
                with contextlib.suppress(Exception):
                    async with asyncio.timeout(CONNECT_TIMEOUT):
                        await pool.close()
                        continue
                pool.terminate()
        self._pool = self._writer = self._listener = None
        self._me = 0

    # --- asking ----------------------------------------------------------------------------------

    async def _fetch(self, query: str, *values: Any) -> list[asyncpg.Record]:
        """Rows. Raises Transient beside what `translated` makes of an error."""
        if self._pool is None:
            raise Unavailable("the store is not open")
        try:
            async with self._pool.acquire(timeout=CONNECT_TIMEOUT) as connection:
                return await connection.fetch(query, *values)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError) as e:
            if isinstance(e, asyncpg.PostgresError) and e.sqlstate == TAKEN_FOR_DEAD:
                raise
            raise translated(e) from e
        except asyncpg.InternalClientError as e:
            raise unreachable(e) from e

    async def _numbered(self, query: str, *values: Any) -> tuple[int, list[asyncpg.Record]]:
        """Take or claim under a number of its own. If nobody learns what it brought, because the
        caller or the connection is gone, it is given back."""
        while True:
            me = self._me
            try:
                return await self._asked(query, me, *values)
            except asyncpg.PostgresError:
                await self._enter(instead_of=me)

    async def _asked(self, query: str, me: int, *values: Any) -> tuple[int, list[asyncpg.Record]]:
        self._takes += 1
        number = (me << 32) + self._takes
        asking = asyncio.ensure_future(self._fetch(query, me, number, *values))
        self._asking.add(asking)
        asking.add_done_callback(self._asking.discard)
        try:
            return number, await asyncio.shield(asking)
        except BaseException:
            asking.add_done_callback(lambda asked: self._give_back(number, asked))
            raise

    def _give_back(self, number: int, asked: asyncio.Future[Any] | None = None) -> None:
        # A statement whose connection is lost may still run, for a while.
        doubt = asked is not None and (asked.cancelled() or asked.exception() is not None)
        self._to_give_back[number] = monotonic() + (KEEP_GIVING_BACK if doubt else 0.0)
        self._hurry.set()

    async def _take_room(self, size: int, on_their_way: int = 0) -> None:
        if self._room < size:
            [[used]] = await self._fetch("SELECT used()")
            self._room = self._max_size - used - on_their_way
            if self._room < size:
                raise Overloaded(FULL, retry_after=RETRY_AFTER)
        self._room -= size

    # --- what was read ---------------------------------------------------------------------------

    async def _sorted_out(self, rows: list[asyncpg.Record]) -> list[Stored]:
        """Those of what was taken that may be handed out; the others are put where they belong, or
        forgotten."""
        now = self._clock.time()
        taken: list[Stored] = []
        aside: list[Done | Move] = []
        for row in rows:
            if 0 < row["expires"] <= now and row["channel"].startswith(KEPT):
                aside.append(Done(row["key"], row["hold"]))
            elif 0 < row["expires"] <= now:
                detail = "nobody took the message before its time was over"
                aside.append(self._burial(row, DEAD, "expired", detail))
            elif row["crashes"] >= MOST_CRASHES:
                detail = f"the bus died {row['crashes']} times in a row with this message in hand"
                aside.append(self._burial(row, DEAD, "poison", detail))
            else:
                try:
                    taken.append(_stored(row))
                except record.Damaged as e:
                    aside.append(self._damage(row, e))
        for change in aside:
            with contextlib.suppress(Superseded):
                await self.commit((change,))
                if isinstance(change, Move) and change.failure is not None:
                    buried(change.failure.route, change.failure.code)
        return taken

    def _read(self, row: asyncpg.Record) -> list[Stored]:
        try:
            return [_stored(row)]
        except record.Damaged as e:
            self._background(self._set_aside(self._damage(row, e)))
            return []

    async def _set_aside(self, move: Move) -> None:
        with contextlib.suppress(EsbError):  # it is found again
            await self.commit((move,))

    def _damage(self, row: asyncpg.Record, cause: record.Damaged) -> Move:
        self._damaged += 1
        log.error(
            "a stored message is damaged and is set aside", key=row["key"], channel=row["channel"]
        )
        return self._burial(row, DAMAGED, "damaged", f"the stored message is damaged: {cause}")

    def _burial(self, row: asyncpg.Record, channel: str, code: str, detail: str) -> Move:
        when = datetime.fromtimestamp(self._clock.time(), UTC)
        attempts = row["attempts"]
        failure = Failure(code, detail, row["channel"], "", attempts, when)
        hold, lies = row["hold"], row["channel"]
        return Move(row["key"], channel, 0.0, attempts, failure, hold, lying_in=lies)

    # --- staying alive ---------------------------------------------------------------------------

    async def _for_ever(
        self, what: Callable[[], Awaitable[None]], pause: Callable[[], Awaitable[None]]
    ) -> None:
        while True:
            try:
                await what()
            except EsbError as e:
                log.warning("the store could not be used", error=e.detail, notes=e.notes)
            except Exception as e:
                log.error("the store's upkeep failed", exc_info=e)
            await pause()

    async def _until_next_beat(self) -> None:
        seconds = min(BEAT_IN_TROUBLE if self._trouble else BEAT, self._lease / 4)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
        self._hurry.clear()

    async def _live(self) -> None:
        try:
            if self._listener is None or self._listener.is_closed():
                await self._listen()
            await self._beat()
        except Exception as e:  # noqa: BLE001 - whatever it is, it must not end with a late beat
            error = e if isinstance(e, EsbError) else translated(e)
            if error.detail != self._trouble:
                log.warning("the store cannot be reached", error=error.detail, notes=error.notes)
            self._trouble = error.detail
        else:
            if self._trouble:
                log.info("the store answers again")
            self._trouble = ""

    async def _listen(self) -> None:
        listener = await asyncpg.connect(**self._connecting())
        try:
            await listener.add_listener("esb", self._heard)
        except BaseException:
            listener.terminate()
            raise
        listener.add_termination_listener(lambda _: self._hurry.set())
        self._listener = listener
        self._ring(set(self._bells))  # nobody knows what was said meanwhile

    async def _give_all_back(self) -> None:
        if numbers := list(self._to_give_back):
            began = monotonic()
            [[channels]] = await self._fetch("SELECT give_back($1, $2)", self._me, numbers)
            for number in numbers:
                if self._to_give_back[number] <= began:
                    del self._to_give_back[number]
            self._spread(set(channels))

    async def _beat(self) -> None:
        await self._give_all_back()
        me = self._me
        [beat] = await self._fetch(
            "SELECT * FROM beat($1, $2, $3, $4)",
            *(me, self._lease, self._clock.time(), list(self._bells)),
        )
        if beat["buried"]:
            log.warning("processes were not heard of and count as dead", count=beat["buried"])
        self._others = beat["others"]
        self._room = min(self._room, self._max_size - beat["used"])  # not what is on its way
        self._full.look(beat["used"])
        self._ring(set(beat["rung"]))
        if not beat["alive"]:
            await self._enter(instead_of=me)

    async def _tidy(self) -> None:
        """Bury what expired, forget what is over."""
        now = self._clock.time()
        while keys := await self._fetch(
            "SELECT key FROM message m WHERE expires > 0 AND expires <= $1"
            " AND NOT EXISTS (SELECT FROM hold h WHERE h.key = m.key)"
            " ORDER BY expires LIMIT 100",
            now,
        ):
            number, rows = await self._numbered(
                "SELECT * FROM seize($1, $2, $3, $4)", 2**31 - 1, [key for (key,) in keys]
            )
            try:
                await self._sorted_out(rows)
            except BaseException:
                self._give_back(number)
                raise
        while (await self._fetch("SELECT tidy($1, $2)", now, now - self._receipts))[0][0] > 0:
            pass
        self._damaged = (await self.counts()).get(DAMAGED, 0)

    def _background(self, what: Any) -> None:
        task = asyncio.get_running_loop().create_task(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- bells -----------------------------------------------------------------------------------

    def _told(self, unit: Unit, channels: set[str]) -> None:
        self._spread(channels)
        if unit.settled and self._turned_away:
            away, self._turned_away = self._turned_away, set()
            self._ring(away)

    def _spread(self, channels: set[str]) -> None:
        """Ring here, and soon at the others."""
        self._ring(channels)
        if not self._others or not channels:
            return
        if not self._to_tell:
            self._background(self._tell())
        self._to_tell |= channels

    async def _tell(self) -> None:
        await asyncio.sleep(TELL_AFTER)
        channels, self._to_tell = self._to_tell, set()
        with contextlib.suppress(EsbError):  # they look by themselves, too
            await self._fetch("SELECT pg_notify('esb', $1)", self._news(channels))

    def _news(self, channels: set[str]) -> str:
        news = json.dumps([self._me, *sorted(channels)])
        return news if len(news) < 7900 else json.dumps([self._me, "*"])  # NOTIFY takes 8000 bytes

    def _heard(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        speaker, *channels = cast(list[Any], json.loads(str(payload)))
        if speaker == self._me:
            return
        self._others = self._others or 1
        self._ring(set(self._bells) if "*" in channels else set(channels))

    def _ring(self, channels: set[str]) -> None:
        for channel in channels:
            for bell in self._bells.get(channel, ()):
                if not bell.done():
                    bell.set_result(None)


def _stored(row: asyncpg.Record) -> Stored:
    key, channel, due, attempts, stored, failure, *more, digest, content = row
    envelope = remains(key, stored, content) if channel == DAMAGED else verified(content, digest)
    return Stored(key, channel, envelope, attempts, due, stored, unpack(failure), *more)


async def _nothing(_connection: Any) -> None:
    """There is nothing to reset: a call leaves no trace in its session."""
