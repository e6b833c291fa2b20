"""Traces at rest, beside an SQLite store: a file of their own.

They are no messages. Neither waits for the other, a backup of the store has none, and a file of
traces that is damaged is begun anew.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import apsw
import msgspec
import structlog

from esb.clock import REAL, Clock
from esb.errors import Unavailable
from esb.traces import Trace, TraceStore

if TYPE_CHECKING:
    from esb.store import StoreOptions

T = TypeVar("T")
log = structlog.get_logger("esb.store")

OVERHEAD: Final = 200  # of a row and its index entries
_MOST_PARENTS: Final = 8
_FORMAT: Final = 1
_TABLE: Final = """
    CREATE TABLE trace (
        key INTEGER PRIMARY KEY,
        begun REAL NOT NULL,
        id TEXT NOT NULL,
        business_key TEXT NOT NULL,
        correlation_id TEXT NOT NULL,
        content BLOB NOT NULL
    ) STRICT;
    CREATE INDEX trace_by_age ON trace (begun);
    CREATE INDEX trace_by_id ON trace (id);
    CREATE INDEX trace_by_business_key ON trace (business_key) WHERE business_key <> '';
    CREATE INDEX trace_by_correlation ON trace (correlation_id) WHERE correlation_id <> '';
    PRAGMA user_version=1;
"""
_BY_NAME: Final = """
    SELECT content FROM trace WHERE key IN (
        SELECT key FROM trace WHERE id IN (SELECT value FROM json_each(?1))
        UNION SELECT key FROM trace WHERE id > ?2 || '.' AND id < ?2 || '/'
        UNION SELECT key FROM trace WHERE business_key = ?2 AND business_key <> ''
        UNION SELECT key FROM trace WHERE correlation_id = ?2 AND correlation_id <> ''
    ) ORDER BY begun DESC, key DESC LIMIT ?3
"""


def open_traces(settings: StoreOptions, folder: Path = Path(), clock: Clock = REAL) -> TraceStore:
    """Where the traces of a project in `folder` are; touched when there is something to write."""
    if settings.url is None:
        return TraceFile(beside(folder / settings.path), clock)
    from esb.store.postgres_traces import PostgresTraces  # its driver is an extra

    return PostgresTraces(settings.url.get_secret_value(), clock)


def beside(store: Path) -> Path:
    """The file of traces of a store that is a file."""
    return store.with_name(f"{store.stem}.traces{store.suffix}")


Row = tuple[float, str, str, str, bytes]


def rows(traces: Sequence[Trace]) -> list[Row]:
    """What is written of traces; one with a text that is no Unicode is left out."""
    found: list[Row] = []
    for one in traces:
        with contextlib.suppress(UnicodeEncodeError):
            content = msgspec.msgpack.encode(one)
            found.append((one.begun, one.id, one.business_key, one.correlation_id, content))
    return found


def with_parents(text: str) -> list[str]:
    """An id, and those of the messages that it may be a part of: `a.3.1`, `a.3`, `a`."""
    found = [text]
    while "." in text and len(found) < _MOST_PARENTS:
        text = text.rpartition(".")[0]
        found.append(text)
    return found


def read(contents: Sequence[bytes], text: str) -> list[Trace]:
    """Traces found by `text`, the newest first, in the order of time. One of a whole that has
    nothing of the part asked for is none of them."""
    traces = []
    for content in reversed(contents):
        try:
            trace = msgspec.msgpack.decode(content, type=Trace)
        except (msgspec.MsgspecError, ValueError):
            continue
        named = (trace.id, trace.business_key, trace.correlation_id)
        if text in named or trace.id.startswith(f"{text}.") or _passed(trace, text):
            traces.append(trace)
    return traces


def _passed(trace: Trace, part: str) -> bool:
    return any(visit.id == part or visit.id.startswith(f"{part}.") for visit in trace.visits)


class TraceFile:
    """`esb.traces.TraceStore` in an SQLite file, made when the first trace is written."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._db: apsw.Connection | None = None
        self._size = 0
        self._thread: ThreadPoolExecutor | None = None

    async def keep_traces(self, traces: Sequence[Trace], keep: float, max_size: int) -> None:
        """See `TraceStore`."""
        await self._run(lambda: self._keep(self._open(), traces, keep, max_size))

    async def traces(self, text: str, *, limit: int = 100) -> list[Trace]:
        """See `TraceStore`."""
        if self._db is None and not self._path.exists():
            return []
        return await self._run(lambda: self._find(self._open(), text, limit))

    async def close(self) -> None:
        """Close the file."""
        if self._thread is not None:
            thread, self._thread = self._thread, None
            await asyncio.to_thread(thread.shutdown)
        if self._db is not None:
            self._db.close()
            self._db = None

    async def _run(self, what: Callable[[], T]) -> T:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "esb-traces")
        try:
            return await asyncio.wrap_future(self._thread.submit(what))
        except (apsw.Error, OSError) as e:
            raise Unavailable("the traces cannot be written or read").noted(str(e)) from e

    # --- in the thread

    def _open(self) -> apsw.Connection:
        if self._db is None:
            try:
                self._db = self._opened()
            except (apsw.NotADBError, apsw.CorruptError) as e:
                log.warning("the file of traces is damaged and is begun anew", error=str(e))
                for name in ("", "-wal", "-shm"):
                    self._path.with_name(self._path.name + name).unlink(missing_ok=True)
                self._db = self._opened()
        return self._db

    def _opened(self) -> apsw.Connection:
        self._path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
        self._path.touch(0o600)  # what is in messages is for its owner alone
        db = apsw.Connection(str(self._path))
        try:
            db.set_busy_timeout(2000)
            db.execute("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF")
            if db.pragma("user_version") != _FORMAT:
                db.execute("DROP TABLE IF EXISTS trace")
                db.execute(_TABLE)
            total = "SELECT ifnull(sum(length(content)), 0) + count(*) * ? FROM trace"
            self._size = cast(int, db.execute(total, (OVERHEAD,)).get)
        except BaseException:
            db.close()
            raise
        return db

    def _keep(
        self, db: apsw.Connection, traces: Sequence[Trace], keep: float, max_size: int
    ) -> None:
        new = rows(traces)
        size = self._size
        try:
            with db:
                db.executemany(
                    "INSERT INTO trace (begun, id, business_key, correlation_id, content)"
                    " VALUES (?, ?, ?, ?, ?)",
                    new,
                )
                size += sum(len(row[-1]) + OVERHEAD for row in new)
                size -= self._forget(db, "WHERE begun <= ?", (self._clock.time() - keep,))
                oldest = "WHERE key = (SELECT key FROM trace ORDER BY begun, key LIMIT 1)"
                while size > max_size and (gone := self._forget(db, oldest, ())):
                    size -= gone
        except (apsw.NotADBError, apsw.CorruptError):
            db.close()
            self._db = None  # the next look finds out what is wrong
            raise
        self._size = size

    def _forget(self, db: apsw.Connection, which: str, values: tuple[Any, ...]) -> int:
        sql = f"DELETE FROM trace {which} RETURNING length(content)"  # noqa: S608
        gone = cast(list[tuple[int]], db.execute(sql, values).fetchall())
        return sum(size + OVERHEAD for (size,) in gone)

    def _find(self, db: apsw.Connection, text: str, limit: int) -> list[Trace]:
        names = msgspec.json.encode(with_parents(text)).decode()
        found = db.execute(_BY_NAME, (names, text, limit)).fetchall()
        return read([cast(bytes, content) for (content,) in found], text)
