"""Where a route has come to in a stream: a log that the broker keeps, and nobody's place in it.

https://www.rabbitmq.com/docs/streams#consuming
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import datetime
from typing import Final

import structlog

from esb.durable import Change, Done, Put, Store
from esb.envelope import Envelope
from esb.errors import EsbError

log = structlog.get_logger("esb.amqp")

Offset = str | int | datetime
"""Where to begin: "first", "last", "next", a number, or a time."""

EXPECTED_WITHIN: Final = 10.0
"""Seconds within which a stream must have handed out the message where the route has come to."""
FAILED_PAUSE: Final = 1.0
SAVED_EVERY: Final = 0.1
"""Seconds between two writes of the place, whatever the traffic: so much is read again after a
crash."""


class Position:
    """The offset up to which a route is through with a stream, kept in the store.

    Messages finish in any order. What is kept is the last one that has none unfinished before it,
    so a bus that died reads some messages again and skips none. It holds for as long as `begin`
    (the option `offset`) stays as it is: another one begins anew there.
    """

    def __init__(self, store: Store, route: str, queue: str, begin: Offset) -> None:
        self._store = store
        self._channel = f"amqp-offset:{route}:{queue}"
        self._begin = begin
        self._key: int | None = None
        self._kept = self._seen = -1
        self._open: dict[int, None] = {}  # in their order, which is that of the stream
        self._loaded = False
        self._saving: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._expecting = 0.0

    @property
    def through(self) -> int:
        """The last offset that has none unfinished before it; -1 for none."""
        return next(iter(self._open)) - 1 if self._open else self._seen

    @property
    def missing(self) -> str:
        """Why nothing comes, if that is odd."""
        if not self._expecting or _now() - self._expecting < EXPECTED_WITHIN:
            return ""
        return (
            f"the stream has no message {self._seen}, where the route has come to: was it deleted "
            "and made anew? Another `offset` begins anew, too"
        )

    async def start(self) -> Offset:
        """Where to consume from. Raises what the store raises."""
        if not self._loaded:
            self._seen = self._kept = -1
            self._open.clear()
            self._hurry.clear()
            for stored in await self._store.browse(self._channel):
                self._key = stored.key
                if stored.envelope.type == str(self._begin):
                    self._seen = self._kept = int(stored.envelope.subject)
            self._loaded = True
        if self._seen < 0:
            return self._begin
        # The last one of all comes again: a stream that does not have it is another one.
        self._expecting = _now()
        return self._seen

    def begin(self, offset: int) -> bool:
        """Whether a message is new; it is in the route then until it has `ended`."""
        self._expecting = 0.0
        if offset <= self._seen:
            return False
        self._seen = offset
        self._open[offset] = None
        return True

    def ended(self, offset: int) -> None:
        """The route is through with a message."""
        self._open.pop(offset, None)
        if self._saving is None or self._saving.done():
            self._saving = asyncio.create_task(self._save())

    async def stop(self) -> None:
        """Write down the place; what is unfinished is read again."""
        self._hurry.set()
        if self._saving is not None:
            await self._saving
        self._loaded = False
        self._expecting = 0.0

    async def _save(self) -> None:
        while self._kept < self.through:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SAVED_EVERY):
                    await self._hurry.wait()
            through = self.through
            changes: list[Change] = [
                Put(self._channel, Envelope(type=str(self._begin), subject=str(through)))
            ]
            if self._key is not None:
                changes.append(Done(self._key))
            try:
                [self._key] = await self._store.commit(changes)
            except EsbError as e:
                log.warning("the place in a stream could not be kept", reason=e.detail)
                if self._hurry.is_set():
                    return
                await asyncio.sleep(FAILED_PAUSE)
            else:
                self._kept = through


def _now() -> float:
    return asyncio.get_running_loop().time()
