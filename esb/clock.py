"""Time as a part that is handed in, so that a test of waits and retries takes no time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic as _monotonic
from time import time as _time


@dataclass(frozen=True)
class Clock:
    """The three things that wait for time to pass need.

    time: seconds since 1970, for what is stored and must mean the same after a restart.
    monotonic: seconds that never jump, for deadlines.
    sleep: lets seconds pass.
    """

    time: Callable[[], float] = _time
    monotonic: Callable[[], float] = _monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


REAL = Clock()
