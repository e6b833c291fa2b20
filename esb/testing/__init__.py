"""For tests of projects.

Tests of routes in YAML (`esb test`): `models` says what may be written, `suite` reads and runs a
file, `stage` plays what is outside, `play` lets messages come and time pass, `verdict` compares,
`report` tells. `run_tests` in `report` is the whole.

For tests in Python there is `running`: real routes, in this process, on a port of their own.

    with running({"routes": mock_routes(Path("partner.wsdl"))}) as bus:
        answer = requests.post(f"{bus.url}/partner", ...)
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esb.bus import Bus, Shared
from esb.config import load


@dataclass(frozen=True)
class Running:
    """A bus that runs in a thread; `url` is where its listener is, "" if it has none."""

    bus: Bus
    url: str


@contextlib.contextmanager
def running(
    document: Mapping[str, Any],
    paths: Sequence[Path] = (),
    *,
    root: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Iterator[Running]:
    """Run the routes of `document`, plain data in the shape of a route file, and of the files in
    `paths`, until the block ends.

    root: the folder that files are looked up in and never leave; the working directory if None.
    environ: what `${NAME}` stands for. Raises ConfigError for what is wrong with the routes,
    EsbError if the bus cannot start.
    """
    loop = asyncio.new_event_loop()
    with tempfile.TemporaryDirectory() as folder:
        defaults = {"listen": {"port": 0}, "store": {"path": f"{folder}/store.db"}}
        shared = Shared()
        project = load(
            paths, extra={**defaults, **document}, environ=environ or {}, root=root, shared=shared
        ).check()
        bus = Bus(project.routes, shared, grace=5.0)
        thread = threading.Thread(target=loop.run_forever, name="esb", daemon=True)
        thread.start()
        try:
            asyncio.run_coroutine_threadsafe(bus.start(), loop).result()
            urls = [str(thing.url) for thing in shared.objects.values() if hasattr(thing, "url")]
            yield Running(bus, urls[0] if urls else "")
        finally:
            if bus.state != "stopped":
                asyncio.run_coroutine_threadsafe(bus.stop(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()
