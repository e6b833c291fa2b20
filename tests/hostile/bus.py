"""The bus under attack: `esb run` as it is, and beside it somebody who looks how long its event
loop is kept from its work.

`python -m hostile.bus <lag file> <sabotage or -> <arguments of esb>`

What counts of a gap between two looks is the time that this process worked in it, all threads
together: other processes of a busy machine keep it from working, but that is none of its faults.
"""

from __future__ import annotations

import asyncio
import mmap
import struct
import sys
import time
from pathlib import Path
from typing import Any

from esb import bus, cli

_EVERY = 0.002
SIZE = 24


def look(shared: mmap.mmap) -> None:
    """From now on write into `shared`: the longest gap since somebody put 0 there, in seconds of
    work and on the clock, and how often it was looked."""
    loop = asyncio.get_running_loop()
    before = (time.process_time(), time.perf_counter())

    def tick() -> None:
        nonlocal before
        now = (time.process_time(), time.perf_counter())
        worked, passed = now[0] - before[0], now[1] - before[1] - _EVERY
        longest, beside, count = struct.unpack("ddQ", shared[:SIZE])
        if min(worked, passed) > longest:
            longest, beside = min(worked, passed), passed
        shared[:SIZE] = struct.pack("ddQ", longest, beside, count + 1)
        before = now
        loop.call_later(_EVERY, tick)

    loop.call_soon(tick)


def main(argv: list[str]) -> None:
    """Run it."""
    lags, sabotage, *rest = argv
    with Path(lags).open("r+b") as file:
        shared = mmap.mmap(file.fileno(), SIZE)
    start = bus.Bus.start

    async def started(self: Any) -> None:
        look(shared)
        await start(self)

    bus.Bus.start = started  # type: ignore[method-assign]
    if sabotage != "-":
        from hostile.sabotage import SABOTAGE

        SABOTAGE[sabotage]()
    sys.argv = ["esb", *rest]
    cli.app()


if __name__ == "__main__":
    main(sys.argv[1:])
