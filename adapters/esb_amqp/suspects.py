"""Finds the message that the bus dies of, which its queue would hand out again for ever.

A source notes in the store that it is at work, and takes that back when it stops in order. So the
next process knows whether the one before it died at work. Only then are messages that come again
suspects: each is noted before it is run, alone, and a note that nobody took back is a death.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Final

from esb.durable import MOST_CRASHES, Store, give_up
from esb.errors import EsbError, Permanent
from esb_amqp.client import Channel, Delivery
from esb_amqp.link import Standby

_REMEMBERED: Final = 7 * 86_400.0
"""Seconds after which a note that was left behind may be forgotten."""


def poison(detail: str) -> EsbError:
    """Why a message must not be run again."""
    error = Permanent(detail)
    error.code = "poison"
    return error


class Suspects:
    """The messages of one source with which a process before this one may have died."""

    def __init__(self, store: Store, route: str, queue: str) -> None:
        self._alone = asyncio.Lock()
        self._store = store
        self._scope = f"amqp:{route}"
        self._queue = queue
        self._first: Channel | None = None
        self._died = False

    async def start(self, channel: Channel, *, only_one: bool = False) -> None:
        """A channel is about to bring messages. Raises what the store raises.

        only_one: Standby is raised while another bus on the store, or the route as it was before
            a reload, is at work on the same.
        """
        if self._first is None:
            claim = await self._store.claim(self._scope, self._queue, _until())
            if only_one and claim.state == "busy":
                raise Standby("another one on the same store is at work on it")
            self._died = claim.crashes > 0 or claim.state == "busy"
            self._first = channel

    async def stop(self) -> None:
        """The source stopped in order."""
        if self._first is None:
            return
        self._first = None
        await self._release(self._queue)

    def may_be(self, delivery: Delivery) -> bool:
        """Whether a message is a suspect: what a dead process had in hand comes first."""
        return self._died and delivery.redelivered and delivery.channel is self._first

    @contextlib.asynccontextmanager
    async def trying(self, identity: str) -> AsyncIterator[EsbError | None]:
        """Note durably that a suspect is run, alone, so that none beside it is blamed for what it
        does. Yields why it must not be run, if so; if it cannot be put aside either, the note
        stays, for it must not be run the next time. Raises what the store raises.
        """
        noted = f"{self._queue}/{identity}"
        async with self._alone:
            claim = await self._store.claim(self._scope, noted, _until())
            deaths = claim.crashes + 1  # with the first, nothing was noted yet
            refusal = None
            if deaths >= MOST_CRASHES:
                refusal = poison(f"the bus died {deaths} times in a row with this message in hand")
            try:
                yield refusal
            except BaseException:
                if refusal is None:
                    await self._release(noted)
                raise
            await self._release(noted)

    async def _release(self, noted: str) -> None:
        await give_up(self._store, (self._scope, noted))


def _until() -> float:
    return time.time() + _REMEMBERED
