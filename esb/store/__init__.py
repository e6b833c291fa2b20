"""Durable messages: the settings under `store:` and what opens them."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from esb.options import Options, Size
from esb.store.reading import DAMAGED
from esb.store.sqlite import SqliteStore, StoreUnusable


class StoreOptions(Options):
    """Where the bus keeps messages: its queues, accepted ones, parked retries, dead letters."""

    path: Path = Field(
        Path("data/bus.db"),
        description="The file, made when missing; a relative path starts at the project's folder.",
    )
    max_size: Size = Field(
        10 * 1024**3,
        description="How much room messages may take up; beyond it new ones are refused.",
    )


def open_store(settings: StoreOptions, folder: Path = Path()) -> SqliteStore:
    """The store of a project in `folder`. It is a Resource: `open` it before use."""
    return SqliteStore(folder / settings.path, max_size=settings.max_size)


__all__ = ["DAMAGED", "SqliteStore", "StoreOptions", "StoreUnusable", "open_store"]
