"""Waiting for conditions, and a clock that needs no waiting."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from esb.clock import Clock


async def until(condition: Callable[[], Any], timeout: float = 20.0) -> Any:
    """Return what `condition` (plain or async) returns once it is true."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        assert time.monotonic() < end, "the condition did not come true"
        await asyncio.sleep(0.005)


class Jumping:
    """A clock on which every sleep is over at once; `slept` lists them."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.slept: list[float] = []
        self.clock = Clock(lambda: self.now, lambda: self.now, self._sleep)

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)
