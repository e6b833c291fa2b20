"""`from: {schedule: ...}`: a message when its time has come (EIP: Channel Adapter on a timer).

A firing is claimed in the store under the time it is due, and that it was handled is stored in one
commit with what its message changed there. So of several buses on one store one fires, another goes
on if that one dies, and a bus that comes back knows what it has missed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import blake2b
from random import random
from typing import Final
from zoneinfo import ZoneInfo

import structlog

from esb.adapter import Build, Health
from esb.durable import MOST_CRASHES, Confirm, Release, Unit, give_up
from esb.envelope import NO_BODY, Body, Envelope
from esb.errors import EsbError, Permanent, Transient, Unavailable
from esb.options import Range
from esb.step import Step
from esb_schedule.options import SourceOptions
from esb_schedule.when import Cron, Every, When

log = structlog.get_logger("esb.schedule")

LATE: Final = 60.0
"""What is late by more is missed."""

ASK_AGAIN: Final = 1.0
"""Seconds until it is looked again whether another process is through with a firing."""

BACKOFF: Final = Range(first=1, longest=60)

FOR_EVER: Final = 10 * 365 * 86_400.0
MARGIN: Final = 30 * 86_400.0
"""How long it is remembered that a firing was handled, beyond the time when the next one is due."""

TURN: Final = "turn"
KNOWN: Final = "known"
"""What is confirmed once the schedule has been seen: before, nothing was missed."""

_LOOK_AT_CLOCK: Final = 60.0  # a clock may be set, and a machine may sleep


class ScheduleSource:
    """A Source that fires by the clock."""

    waits = False
    inside = True

    def __init__(
        self, options: SourceOptions, build: Build, random: Callable[[], float] = random
    ) -> None:
        self._when: When = (
            Every(options.every)
            if options.every is not None
            else Cron(options.cron or "", ZoneInfo(options.zone))
        )
        self.where = f"schedule {self._when}"
        build.channel(self.where, outside=True)
        build.promises("once")
        self._options = options
        self._store = build.store
        self._clock = build.clock
        self._route = build.route
        # Another schedule is another story: what it would have fired before was never missed.
        self._scope = f"schedule:{build.route}:{self._when}"
        self._random = random
        self._body = self._written(options, build)
        self._number = 0
        self._poison: set[str] = set()
        self._running: set[asyncio.Task[None]] = set()
        self._dispatcher: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._next: float | None = None
        self._trouble = ""

    async def start(self, step: Step) -> None:
        """Begin to fire."""
        self._stopping.clear()
        self._trouble = ""
        self._dispatcher = asyncio.create_task(self._dispatch(step), name=f"esb {self.where}")

    async def stop(self, grace: float) -> None:
        """Fire no more, and let what is in the route finish for `grace` seconds; what does not is
        due again."""
        self._stopping.set()
        dispatcher, self._dispatcher = self._dispatcher, None
        if dispatcher is not None:
            dispatcher.cancel()
            await asyncio.gather(dispatcher, return_exceptions=True)
        if self._running:
            await asyncio.wait(self._running, timeout=grace)
        unfinished = tuple(self._running)
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)

    def health(self) -> Health:
        """Whether it fires; and when it does next."""
        if self._dispatcher is None:
            return Health(False, "stopped")
        if self._trouble:
            return Health(False, self._trouble)
        if self._next is None:
            return Health(True)
        return Health(True, f"next at {self._date(self._next).isoformat(timespec='seconds')}")

    async def admit(self, envelope: Envelope) -> Envelope:
        """Refuses a firing with which the process died again and again. Raises Permanent."""
        if envelope.id in self._poison:
            error = Permanent(f"the bus died {MOST_CRASHES} times in a row with this firing")
            error.code = "poison"
            raise error
        return envelope

    # --- when

    async def _dispatch(self, step: Step) -> None:
        try:
            await self._go_on(step)
        except Exception as e:
            log.error("a schedule has ended", route=self._route, exc_info=e)
            self._trouble = "internal error"

    async def _go_on(self, step: Step) -> None:
        once = self._options.missed == "once"
        last = await self._begin()
        if self._options.at_start:
            await self._fire(step, self._clock.time())
            last = self._clock.time()
        while True:
            due = self._when.after(last)
            self._next = due
            if due is None:
                return
            await self._sleep_until(due + self._options.jitter * self._random())
            if once:
                due = max(due, self._when.before(self._clock.time()) or due)
            await self._fire(step, due)
            # What is over by now counts as missed once more, or never.
            last = due if once else max(due, self._clock.time())

    async def _begin(self) -> float:
        """The moment after which firings count."""
        failures = 0
        while True:
            now = self._clock.time()
            last = self._when.before(now)
            try:
                new = await self._is_new(now, last)
            except EsbError as e:
                failures += 1
                self._trouble = e.detail
                await self._clock.sleep(BACKOFF.delay(failures))
                continue
            self._trouble = ""
            if new or last is None or self._options.missed == "skip":
                return now
            return last - 0.001  # that one first; whether it was handled is in the store

    async def _is_new(self, now: float, last: float | None) -> bool:
        """Whether nobody has seen this schedule before. Whoever is the first notes that nothing
        was missed."""
        while (claim := await self._store.claim(self._scope, KNOWN, now + FOR_EVER)).state != "new":
            if claim.state == "done":
                return False
            await self._clock.sleep(ASK_AGAIN)
        confirmed = [Confirm(self._scope, KNOWN, now + FOR_EVER)]
        try:
            if last is not None:
                claim = await self._store.claim(self._scope, _value(last), self._until(last))
                if claim.state == "new":
                    confirmed.append(Confirm(self._scope, _value(last), self._until(last)))
            await self._store.commit(confirmed)
        except BaseException:
            await give_up(self._store, *((self._scope, c.value) for c in confirmed))
            raise
        return True

    async def _sleep_until(self, moment: float) -> None:
        while (left := moment - self._clock.time()) > 0:
            await self._clock.sleep(min(left, _LOOK_AT_CLOCK))

    # --- firing

    async def _fire(self, step: Step, due: float) -> None:
        # A task of its own, which goes on while the one that waits for the next time is stopped.
        task = asyncio.create_task(self._firing(step, due))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        if not self._options.overlap:
            await asyncio.wait((task,))

    async def _firing(self, step: Step, due: float) -> None:
        """See to it that a firing is handled, by whomever."""
        failures = 0
        while not self._stopping.is_set():
            held: list[str] = []
            pause = ASK_AGAIN
            try:
                if await self._handled(step, due, failures, held):
                    self._trouble = ""
                    return
            except (Exception, asyncio.CancelledError) as e:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                failures += 1
                pause = BACKOFF.delay(failures)
                self._trouble = e.detail if isinstance(e, EsbError) else "internal error"
                bug = None if isinstance(e, EsbError | asyncio.CancelledError) else e
                tell = log.error if bug else log.info
                tell(
                    "a firing is to be tried again",
                    route=self._route,
                    due=self._date(due).isoformat(),
                    seconds=round(pause, 1),
                    error=self._trouble,
                    exc_info=bug,
                )
            finally:
                if held:
                    await give_up(self._store, *((self._scope, value) for value in held))
            await self._pause(pause)

    async def _handled(self, step: Step, due: float, failures: int, held: list[str]) -> bool:
        """Run the step unless somebody else does or did. Returns whether the firing is through;
        what is claimed and neither confirmed nor released is in `held`. Raises what the step and
        the store raise."""
        if not failures and self._is_missed(due):
            log.info("a firing is left out", route=self._route, due=self._date(due).isoformat())
            return True
        value, until, crashes = _value(due), self._until(due), 0
        for wanted in (value,) if self._options.overlap else (TURN, value):
            claim = await self._store.claim(self._scope, wanted, until)
            if claim.state != "new":
                return claim.state == "done"
            held.append(wanted)
            crashes = claim.crashes
        message = self._message(due)
        if crashes >= MOST_CRASHES:
            self._poison.add(message.id)
        async with Unit(self._store) as unit:
            try:
                await step(message)
            except Permanent as e:
                log.warning(
                    "a firing has failed for good",
                    route=self._route,
                    message=message.id,
                    error=e.detail,
                )
            unit.add(Confirm(self._scope, value, until))
            unit.add(*(Release(self._scope, other) for other in held if other != value))
            await self._commit(unit)
        self._poison.discard(message.id)
        held.clear()
        return True

    def _is_missed(self, due: float) -> bool:
        if self._options.missed == "once":
            return False
        return self._clock.time() > due + self._options.jitter + LATE

    async def _commit(self, unit: Unit) -> None:
        """Commit until it succeeds: else what the route did elsewhere would be done once more."""
        failures = 0
        while True:
            try:
                await unit.commit()
                return
            except Transient as e:
                if isinstance(e, Unavailable) and e.for_good:
                    raise
                failures += 1
                self._trouble = e.detail
            await self._clock.sleep(BACKOFF.delay(failures))

    async def _pause(self, seconds: float) -> None:
        """Let the time pass, or the route stop."""
        sleeping = asyncio.ensure_future(self._clock.sleep(seconds))
        stops = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((sleeping, stops), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
            stops.cancel()

    def _message(self, due: float) -> Envelope:
        self._number += 1
        when = self._date(due)
        facts = {
            "due": when,
            "fired": self._date(self._clock.time()),
            "number": self._number,
        }
        name = f"{self._scope}\0{_value(due)}".encode()
        return Envelope(
            body=self._body,
            id=blake2b(name, digest_size=16).hexdigest(),
            source=f"schedule:{self._route}",
            type="schedule",
            time=when,
            subject=str(self._when),
            params={"schedule": facts},
        )

    def _until(self, due: float) -> float:
        following = self._when.after(due)
        return due + FOR_EVER if following is None else following + MARGIN

    def _date(self, moment: float) -> datetime:
        return datetime.fromtimestamp(moment, self._when.zone)

    def _written(self, options: SourceOptions, build: Build) -> Body:
        if options.body is None:
            return NO_BODY
        body = Body.of(options.body, options.content_type)
        try:
            body.raw  # noqa: B018 - written once, for all messages
        except EsbError as e:
            raise build.problem(e.detail, "body") from e
        return body


def _value(due: float) -> str:
    """What a firing is claimed by."""
    return datetime.fromtimestamp(due, UTC).isoformat(timespec="milliseconds")
