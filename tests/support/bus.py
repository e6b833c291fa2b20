"""A real bus from YAML text, in this process, on free ports."""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from esb.bus import Bus, Shared
from esb.config import Project, load
from esb.durable import Store
from esb.store import SqliteStore
from esb.store.postgres import PostgresStore


def load_text(
    text: str, folder: Path, *, environ: Mapping[str, str] | None = None, name: str = "routes.yaml"
) -> Project:
    """Write `text` to a file in `folder` and load it; see `Project.diagnostics`."""
    file = folder / name
    file.write_text(textwrap.dedent(text))
    return load([file], environ=environ or {}, root=folder)


@contextlib.asynccontextmanager
async def running(
    text: str,
    folder: Path,
    *,
    environ: Mapping[str, str] | None = None,
    grace: float = 10.0,
    stopped: Sequence[str] = (),
) -> AsyncIterator[Bus]:
    """A started bus; it listens on a port of its own unless the text says where.

    `url(bus)` is where its HTTP routes are.
    """
    text = textwrap.dedent(text)
    if "\nlisten:" not in "\n" + text:
        text += "\nlisten: {port: 0}\n"
    if "\nstore:" not in "\n" + text:
        text += f"\nstore: {{path: {folder / 'bus.db'}}}\n"
    shared = Shared()
    file = folder / "routes.yaml"
    file.write_text(text)
    project = load([file], environ=environ or {}, root=folder, shared=shared).check()
    bus = Bus(project.routes, shared, grace=grace, stopped=stopped)
    await bus.start()
    try:
        yield bus
    finally:
        await bus.stop()


def url(bus: Bus) -> str:
    """The base URL of the bus's HTTP listener."""
    web: Any = bus.shared.objects["web"]
    return str(web.url)


def store_of(bus: Bus) -> Store:
    """The bus's own store."""
    kinds = SqliteStore | PostgresStore
    found: Store = next(o for o in bus.shared.objects.values() if isinstance(o, kinds))
    return found
