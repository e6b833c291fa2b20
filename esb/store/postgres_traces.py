"""Traces at rest, beside a store on PostgreSQL: a table in its schema, over a connection of their
own, made when there is something to write or to read."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, Final

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from esb.clock import Clock
from esb.errors import Unavailable
from esb.store.traces import OVERHEAD, read, rows, with_parents
from esb.store.units import CONNECT_TIMEOUT
from esb.traces import Trace

_COMMAND_TIMEOUT: Final = 10.0
_LOCK: Final = 0x747263  # of making the table
_TABLE: Final = """
    CREATE SCHEMA IF NOT EXISTS esb;
    CREATE TABLE IF NOT EXISTS esb.trace (
        key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        begun double precision NOT NULL,
        id text NOT NULL,
        business_key text NOT NULL,
        correlation_id text NOT NULL,
        content bytea NOT NULL
    );
    CREATE INDEX IF NOT EXISTS trace_by_age ON esb.trace (begun);
    CREATE INDEX IF NOT EXISTS trace_by_id ON esb.trace (left(id, 500) COLLATE "C");
    CREATE INDEX IF NOT EXISTS trace_by_business_key ON esb.trace (left(business_key, 500))
        WHERE business_key <> '';
    CREATE INDEX IF NOT EXISTS trace_by_correlation ON esb.trace (left(correlation_id, 500))
        WHERE correlation_id <> '';
"""
_ADD: Final = (
    "INSERT INTO esb.trace (begun, id, business_key, correlation_id, content)"
    " VALUES ($1, $2, $3, $4, $5)"
)
_BY_NAME: Final = """
    SELECT content FROM esb.trace WHERE key IN (
        SELECT key FROM esb.trace WHERE left(id, 500) COLLATE "C" = ANY ($1)
        UNION SELECT key FROM esb.trace
            WHERE left(id, 500) COLLATE "C" > $2 || '.' AND left(id, 500) COLLATE "C" < $2 || '/'
        UNION SELECT key FROM esb.trace WHERE business_key <> '' AND left(business_key, 500) = $2
        UNION SELECT key FROM esb.trace
            WHERE correlation_id <> '' AND left(correlation_id, 500) = $2
    ) ORDER BY begun DESC, key DESC LIMIT $3
"""
# The oldest that are too many, whoever of several buses wrote them.
_TOO_MANY: Final = """
    DELETE FROM esb.trace WHERE key IN (
        SELECT key FROM (
            SELECT key, sum(octet_length(content) + $2) OVER (ORDER BY begun DESC, key DESC) AS size
            FROM esb.trace
        ) t WHERE size > $1
    )
"""
_TIDY_EVERY: Final = 20  # batches: looking at all that are there takes its time


class PostgresTraces:
    """`esb.traces.TraceStore` in the database at `url`."""

    def __init__(self, url: str, clock: Clock) -> None:
        self._url = url
        self._clock = clock
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._turn = asyncio.Lock()
        self._batches = 0

    async def keep_traces(self, traces: Sequence[Trace], keep: float, max_size: int) -> None:
        """See `TraceStore`."""
        async with self._connected() as connection, connection.transaction():
            await connection.execute("SET LOCAL synchronous_commit = off")
            await connection.executemany(_ADD, rows(traces))
            if self._batches % _TIDY_EVERY == 0:
                old = self._clock.time() - keep
                await connection.execute("DELETE FROM esb.trace WHERE begun <= $1", old)
                await connection.execute(_TOO_MANY, max_size, OVERHEAD)
            self._batches += 1

    async def traces(self, text: str, *, limit: int = 100) -> list[Trace]:
        """See `TraceStore`."""
        name = text[:500].replace("\0", "")
        async with self._connected() as connection:
            found = await connection.fetch(_BY_NAME, with_parents(name), name, limit)
        return read([content for (content,) in found], text)

    async def close(self) -> None:
        """Disconnect."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                await connection.close(timeout=CONNECT_TIMEOUT)

    @contextlib.asynccontextmanager
    async def _connected(self) -> Any:
        async with self._turn:
            try:
                if self._connection is None or self._connection.is_closed():
                    self._connection = await self._opened()
                yield self._connection
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError) as e:
                raise Unavailable("the traces cannot be written or read").noted(str(e)) from e

    async def _opened(self) -> asyncpg.Connection[asyncpg.Record]:
        connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(
            self._url,
            timeout=CONNECT_TIMEOUT,
            command_timeout=_COMMAND_TIMEOUT,
            target_session_attrs=SessionAttribute.read_write,
            server_settings={"application_name": "esb traces"},
        )
        try:
            async with connection.transaction():
                await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
                await connection.execute(_TABLE)
        except BaseException:
            connection.terminate()
            raise
        return connection
