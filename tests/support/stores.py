"""A real store for a test, on a disk that can be made to fail."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import apsw
import asyncpg

from esb.envelope import Body, Envelope
from esb.store import SqliteStore
from esb.store.postgres import PostgresStore
from support.shared import shared

Place = Path | str
"""Where a store is: an SQLite file, or a PostgreSQL database by its URL."""

AnyStore = SqliteStore | PostgresStore


def store_at(place: Place, **options: Any) -> Any:
    """A store of the kind that lies there, not open yet."""
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
