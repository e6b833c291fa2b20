"""Where the bus under test keeps its messages: what a project writes to choose it, and a view of it
from outside, by plain SQL."""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

SETTLED = ("dead", "damaged")
"""Channels in which messages rest: everything elsewhere is still on its way."""


class Place(ABC):
    """A store, made in `folder` for one bus."""

    name: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """The project's `store:`."""

    @abstractmethod
    def counts(self) -> dict[str, int]:
        """Messages by channel."""

    @abstractmethod
    def whole(self) -> bool:
        """Whether the store itself says that it is sound."""

    @abstractmethod
    def parked(self) -> int:
        """How many messages wait between two tries."""

    def waiting(self) -> int:
        """How many messages are still on their way."""
        return sum(count for name, count in self.counts().items() if name not in SETTLED)


class Sqlite(Place):
    """The file of the bus, read by a SQLite that is not the one of the bus."""

    name = "sqlite"

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
            return dict(db.execute("SELECT channel, count(*) FROM message GROUP BY channel"))

    def parked(self) -> int:
        """See Place."""
        with closing(self._connect()) as db:
            return int(db.execute("SELECT count(*) FROM message WHERE due > 0").fetchone()[0])

    def whole(self) -> bool:
        """See Place."""
        with closing(self._connect()) as db:
            return db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(f"file:{self.file}?mode=ro", uri=True, timeout=10)
        db.execute("PRAGMA query_only=ON")
        return db


PLACES: dict[str, Callable[[Path], Place]] = {"sqlite": Sqlite}
"""Stores by the name they have on the command line."""

ENGINES: dict[str, Mapping[str, Any]] = {"store": {}}
"""Engines of the bus's own queues, by name: what a project adds to choose one."""
