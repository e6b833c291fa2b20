"""Where the bus under test keeps its messages: what a project writes to choose it, and what an
outsider sees and does there, by plain SQL."""

from __future__ import annotations

import random
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from postgres import Postgres

SETTLED = ("dead", "damaged")
"""Channels in which messages rest: everything elsewhere is still on its way."""


_COUNTS = "SELECT channel, count(*) FROM {} GROUP BY channel"
_PARKED = "SELECT count(*) FROM {} WHERE due > 0"


class Place(ABC):
    """A store, made in `folder` for one bus."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def open(self) -> Iterator[None]:
        """What it needs runs as long as the block does."""
        yield

    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """The project's `store:`."""

    @abstractmethod
    def counts(self) -> dict[str, int]:
        """Messages by channel."""

    @abstractmethod
    def parked(self) -> int:
        """How many messages wait between two tries."""

    @abstractmethod
    def whole(self) -> bool:
        """Whether the store itself says that it is sound."""

    @abstractmethod
    def flip(self, ident: str, dice: random.Random) -> None:
        """Change one bit of the message with that id, while no bus has the store open."""

    def waiting(self) -> int:
        """How many messages are still on their way."""
        return sum(count for name, count in self.counts().items() if name not in SETTLED)


class SqliteFile(Place):
    """The file of the bus, read by a SQLite that is not the one of the bus."""

    @property
    def file(self) -> Path:
        """The database."""
        return self.folder / "data" / "bus.db"

    def settings(self) -> Mapping[str, Any]:
        """See Place."""
        return {"path": str(self.file)}

    def counts(self) -> dict[str, int]:
        """See Place."""
        if not self.file.exists():
            return {}
        with closing(self._connect()) as db:
            return dict(db.execute(_COUNTS.format("message")))

    def parked(self) -> int:
        """See Place."""
        with closing(self._connect()) as db:
            return int(db.execute(_PARKED.format("message")).fetchone()[0])

    def whole(self) -> bool:
        """See Place."""
        with closing(self._connect()) as db:
            return db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]

    def flip(self, ident: str, dice: random.Random) -> None:
        """See Place."""
        content = bytearray(self.file.read_bytes())
        mark = _mark(ident)
        at = content.find(mark)
        assert at >= 0, f"{ident} is not in the store's file"
        while at >= 0:
            content[at + len(mark) - 2] ^= 1 << dice.randrange(7)
            at = content.find(mark, at + 1)
        self.file.write_bytes(content)

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(f"file:{self.file}?mode=ro", uri=True, timeout=10)
        db.execute("PRAGMA query_only=ON")
        return db


class PostgresServer(Place):
    """A server of its own, which faults may take away."""

    lease = 2.0

    @contextmanager
    def open(self) -> Iterator[None]:
        """See Place."""
        with Postgres(self.folder / "postgres") as self.server:
            yield

    def settings(self) -> Mapping[str, Any]:
        """See Place."""
        return {"url": self.server.url, "lease": f"{self.lease:g}s"}

    def counts(self) -> dict[str, int]:
        """See Place."""
        rows = self.server.psql(_COUNTS.format("esb.message")).splitlines()
        return {name: int(count) for name, count in (row.split("\t") for row in rows)}

    def parked(self) -> int:
        """See Place."""
        return int(self.server.psql(_PARKED.format("esb.message")))

    def whole(self) -> bool:
        """See Place."""
        # What it checksums by itself it would tell when it is read.
        return self.server.psql("SELECT sum(length(content)) >= 0 FROM esb.message") != "f"

    def flip(self, ident: str, dice: random.Random) -> None:
        """See Place."""
        mark = _mark(ident).hex()
        where = f"position('\\x{mark}'::bytea IN content)"
        at = f"{where} + {len(mark) // 2 - 3}"
        bit = 1 << dice.randrange(7)
        flipped = f"set_byte(content, {at}, get_byte(content, {at}) # {bit})"
        done = self.server.psql(
            "SET search_path = esb;"
            f"UPDATE message SET content = {flipped} WHERE {where} > 0 RETURNING key"
        )
        assert done, f"{ident} is not in the store"


def _mark(ident: str) -> bytes:
    return f'"id": "{ident}"'.encode()


PLACES: dict[str, Callable[[Path], Place]] = {"sqlite": SqliteFile, "postgres": PostgresServer}
"""Stores by the name they have on the command line."""

ENGINES: dict[str, Mapping[str, Any]] = {
    "store": {},
    "rabbitmq": {
        "queues": {"on": {"connection": "rabbit"}, "each": {"line": {"one_reader": True}}},
    },
}
"""Engines of the bus's own queues, by name: what a project adds to choose one."""


def on_broker(flows: Sequence[str]) -> Iterator[str]:
    """Where the broker keeps what these flows send to the bus's own queues."""
    for flow, queue in (("queue", "work"), ("ordered", "line")):
        if flow in flows:
            yield from (f"esb.queue.{queue}{lane}" for lane in ("", ":keyed", ":urgent"))
