"""Durable messages: the settings under `store:` and what opens them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from esb.clock import REAL, Clock
from esb.options import Duration, Options, Size
from esb.store.files import InUse, StoreUnusable
from esb.store.rows import DAMAGED
from esb.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from esb.store.postgres import PostgresStore


def _checked_url(url: SecretStr) -> SecretStr:
    if not url.get_secret_value().startswith(("postgresql://", "postgres://")):
        raise ValueError(
            "a store's URL is that of a PostgreSQL: postgresql://user:password@host/db"
        )
    if find_spec("asyncpg") is None:
        raise ValueError("a store on PostgreSQL needs its driver: pip install 'esb[postgres]'")
    return url


class StoreOptions(Options):
    """Where the bus keeps messages: its queues, accepted ones, parked retries, dead letters.

    A file of its own, or a database that it shares with others of its kind.
    """

    path: Path = Field(
        Path("data/bus.db"),
        description="The file, made when missing; a relative path starts at the project's folder.",
    )
    url: Annotated[SecretStr, AfterValidator(_checked_url)] | None = Field(
        None,
        description="Instead of a file, a PostgreSQL database that several buses may share: "
        "`postgresql://user:password@host:5432/database`. The tables are made in its schema `esb`.",
    )
    lease: Duration = Field(
        15.0,
        description="How long a bus on a shared store may be silent before the others take over "
        "what it has in hand.",
    )
    max_size: Size = Field(
        10 * 1024**3,
        description="How much room messages may take up; beyond it new ones are refused.",
    )
    min_free: Size | None = Field(
        None,
        description="New messages are also refused when less than this is left on the file's disk, "
        "so that those that are there can still be delivered. 5% of the disk if left out, but no "
        "more than 256MB.",
    )
    receipts: Duration = Field(
        7 * 86400.0,
        description="How long it is remembered what became of a message that is through, for those "
        "who look it up. Dead letters stay until somebody drops them.",
    )

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.url is not None and "path" in self.model_fields_set:
            raise ValueError("a store has a path or a url, not both")
        if self.url is not None and self.min_free is not None:
            raise ValueError("min_free is about the disk of a file; a database's is not seen")
        return self


def open_store(
    settings: StoreOptions, folder: Path = Path(), clock: Clock = REAL
) -> SqliteStore | PostgresStore:
    """The store of a project in `folder`. It is a Resource: `open` it before use."""
    if settings.url is None:
        return SqliteStore(
            folder / settings.path,
            max_size=settings.max_size,
            min_free=settings.min_free,
            receipts=settings.receipts,
            clock=clock,
        )
    from esb.store.postgres import PostgresStore  # its driver is an extra

    return PostgresStore(
        settings.url.get_secret_value(),
        max_size=settings.max_size,
        receipts=settings.receipts,
        lease=settings.lease,
        clock=clock,
    )


__all__ = ["DAMAGED", "InUse", "SqliteStore", "StoreOptions", "StoreUnusable", "open_store"]
