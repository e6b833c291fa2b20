"""Connections and channels that come back: what endpoints stand on.

A `Link` keeps one connection to one broker, a `Lane` one channel on it, set up the same way each
time. Both try again with backoff for as long as they are open, tell why in their health, and log a
change once, not each attempt.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
import structlog

from esb.adapter import Build, Health
from esb.errors import EsbError, Transient, Unreachable
from esb.options import Range
from esb_amqp.client import Channel, Connection
from esb_amqp.wire import Address

log = structlog.get_logger("esb.amqp")

RENEWED_AFTER: Final = 2.0
"""Seconds a channel is kept at least, though the broker refuses what is published on it."""
SETTLED: Final = 10.0
"""Seconds after which a connection counts as one that works, so that backoff starts anew."""
QUICK: Final = 2.0
"""Seconds a sender waits for a connection that is away: a blink is bridged, an outage is told."""


class Backoff:
    """Growing pauses with jitter: `next()` is the next one in seconds."""

    def __init__(self, pauses: Range) -> None:
        self._range = pauses
        self._failures = 0

    def next(self) -> float:
        """The pause after one more failure."""
        pause = min(self._range.first * 2.0 ** min(self._failures, 30), self._range.longest)
        self._failures += 1
        return pause * random.uniform(0.8, 1.2)  # noqa: S311 - jitter

    def reset(self) -> None:
        """It worked."""
        self._failures = 0


class Settings(msgspec.Struct, frozen=True):
    """What makes two endpoints share a connection: all of it.

    addresses: one broker's, or those of the nodes of a cluster, any of which will do.
    """

    addresses: tuple[Address, ...]
    tls: tuple[tuple[str, str, int], ...] | None
    heartbeat: float
    connect_timeout: float
    name: str
    reconnect: tuple[float, float]

    @property
    def broker(self) -> str:
        """Where it is, for people."""
        return ", ".join(map(str, self.addresses))


class Link:
    """One connection to a broker, made when first needed and again after each loss. A Resource."""

    def __init__(self, settings: Settings, tls: ssl.SSLContext | None) -> None:
        self.settings = settings
        self._tls = tls
        self._task: asyncio.Task[None] | None = None
        self._open = False
        self._connection: Connection | None = None
        self._up = asyncio.Event()
        self._detail = ""

    @property
    def pauses(self) -> Range:
        """The backoff of everything on this link."""
        first, longest = self.settings.reconnect
        return Range(first=first, longest=longest)

    async def open(self) -> None:
        """From now on `connected` connects."""
        self._open = True

    async def close(self) -> None:
        """Disconnect, for good."""
        self._open = False
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    def health(self) -> Health:
        """Whether the connection stands; one that nobody needed yet is well."""
        connection = self._connection
        if self._task is None and connection is None:
            return Health(True)
        if connection is None or connection.closed.done():
            return Health(False, self._detail or f"connecting to {self.settings.broker}")
        if connection.blocked:
            return Health(
                False, f"{connection.address} takes no messages now: {connection.blocked}"
            )
        return Health(True)

    async def connected(self) -> Connection:
        """The connection, as soon as there is one."""
        while True:
            connection = self._connection
            if connection is not None and not connection.closed.done():
                return connection
            if self._task is None and self._open:
                self._task = asyncio.create_task(self._run(), name=f"amqp {self.settings.broker}")
            # Cleared by who waits, because who waits may know of a loss before `_run` does.
            self._up.clear()
            await self._up.wait()

    async def _run(self) -> None:
        settings = self.settings
        backoff = Backoff(self.pauses)
        loop = asyncio.get_running_loop()
        addresses = deque(settings.addresses)
        left = len(addresses)  # to be tried before the next pause
        while True:
            try:
                connection = await Connection.open(
                    addresses[0],
                    tls=self._tls if addresses[0].tls else None,
                    heartbeat=settings.heartbeat,
                    name=settings.name,
                    timeout=settings.connect_timeout,
                )
            except EsbError as e:
                reason = e.detail
            else:
                since = loop.time()
                self._connection, self._detail = connection, ""
                self._up.set()
                log.info("connected to the broker", broker=str(addresses[0]))
                # Shielded: the future belongs to the connection, not to this task.
                reason = await asyncio.shield(connection.closed)
                if loop.time() - since > SETTLED:
                    backoff.reset()
                    left = len(addresses)
            addresses.rotate(-1)
            left -= 1
            pause = backoff.next() if left <= 0 else 0.0
            self._down(reason, pause)
            if pause:
                await asyncio.sleep(pause)
                left = len(addresses)

    def _down(self, reason: str, pause: float) -> None:
        detail = f"waiting for {self.settings.broker}: {reason}"
        if detail != self._detail:
            self._detail = detail
            log.warning(
                "no connection to the broker, trying again",
                broker=self.settings.broker,
                reason=reason,
                pause=round(pause, 1),
            )


class Standby(Transient):
    """Somebody else does the work, and all is well."""

    code = "standby"


class Lane:
    """A channel that is there again after each loss, prepared by `prepare`. A Resource.

    what: for people, in health and logs ("queue 'orders'").
    prepare: declares, checks, consumes; a broker that refuses it is asked again with backoff. So is
        whoever raises Standby, in place of somebody else.
    """

    def __init__(
        self,
        link: Link,
        what: str,
        prepare: Callable[[Channel], Awaitable[None]],
        *,
        confirms: bool = False,
    ) -> None:
        self._link = link
        self._what = what
        self._prepare = prepare
        self._confirms = confirms
        self._task: asyncio.Task[None] | None = None
        self._channel: Channel | None = None
        self._ready = asyncio.Event()
        self._renewal: asyncio.Future[None] | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        self._detail = ""
        self._stands_by = False

    async def open(self) -> None:
        """Begin; returns at once."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"amqp {self._what}")

    async def close(self) -> None:
        """Close the channel, for good; what was settled on it is settled when this returns."""
        task, self._task = self._task, None
        tasks = [*self._retiring] if task is None else [task, *self._retiring]
        for one in tasks:
            one.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    def health(self) -> Health:
        """Whether the channel is there and prepared, or need not be."""
        link = self._link.health()
        if not link.up:
            return link
        if self.current is None:
            return Health(self._stands_by, self._detail or f"{self._what}: not ready yet")
        return Health(True)

    @property
    def current(self) -> Channel | None:
        """The channel, if it is there now."""
        channel = self._channel
        return channel if channel is not None and channel.is_open else None

    async def channel(self, timeout: float) -> Channel:
        """The channel, waiting for it a moment. Raises Unreachable, noted with the reason."""
        if (channel := self.current) is not None:
            return channel
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(timeout, QUICK)):
                while self.current is None:
                    self._ready.clear()
                    await self._ready.wait()
        if (channel := self.current) is not None:
            return channel
        link = self._link.health()
        told = "cannot be reached" if not link.up else "is not ready for this message"
        raise Unreachable(f"the broker {told} now").noted(
            self.health().detail or f"{self._what}: no channel to the broker"
        )

    def renew(self, channel: Channel) -> None:
        """Replace a channel on which the broker refused a message, unless it is quite new.

        RabbitMQ may go on refusing on one that met a quorum queue while it had no leader, long
        after there is one again.
        """
        if channel is self._channel and self._renewal is not None and not self._renewal.done():
            self._renewal.set_result(None)

    async def _idle(self, channel: Channel) -> None:
        """Return when nobody needs a channel any more that was replaced."""
        await channel.idle()

    async def _retire(self, channel: Channel) -> None:
        try:
            await self._idle(channel)
        finally:
            await channel.close()

    async def _run(self) -> None:
        backoff = Backoff(self._link.pauses)
        loop = asyncio.get_running_loop()
        while True:
            connection = await self._link.connected()
            channel: Channel | None = None
            try:
                channel = await connection.channel(confirms=self._confirms)
                await self._prepare(channel)
            except EsbError as e:
                if channel is not None:
                    await channel.close()
                pause = backoff.next()
                self._stands_by = isinstance(e, Standby)
                # A lost connection is the link's to tell.
                if not connection.closed.done():
                    self._down(e.detail, pause)
                await asyncio.sleep(pause)
                continue
            except BaseException:
                # Stopped in the middle: a consumer that nobody stops is handed messages for ever.
                if channel is not None:
                    await channel.close()
                raise
            if self._detail:
                log.info("ready again", what=self._what)
            if (replaced := self.current) is not None:
                retiring = asyncio.create_task(self._retire(replaced))
                self._retiring.add(retiring)
                retiring.add_done_callback(self._retiring.discard)
            self._channel, self._detail, self._stands_by = channel, "", False
            backoff.reset()
            self._ready.set()
            self._renewal, since = loop.create_future(), loop.time()
            # Not a gather: the future belongs to the channel, not to this task.
            ends: list[asyncio.Future[Any]] = [channel.closed, self._renewal]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not channel.closed.done():
                await asyncio.wait((channel.closed,), timeout=since + RENEWED_AFTER - loop.time())
            elif (why := channel.closed.result()) is not None:
                pause = backoff.next()
                self._down(why.detail, pause)
                await asyncio.sleep(pause)

    def _down(self, reason: str, pause: float) -> None:
        detail = f"{self._what}: {reason}"
        if detail != self._detail:
            self._detail = detail
            tell = log.info if self._stands_by else log.warning
            tell(
                "standing by" if self._stands_by else "the broker refuses, trying again",
                what=self._what,
                broker=self._link.settings.broker,
                reason=reason,
                pause=round(pause, 1),
            )


def shared_link(build: Build, purpose: str, settings: Settings, tls: ssl.SSLContext | None) -> Link:
    """The one link of a bus with these settings for a purpose ("in", "out").

    Messages come and go on different connections: a broker that blocks publishers stops reading
    from theirs, and must go on reading acknowledgements.
    """
    key = (f"amqp {purpose} {settings.broker}", settings)
    return build.shared(key, lambda: Link(settings, tls))
