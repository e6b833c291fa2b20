"""Time as a part that is handed in, so that a test of waits and retries takes no time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from time import monotonic as _monotonic
from time import time as _time
from typing import Any


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

current: ContextVar[Clock] = ContextVar("clock", default=REAL)
"""The clock of whatever runs here, for what none can be handed to, such as expressions."""


def moment(value: Any) -> float:
    """A point in time as data spells it, in seconds since 1970: a time, text as in ISO 8601 (UTC if
    it names no offset), or such seconds. Raises ValueError if it is none of these."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return float(value)
    raise ValueError("a time is text as in ISO 8601, or a number of seconds since 1970")
