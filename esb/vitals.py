"""How the process itself is: what is late on its event loop, and what it was built of."""

from __future__ import annotations

import asyncio
import platform
from typing import Final

from esb import __version__
from esb.metrics import Gauge, Histogram

_EVERY: Final = 0.5

LAG: Final = Histogram(
    "esb_event_loop_lag_seconds",
    "How much later than due the event loop got to something: above 0.1 it is blocked.",
).labels()
BUILD: Final = Gauge("esb_build_info", "Always 1; what it is made of.", ("version", "python"))
BUILD.labels(__version__, platform.python_version()).value = 1


async def watch_loop() -> None:
    """Measure until it is cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _EVERY
        await asyncio.sleep(_EVERY)
        LAG.add(max(0.0, loop.time() - due))
