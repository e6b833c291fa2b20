"""Takes messages of one channel of the store and runs a step on each (EIP: Competing Consumers).

A message is forgotten only after its step returned, in one commit with what the step changed in the
store. One that fails for now, or runs into a bug, is
put back and waits longer each time; one that fails for good goes to the dead letters. Should even
that not be possible, it is held and the attempt to write it down is repeated: it is never
acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial

import structlog

from esb.adapter import Health
from esb.clock import REAL, Clock
from esb.durable import DEAD, Done, Failure, Move, Receipt, Store, Stored, Superseded, Unit
from esb.envelope import Envelope, Outcome
from esb.errors import EsbError, Permanent, RouteFailure, Transient, Unavailable
from esb.identity import sender
from esb.options import Range
from esb.step import Step

log = structlog.get_logger("esb.consumer")

LONGEST_RETRY_AFTER = 300.0
"""What a far side may ask us to wait; beyond that it is capped."""

_SETTLING = 5
"""So many times as many as may be in the step wait for their commits at most, and as many are taken
ahead."""

_QUICK = 0.05
"""Where all of a take is begun within so many seconds more at a time are taken: one of a higher
priority waits no longer than that, and no other consumer stands idle beside what waits here."""

LOOK_AGAIN = 30.0  # only a clock that was set back makes a message due without anybody ringing


class Consumer:
    """A Source over `channel` of `store`.

    concurrency: how many messages are in the step at a time.
    order: one at a time, in the order they were stored; one that fails for now stops those behind
        it until it passed or failed for good.
    backoff: how long one that failed for now is put off.
    receipts: keep a receipt of all that is through, and not only of what has a business key.
    route: who is named in the dead letters.
    """

    waits = False

    def __init__(
        self,
        store: Store,
        channel: str,
        *,
        route: str,
        concurrency: int = 10,
        order: bool = False,
        backoff: Range = Range(first=1, longest=60),  # noqa: B008 - immutable
        receipts: bool = False,
        clock: Clock = REAL,
    ) -> None:
        self.where = channel.replace(":", " ", 1)
        self._store = store
        self._channel = channel
        self._route = route
        self._order = order
        self._backoff = backoff
        self._receipts = receipts
        self._clock = clock
        # Taking some ahead saves trips to the store; in order, the one behind must not be at hand.
        self._at_once = 1 if order else concurrency
        self._pause = 0.0
        self._limit = self._at_once  # of a take
        self._took = False, 0.0  # whether the last one was full, and when it was
        self._ahead: deque[Stored] = deque()
        self._running: dict[asyncio.Task[None], Stored] = {}
        self._dispatcher: asyncio.Task[None] | None = None
        self._trouble = ""
        self._hopeless = False  # the store takes nothing more, so nothing can be finished

    @property
    def channel(self) -> str:
        """Where in the store it takes messages from."""
        return self._channel

    @property
    def in_order(self) -> bool:
        """Whether it takes one at a time."""
        return self._order

    async def start(self, step: Step) -> None:
        """Begin to take messages."""
        self._dispatcher = asyncio.create_task(self._dispatch(step))

    async def stop(self, grace: float) -> None:
        """Stop taking, let what is in the step finish for `grace` seconds, give the rest back."""
        dispatcher, self._dispatcher = self._dispatcher, None
        if dispatcher is not None:  # else somebody waits for that already, and this one hurries
            dispatcher.cancel()
            await asyncio.gather(dispatcher, return_exceptions=True)
        if self._running:
            await asyncio.wait(self._running, timeout=0 if self._hopeless else grace)
        unfinished = dict(self._running)
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
        back = (*unfinished.values(), *self._ahead)
        self._ahead.clear()
        # At once: a store that is away keeps each of them waiting.
        await asyncio.gather(*map(self._put_back, back))

    def health(self) -> Health:
        """Whether messages are taken now."""
        if self._dispatcher is None:
            return Health(False, "stopped")
        return Health(not self._trouble, self._trouble)

    async def _dispatch(self, step: Step) -> None:
        # Who is through its step waits for an fsync: that keeps nobody from the far side, unless
        # order does, or too many wait.
        slots = asyncio.Semaphore(self._at_once)
        settling = asyncio.Semaphore(1 if self._order else self._at_once * _SETTLING)

        def finished(task: asyncio.Task[None]) -> None:
            del self._running[task]
            settling.release()

        while True:
            await settling.acquire()
            await slots.acquire()
            if self._pause:
                await self._clock.sleep(self._pause)
                self._pause = 0.0
            stored = await self._next()
            task = asyncio.create_task(self._handle(step, stored, slots.release))
            self._running[task] = stored
            task.add_done_callback(finished)

    async def _take(self, wait: float) -> None:
        # Each take is a trip to the store, and those that wait for it join fewer commits: so more
        # at a time, the quicker they are through.
        loop = asyncio.get_running_loop()
        most = self._at_once if self._order else self._at_once * _SETTLING
        full, since = self._took
        quick = full and loop.time() - since < _QUICK
        self._limit = limit = min(self._limit * 2, most) if quick else self._at_once
        taken = await self._store.take(self._channel, limit, in_order=self._order, wait=wait)
        self._took = len(taken) == limit, loop.time()
        self._ahead.extend(taken)

    async def _next(self) -> Stored:
        failures = 0
        while not self._ahead:
            try:
                # After a failure the store is asked first whether it is there again.
                await self._take(0.0 if failures else LOOK_AGAIN)
                failures, self._trouble = 0, ""
            except Exception as e:
                failures += 1
                self._trouble = e.detail if isinstance(e, EsbError) else "internal error"
                if not isinstance(e, EsbError):
                    log.error("taking messages failed", channel=self._channel, exc_info=e)
                await self._clock.sleep(self._backoff.delay(failures))
        return self._ahead.popleft()

    async def _handle(self, step: Step, stored: Stored, leave: Callable[[], None]) -> None:
        attempt = stored.attempts + 1
        envelope = stored.envelope.replace(attempt=attempt, outcome=Outcome.MESSAGE, deadline=None)
        async with Unit(self._store, taken=stored, in_order=self._order) as unit:
            try:
                result = await step(envelope)
            except (Exception, asyncio.CancelledError) as e:
                if _is_cancelled():
                    raise
                # Whatever a step raises, its message is kept: also if what it waited for was ended.
                unit.settle(self._failed(stored, attempt, e))
            else:
                unit.settle(Done(stored.key, stored.hold, receipt=self._receipt(envelope, result)))
            finally:
                leave()
            await self._insist(unit.commit, stored, attempt)

    def _receipt(self, envelope: Envelope, result: Envelope) -> Receipt | None:
        business_key = envelope.business_key or result.business_key
        if not self._receipts and not business_key:
            return None
        return Receipt(
            envelope.id,
            self._route,
            result.outcome.value,
            business_key,
            sender(envelope),
        )

    def _failed(self, stored: Stored, attempt: int, cause: BaseException) -> Move:
        """What becomes of a message whose run raised."""
        error = cause if isinstance(cause, EsbError) else RouteFailure("internal error")
        when = datetime.fromtimestamp(self._clock.time(), UTC)
        failure = Failure.of(error, self._route, attempt, when)
        about = {"channel": self._channel, "message": stored.envelope.id, "code": error.code}
        if error is cause and not isinstance(error, Transient):
            log.warning("a message goes to the dead letters", **about, error=error.detail)
            return Move(stored.key, DEAD, 0.0, attempt, failure, stored.hold)
        asked = (error.retry_after or 0.0) if isinstance(error, Transient) else 0.0
        pause = max(self._backoff.delay(attempt), min(asked, LONGEST_RETRY_AFTER))
        # In order it keeps its place, and those behind it wait too.
        due = 0.0 if self._order else self._clock.time() + pause
        self._pause = pause if self._order else 0.0
        bug = None if error is cause else cause
        tell = log.error if bug else log.info
        tell("a message is put back", **about, seconds=round(pause, 1), exc_info=bug)
        return Move(stored.key, self._channel, due, attempt, failure, stored.hold)

    async def _insist(
        self, commit: Callable[[], Awaitable[object]], stored: Stored, attempt: int
    ) -> None:
        """Commit until it succeeds: going on without it would handle the message twice or never."""
        failures = 0
        while True:
            try:
                await commit()
            except Superseded:
                about = {"channel": self._channel, "message": stored.envelope.id}
                log.warning("somebody else has a message by now; this run does not count", **about)
                return
            except EsbError as e:
                failures += 1
                self._trouble = e.detail
                self._hopeless = isinstance(e, Unavailable) and e.for_good
                if isinstance(e, Permanent):
                    # What the run changed cannot be stored, now or later.
                    aside = self._failed(stored, attempt, e)
                    commit = partial(self._store.commit, (aside,))
                await self._clock.sleep(self._backoff.delay(failures))
            else:
                if failures:
                    self._trouble = ""
                return

    async def _put_back(self, stored: Stored) -> None:
        back = Move(
            stored.key, self._channel, stored.due, stored.attempts, stored.failure, stored.hold
        )
        # If the store is gone too, what it holds is handed out again when it next opens.
        with contextlib.suppress(EsbError):
            await self._store.commit((back,))


def _is_cancelled() -> bool:
    """Whether it is this task that somebody wants to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
