"""One SQLite file for several processes: one of them writes, all of them read.

The process that has the store open serves it (`StoreServer`); each of the others has a
`RemoteStore`, which sends what is to be written over a `Link`, so that the commits of all of them
share their fsyncs, and reads the file itself, as SQLite's log allows (https://sqlite.org/wal.html).
What a process had in hand or was doing when it went away is free again, and counted as its crash.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Any, Final, cast

import apsw
import msgspec

from esb import record
from esb.adapter import Health
from esb.clock import REAL, Clock
from esb.durable import (
    Change,
    Claim,
    Confirm,
    Done,
    Move,
    Publish,
    Put,
    Release,
    Store,
    Stored,
    Usage,
)
from esb.envelope import Envelope
from esb.errors import RouteFailure, Unavailable
from esb.link import Handler, Line, Link
from esb.store.reading import Reading, ReadsFile
from esb.store.rows import pack, prepared, unpack
from esb.store.sqlite import BUSY_MILLIS, SqliteStore
from esb.store.traces import TraceFile
from esb.traces import Trace, TraceStore

# --- changes on their way -------------------------------------------------------------------------


class _Wire:
    """Changes of one kind as bytes and back: as they are, except for a failure, which is bytes as
    on the disk, and the envelope. Of one that is `written` the store wants to know its id and its
    business key besides, of another all of it."""

    def __init__(self, kind: type[Any]) -> None:
        self._kind = kind
        fields = msgspec.structs.fields(kind)
        self._names = [field.name for field in fields]
        self._at = next((n for n, f in enumerate(fields) if f.name in ("envelope", "answer")), None)
        self._failure = self._names.index("failure") if "failure" in self._names else None
        special = {"envelope": Any, "answer": Any, "failure": bytes | None}
        types = [(field.name, special.get(field.name, field.type)) for field in fields]
        as_sent = msgspec.defstruct(kind.__name__, types, array_like=True)
        self._decode = msgspec.msgpack.Decoder(as_sent).decode

    def write(self, change: Change) -> bytes:
        values = [getattr(change, name) for name in self._names]
        if self._at is not None and (envelope := values[self._at]) is not None:
            written = getattr(change, "written", b"")
            values[self._at] = (
                (envelope.id, envelope.business_key) if written else record.encode(envelope)
            )
        if self._failure is not None:
            values[self._failure] = pack(values[self._failure])
        try:
            return _encode(values)
        except (OverflowError, TypeError, ValueError) as e:
            raise RouteFailure("the message cannot be stored") from e

    def read(self, content: bytes) -> Change:
        sent = self._decode(content)
        values = [getattr(sent, name) for name in self._names]
        if self._at is not None and (told := values[self._at]) is not None:
            values[self._at] = (
                record.decode(told)
                if isinstance(told, bytes)
                else Envelope(id=told[0], business_key=told[1])
            )
        if self._failure is not None:
            values[self._failure] = unpack(values[self._failure])
        return cast(Change, self._kind(*values))


_encode: Final = msgspec.msgpack.Encoder().encode
_KINDS: Final = (Put, Publish, Done, Move, Confirm, Release)
_NUMBERS: Final = {kind: number for number, kind in enumerate(_KINDS)}
_WIRES: Final = tuple(map(_Wire, _KINDS))


def _written(changes: Sequence[Change]) -> list[tuple[int, bytes]]:
    numbers = [_NUMBERS[type(change)] for change in changes]
    return [(n, _WIRES[n].write(change)) for n, change in zip(numbers, changes, strict=True)]


def _read(written: Sequence[tuple[int, bytes]]) -> list[Change]:
    return [_WIRES[number].read(content) for number, content in written]


# --- where the file is open -----------------------------------------------------------------------


class _Client:
    """A process that is served, and what it has: keys by the number of their take, claims."""

    def __init__(self) -> None:
        self.taken: dict[int, set[int]] = {}
        self.claims: set[tuple[str, str]] = set()

    def settled(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if isinstance(change, Done | Move):
                if (keys := self.taken.get(change.hold)) is not None:
                    keys.discard(change.key)
                    if not keys:
                        del self.taken[change.hold]
            elif isinstance(change, Confirm | Release):
                self.claims.discard((change.scope, change.value))


class StoreServer:
    """Serves an open store."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self._clients: dict[object, _Client] = {}

    def joined(self, who: object) -> dict[str, Handler]:
        """What a process that has joined may call."""
        store, client = self._store, _Client()
        self._clients[who] = client

        async def commit(written: list[tuple[int, bytes]]) -> list[int]:
            changes = _read(written)
            keys = await store.commit(changes)
            client.settled(changes)
            return keys

        async def take(channel: str, limit: int, in_order: bool) -> tuple[int, list[int]]:
            taken = await store.take(channel, limit, in_order=in_order)
            hold = taken[0].hold if taken else 0
            keys = [message.key for message in taken]
            if keys:
                client.taken[hold] = set(keys)
            return hold, keys

        async def give_back(hold: int, keys: list[int]) -> None:
            client.taken.pop(hold, None)
            await store.give_back(hold, keys)

        async def claim(scope: str, value: str, until: float) -> tuple[str, int, bytes | None]:
            found = await store.claim(scope, value, until)
            if found.state == "new":
                client.claims.add((scope, value))
            answer = None if found.answer is None else record.encode(found.answer)
            return found.state, found.crashes, answer

        async def unclaim(scope: str, value: str) -> None:
            client.claims.discard((scope, value))
            await store.unclaim(scope, value)

        async def usage() -> dict[str, Any]:
            return msgspec.structs.asdict(await store.usage())

        async def set_aside(key: int, failure: bytes) -> None:
            if (why := unpack(failure)) is not None:
                store.set_aside(key, why)

        async def damaged() -> None:
            store.damaged()

        return {
            "commit": commit,
            "take": take,
            "give_back": give_back,
            "wait": lambda channel, timeout, news: store.wait(channel, timeout, news=news),
            "claim": claim,
            "unclaim": unclaim,
            "subscribe": store.subscribe,
            "unsubscribe": store.unsubscribe,
            "counts": store.counts,
            "usage": usage,
            "set_aside": set_aside,
            "damaged": damaged,
        }

    async def left(self, who: object) -> None:
        """A process is gone: what it had in hand or was doing is free again."""
        client = self._clients.pop(who, None)
        if client is None:  # it went before it had joined
            return
        held = [(key, hold) for hold, keys in client.taken.items() for key in keys]
        if held or client.claims:
            await self._store.left_behind(held, list(client.claims))


def serving_traces(traces: TraceStore) -> dict[str, Handler]:
    """What a process that has joined may call to have its traces kept."""

    async def keep_traces(written: list[bytes], keep: float, max_size: int) -> None:
        found = [msgspec.msgpack.decode(one, type=Trace) for one in written]
        await traces.keep_traces(found, keep, max_size)

    return {"keep_traces": keep_traces}


# --- in the others --------------------------------------------------------------------------------


class RemoteStore(ReadsFile, Store):
    """`esb.durable.Store` on a file that another process has open, and a Resource. `line` leads to
    that process, `path` is the file."""

    def __init__(self, line: Line, path: Path, *, clock: Clock = REAL) -> None:
        self.path = path
        self.where = str(path.resolve())
        self._line = line
        self._clock = clock
        self._open: tuple[Link, Reading] | None = None
        self._waiting: set[asyncio.Future[Any]] = set()
        self._late: set[asyncio.Future[Any]] = set()

    async def open(self) -> None:
        """Open the file to read it. Raises Unavailable if it is not served."""
        link = self._line.link
        db = await asyncio.to_thread(self._connect)
        self._db = db
        self._open = (
            link,
            Reading(
                db,
                self._clock,
                set_aside=lambda key, failure: self._from_thread(
                    link, "set_aside", key, pack(failure)
                ),
                damaged=lambda: self._from_thread(link, "damaged"),
            ),
        )
        self._loop = asyncio.get_running_loop()

    def _connect(self) -> apsw.Connection:
        try:
            db = apsw.Connection(str(self.path), apsw.SQLITE_OPEN_READWRITE)
        except apsw.Error as e:
            raise Unavailable("the store cannot be read").noted(str(e)) from e
        db.set_busy_timeout(BUSY_MILLIS)
        db.execute("PRAGMA query_only=ON")
        return db

    def _from_thread(self, link: Link, name: str, *arguments: Any) -> None:
        self._loop.call_soon_threadsafe(lambda: self._sent(link.call(name, *arguments)))

    def _sent(self, call: asyncio.Future[Any]) -> asyncio.Future[Any]:
        """A call that `close` waits for, whoever else does."""
        self._late.add(call)
        call.add_done_callback(self._late.discard)
        call.add_done_callback(lambda done: done.cancelled() or done.exception())
        return call

    async def close(self) -> None:
        """Close the file, and let arrive what is on its way: what was taken for nobody, too.
        Whoever waits returns."""
        if self._open is None:
            return
        (_, reading), self._open = self._open, None
        for waiting in list(self._waiting):
            waiting.cancel()
        await asyncio.to_thread(reading.close)
        await asyncio.to_thread(self._db.close)
        while self._late:
            await asyncio.wait(self._late)

    def health(self) -> Health:
        """Whether it is open; how well it is, the process that has it open tells."""
        return Health(True) if self._open is not None else Health(False, "the store is not open")

    # --- Store

    def prepare(self, change: Change) -> Change:
        """See `Store.prepare`."""
        return prepared(change)

    async def commit(self, changes: Sequence[Change]) -> list[int]:
        """See `Store.commit`."""
        written = _written([prepared(change) for change in changes])
        # Whoever is cancelled meanwhile does not undo it, as with a store of one's own.
        keys: list[int] = await asyncio.shield(self._call("commit", written))
        return keys

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
        taking = self._call("take", channel, limit, in_order)
        try:
            _, keys = await asyncio.shield(taking)
            return await self._reads().taken(keys) if keys else []
        except BaseException:
            # Nobody will ever see what was or will be taken, so it must not stay in hand.
            self._afterwards(taking, lambda taken: ("give_back", *taken))
            raise

    async def wait(self, channel: str, timeout: float, *, news: bool = False) -> None:
        """See `Store.wait`."""
        if self._open is None:
            raise Unavailable("the store is not open")
        waiting = self._open[0].call("wait", channel, timeout, news)
        self._waiting.add(waiting)
        try:
            await asyncio.wait((waiting,))
        finally:
            self._waiting.discard(waiting)
            waiting.cancel()
        if not waiting.cancelled():  # as `close` does
            waiting.result()

    async def claim(self, scope: str, value: str, until: float) -> Claim:
        """See `Store.claim`."""
        claiming = self._call("claim", scope, value, until)
        try:
            state, crashes, answer = await asyncio.shield(claiming)
        except asyncio.CancelledError:
            # Nobody will ever confirm or release what was or will be claimed.
            self._afterwards(
                claiming, lambda claim: ("unclaim", scope, value) if claim[0] == "new" else None
            )
            raise
        return Claim(state, crashes, None if answer is None else record.decode(answer))

    def _afterwards(self, call: asyncio.Future[Any], then: Any) -> None:
        """Once the call is answered, call what follows from that."""
        link = self._line.link

        def answered(done: asyncio.Future[Any]) -> None:
            if not done.cancelled() and done.exception() is None and (more := then(done.result())):
                self._sent(link.call(*more))

        call.add_done_callback(answered)

    async def subscribe(self, topic: str, name: str) -> None:
        """See `Store.subscribe`."""
        await self._call("subscribe", topic, name)

    async def unsubscribe(self, topic: str, name: str) -> bool:
        """See `Store.unsubscribe`."""
        return bool(await self._call("unsubscribe", topic, name))

    async def counts(self) -> dict[str, int]:
        """See `Store.counts`."""
        return cast(dict[str, int], await self._call("counts"))

    async def usage(self) -> Usage:
        """See `Store.usage`."""
        return Usage(**await self._call("usage"))

    def _call(self, name: str, *arguments: Any) -> asyncio.Future[Any]:
        if self._open is None:
            raise Unavailable("the store is not open")
        return self._sent(self._open[0].call(name, *arguments))

    def _reads(self) -> Reading:
        if self._open is None:
            raise Unavailable("the store is not open")
        return self._open[1]


class RemoteTraces:
    """`esb.traces.TraceStore` that another process writes. `file` is where they are, to read."""

    def __init__(self, line: Line, file: TraceFile) -> None:
        self._line = line
        self._file = file

    async def keep_traces(self, traces: Sequence[Trace], keep: float, max_size: int) -> None:
        """See `TraceStore`."""
        written = []
        for one in traces:
            with contextlib.suppress(UnicodeEncodeError):
                written.append(msgspec.msgpack.encode(one))
        await self._line.link.call("keep_traces", written, keep, max_size)

    async def traces(self, text: str, *, limit: int = 100) -> list[Trace]:
        """See `TraceStore`."""
        return await self._file.traces(text, limit=limit)

    async def close(self) -> None:
        """See `TraceStore`."""
        await self._file.close()
