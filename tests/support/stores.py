"""A real store for a test, on a disk that can be made to fail."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path, PosixPath
from typing import Any
from urllib.parse import urlsplit

import apsw
import asyncpg

from esb.clock import REAL
from esb.envelope import Body, Envelope
from esb.link import Line, Link
from esb.store import SqliteStore
from esb.store.postgres import PostgresStore
from esb.store.remote import RemoteStore, StoreServer
from support.shared import shared
from support.waiting import until

Place = Path | str
"""Where a store is: an SQLite file, or a PostgreSQL database by its URL."""

AnyStore = SqliteStore | PostgresStore


class Served(PosixPath):
    """A file whose store is used by way of another process's, as by one of several workers."""


class ServedStore(RemoteStore):
    """A store that is open here, behind a socket; opened and closed with that."""

    def __init__(self, place: Path, **options: Any) -> None:
        self.own = SqliteStore(place, **options)
        self.folder = tempfile.TemporaryDirectory()  # a socket's path must be short
        self.socket = Path(self.folder.name) / "bus"
        self.line = Line(self.socket)
        super().__init__(self.line, place, clock=options.get("clock", REAL))

    @property
    def _bells(self) -> Any:
        return self.own._bells

    def _writes(self) -> Any:
        return self.own._writes()

    async def another(self) -> RemoteStore:
        """The same store as one more process has it."""
        line = Line(self.socket)
        await line.open({}, lambda link: None)
        store = RemoteStore(line, self.path)
        await store.open()
        return store

    async def open(self) -> None:
        await self.own.open()
        server = StoreServer(self.own)
        loop = asyncio.get_running_loop()
        self.left: list[asyncio.Task[None]] = []

        def joined() -> Link:
            link = Link({}, lambda link: self.left.append(loop.create_task(server.left(link))))
            link.handlers = server.joined(link)
            return link

        self.listening = await loop.create_unix_server(joined, str(self.socket))
        await self.line.open({}, lambda link: None)
        await super().open()

    async def close(self) -> None:
        await super().close()
        self.line.link.close()
        self.listening.close()
        await until(lambda: bool(self.left))
        await asyncio.gather(*self.left)
        await self.own.close()
        self.folder.cleanup()


def store_at(place: Place, **options: Any) -> Any:
    """A store of the kind that lies there, not open yet."""
    if isinstance(place, Served):
        return ServedStore(place, **options)
    if isinstance(place, Path):
        return SqliteStore(place, **options)
    return PostgresStore(place, **options)


@contextlib.asynccontextmanager
async def opened(place: Place, **options: Any) -> AsyncIterator[Any]:
    """An open store."""
    store = store_at(place, **options)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def setting(place: Place, **more: str) -> str:
    """A line of YAML that has a bus keep its messages there."""
    options = {"path" if isinstance(place, Path) else "url": str(place), **more}
    return "\nstore: " + json.dumps(options) + "\n"


async def lying(place: Place, channel: str) -> int:
    """How many messages are in a channel, as an outsider sees it while a bus is at work."""
    if isinstance(place, Path):
        with contextlib.closing(apsw.Connection(str(place))) as file:
            file.set_busy_timeout(10_000)
            sql = "SELECT count(*) FROM message WHERE channel = ?"
            return int(file.execute(sql, (channel,)).get)
    connection = await asyncpg.connect(place)
    try:
        sql = "SELECT count(*) FROM esb.message WHERE channel = $1"
        return int(await connection.fetchval(sql, channel))
    finally:
        await connection.close()


async def tidied(store: AnyStore) -> None:
    """Have a store do what it does from time to time."""
    if isinstance(store, ServedStore):
        store = store.own
    if isinstance(store, SqliteStore):
        until = store._clock.time() - store._receipts
        await store._writes().submit(lambda db, told: store._writing.tidy(db, told, until))
    else:
        await store._tidy()
        await store._beat()


def message(text: str = "hello", **fields: Any) -> Envelope:
    return Envelope(body=Body(text.encode(), "text/plain"), **fields)


@contextlib.contextmanager
def shared_postgres() -> Iterator[str]:
    """The URL of a PostgreSQL that other test processes use too: use `database` of it."""
    with shared("postgres", _answers) as url:
        yield url


def _answers(url: str) -> bool:
    from postgres import answers

    return answers(urlsplit(url).port or 0)


@contextlib.asynccontextmanager
async def database(server: str) -> AsyncIterator[str]:
    """The URL of a new database of a server; it is dropped at the end, whoever is still in it."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    maintenance = await asyncpg.connect(server)
    try:
        await maintenance.execute(f"CREATE DATABASE {name}")
        yield urlsplit(server)._replace(path=f"/{name}").geturl()
        await maintenance.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await maintenance.close()


@contextlib.contextmanager
def broken_disk(path: str, *, loses: bool) -> Iterator[None]:
    """Put something else in the place of a file, under the descriptors that are open.

    loses: /dev/null, a disk that takes what is written and loses it, so that fsync fails; else the
    file opened for reading only, so that each write fails.
    """
    descriptors = [int(fd) for fd, file in _open_files() if file == path]
    assert descriptors, f"{path} is not open"
    kept = [(fd, os.dup(fd)) for fd in descriptors]
    with open("/dev/null" if loses else path, "r+b" if loses else "rb", buffering=0) as stand_in:  # noqa: PTH123
        for fd, _ in kept:
            os.dup2(stand_in.fileno(), fd)
    try:
        yield
    finally:
        for fd, copy in kept:
            os.dup2(copy, fd)
            os.close(copy)


def _open_files() -> Iterator[tuple[str, str]]:
    for fd in os.listdir("/proc/self/fd"):  # noqa: PTH208
        with contextlib.suppress(OSError):
            yield fd, str(Path(f"/proc/self/fd/{fd}").readlink())
