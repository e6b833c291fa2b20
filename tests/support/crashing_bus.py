"""A bus that runs until it is killed. Run as `python crashing_bus.py FOLDER`, which holds
routes.yaml; the store is FOLDER/bus.db."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

import structlog

from esb.bus import Bus, Shared
from esb.config import load


async def main(folder: Path) -> None:
    shared = Shared()
    project = load([folder / "routes.yaml"], environ={}, root=folder, shared=shared).check()
    bus = Bus(project.routes, shared)
    await bus.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    asyncio.run(main(Path(sys.argv[1])))
