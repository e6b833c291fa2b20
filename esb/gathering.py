"""Gathers what steps put aside in the store until it is complete (EIP: Aggregator, Resequencer).

Each message waits in a channel of the step's own. Whoever gathers there keeps in mind what `Entry`
tells of them, reads a message only when it is its turn, and passes it on in one commit that forgets
it: into the accepted messages of the route that goes on with it. So whatever dies, and whenever,
none is lost and none passed on twice.

One process gathers at a time, told by a claim in the store, which ends with that process. Should
two do it after all, because one was taken for dead, the store refuses the second its commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Iterable
from typing import Any, Final, Protocol

import structlog

from esb.adapter import Health
from esb.clock import REAL, Clock
from esb.durable import Entry, Store, Superseded, give_up, unit_on
from esb.errors import BadMessage, EsbError, Overloaded
from esb.options import Range
from esb.step import Step

log = structlog.get_logger("esb.gathering")

ASK_AGAIN: Final = 1.0
"""Seconds between two looks whether whoever gathers is gone."""
LOOK_AGAIN: Final = 30.0  # only a clock that was set ahead makes something due without a bell
LOOK_AFRESH: Final = 5.0
"""Seconds after which all is read again if something happened: what comes back from the dead
letters has an old key."""
SHARE: Final = 50
"""Of the time, no more than one in so many is spent on that."""
PAGE: Final = 10_000
AT_ONCE: Final = 16
"""So many groups are read and passed on side by side, and share an fsync."""
LONGEST_KEY: Final = 400
"""Characters of what messages are told apart by: an index holds them."""


class Rule(Protocol):
    """What a step makes of the messages that it has put aside."""

    def forget(self) -> None:
        """Forget all that was learned: it is told anew."""

    def learn(self, entry: Entry, now: float) -> None:
        """A message waits there. It may have been told before."""

    async def act(self, now: float) -> None:
        """Pass on what is complete at this time. Raises Superseded if somebody else did, and what
        the store raises."""

    def due(self) -> float | None:
        """When there is something to do even if no message comes, as a Unix time."""


class Gathering:
    """A Source over `channel` of `store`, where a step puts messages that belong to groups.

    The rule puts what is complete into the route's accepted messages, where every process may take
    it; so the step that this source is started with is run by that other source of the route.
    """

    waits = False

    def __init__(self, store: Store, channel: str, rule: Rule, *, clock: Clock = REAL) -> None:
        self.where = channel.replace(":", " ", 1)
        self.channel = channel
        self._store = store
        self._rule = rule
        self._clock = clock
        self._backoff = Range(first=1, longest=60)
        self._task: asyncio.Task[None] | None = None
        self._failures = 0
        self._trouble = ""

    async def start(self, step: Step) -> None:
        """Begin to gather."""
        self._task = asyncio.create_task(self._run(), name=f"esb {self.where}")

    async def stop(self, grace: float) -> None:
        """Stop at once: what is not committed is done by whoever gathers next."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def health(self) -> Health:
        """Whether somebody gathers, here or in another process."""
        if self._task is None:
            return Health(False, "stopped")
        return Health(not self._trouble, self._trouble)

    async def _run(self) -> None:
        while True:
            try:
                async with self._alone():
                    self._rule.forget()
                    while True:
                        await self._gather()
            except Superseded:
                log.info("another process gathers as well: beginning anew", channel=self.channel)
            except Exception as e:  # noqa: BLE001 - whatever it is, what lies there is not given up
                self._failures += 1
                self._trouble = e.detail if isinstance(e, EsbError) else "internal error"
                bug = None if isinstance(e, EsbError) else e
                tell = log.error if bug else log.warning
                tell("gathering failed", channel=self.channel, error=self._trouble, exc_info=bug)
            await self._clock.sleep(self._backoff.delay(max(self._failures, 1)))

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """As the only one who gathers in this channel."""
        scope = "gathering"
        # Without room for a claim somebody must make some.
        with contextlib.suppress(Overloaded):
            while (
                await self._store.claim(scope, self.channel, self._clock.time() + LOOK_AFRESH)
            ).state != "new":
                self._went_well()
                await self._clock.sleep(ASK_AGAIN)
        try:
            yield
        finally:
            await give_up(self._store, (scope, self.channel))

    async def _gather(self) -> None:
        """Learn of what lies there, and act on what comes, until all should be read again."""
        newest = 0
        afresh = float("inf")
        happened = False
        while not happened or self._clock.monotonic() < afresh:
            news = asyncio.ensure_future(self._store.wait(self.channel, LOOK_AGAIN, news=True))
            alarm: asyncio.Future[Any] | None = None
            try:
                await asyncio.sleep(0)  # from here on it listens, so nothing slips through
                begun = time.perf_counter()
                first, newest = not newest, await self._look(newest)
                took = time.perf_counter() - begun
                if first:
                    afresh = self._clock.monotonic() + max(LOOK_AFRESH, SHARE * took)
                await self._rule.act(self._clock.time())
                self._went_well()
                await self._clock.sleep(took)  # the store is there for others, too
                pauses = [due - self._clock.time()] if (due := self._rule.due()) is not None else []
                if happened:
                    pauses.append(afresh - self._clock.monotonic())
                if pauses:
                    alarm = asyncio.ensure_future(self._clock.sleep(min(pauses)))
                some = {news, alarm} if alarm else {news}
                done, _ = await asyncio.wait(some, return_when=asyncio.FIRST_COMPLETED)
                if news in done:
                    news.result()
                    happened = True
            finally:
                news.cancel()
                if alarm is not None:
                    alarm.cancel()

    async def _look(self, newest: int) -> int:
        """Learn of what came after the key `newest`; returns the newest key now."""
        while True:
            entries = await self._store.entries(self.channel, limit=PAGE, after=newest)
            now = self._clock.time()
            for entry in entries:
                self._rule.learn(entry, now)
            before, newest = newest, max(newest, entries[-1].key if entries else 0)
            if newest == before or len(entries) < PAGE:
                return newest

    def _went_well(self) -> None:
        self._failures, self._trouble = 0, ""


async def side_by_side(work: Iterable[Awaitable[None]]) -> None:
    """Do all of it, AT_ONCE at a time. Raises the first error once the others have ended too."""
    free = asyncio.Semaphore(AT_ONCE)

    async def one(what: Awaitable[None]) -> None:
        async with free:
            await what

    done = await asyncio.gather(*map(one, work), return_exceptions=True)
    for result in done:
        if isinstance(result, BaseException):
            raise result


def key_text(value: object, what: str) -> str:
    """What tells groups apart, as text; what: they are, for people. Raises BadMessage if a message
    has nothing there, or nothing that would do."""
    if isinstance(value, bool | list | dict) or value is None or value == "":
        raise BadMessage(f"the message belongs to no {what}")
    text = str(value)
    if len(text) > LONGEST_KEY or "\0" in text:
        raise BadMessage(f"the name of the {what} that the message belongs to is no name")
    return text


def is_replayed(store: Store) -> bool:
    """Whether the message of this run has failed before, and somebody wants it all the same."""
    unit = unit_on(store)
    return unit is not None and unit.about is not None and unit.about.failure is not None
