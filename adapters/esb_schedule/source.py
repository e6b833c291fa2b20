"""`from: {schedule: ...}`: a message when its time has come (EIP: Channel Adapter on a timer).

A firing is claimed in the store under the time it is due (see `esb.polling`). So of several buses
on one store one fires, another goes on if that one dies, and a bus that comes back knows what it
has missed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from random import random
from typing import Final
from zoneinfo import ZoneInfo

import structlog

from esb.adapter import Build, Health
from esb.durable import Confirm, give_up
from esb.envelope import NO_BODY, Body, Envelope
from esb.errors import EsbError
from esb.options import Range
from esb.polling import Item, PollingConsumer
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
MARGIN: Final = 6 * 3_600.0
"""How long it is known that a firing was handled, beyond the time when the next one is due, for
clocks that differ or are set back. More would be much of what fires every second."""

KNOWN: Final = "known"
"""What is confirmed once the schedule has been seen: before, nothing was missed."""

_LOOK_AT_CLOCK: Final = 60.0  # a clock may be set, and a machine may sleep


@dataclass(slots=True, eq=False)
class _Firing(Item):
    due: float


class ScheduleSource(PollingConsumer):
    """A Source that fires by the clock."""

    inside = True

    def __init__(
        self, options: SourceOptions, build: Build, random: Callable[[], float] = random
    ) -> None:
        self._when: When = (
            Every(options.every)
            if options.every is not None
            else Cron(options.cron or "", ZoneInfo(options.zone))
        )
        where = f"schedule {self._when}"
        # Another schedule is another story: what it would have fired before was never missed.
        scope = f"schedule:{build.route}:{self._when}"
        turns = not options.overlap
        super().__init__(build, where, scope, "firing", in_turn=turns, backoff=BACKOFF)
        build.channel(self.where, outside=True)
        build.promises("once")
        self._options = options
        self._random = random
        self._body = self._written(options, build)
        self._number = 0
        self._next: float | None = None
        self._trouble = ""

    def _state(self) -> Health:
        for trouble in (self._trouble, *(firing.trouble for firing in self._running.values())):
            if trouble:
                return Health(False, trouble)
        if self._next is None:
            return Health(True)
        return Health(True, f"next at {self._date(self._next).isoformat(timespec='seconds')}")

    # --- when

    async def _poll(self, step: Step) -> None:
        self._trouble = ""
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
                await self._clock.sleep(self._backoff.delay(failures))
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
        about = {"route": self._route, "due": self._date(due).isoformat()}
        firing = _Firing(_value(due), about, due)
        task = self._take_up(firing, self._fired(step, firing))
        if not self._options.overlap:
            await asyncio.wait((task,))

    async def _fired(self, step: Step, firing: _Firing) -> None:
        """See to it that a firing is handled, by whomever."""
        while not self._stopping.is_set():
            pause = ASK_AGAIN
            try:
                if await self._is_through(step, firing):
                    return
            except (Exception, asyncio.CancelledError) as e:  # noqa: BLE001 - a bug is told there
                pause = self._put_off(firing, e)
            finally:
                await self._let_go(firing)
            await self._wait(pause, self._stopping)

    async def _is_through(self, step: Step, firing: _Firing) -> bool:
        """Run the step unless somebody else does or did. Returns whether the firing is through.
        Raises what the step and the store raise."""
        if not firing.failures and self._is_missed(firing.due):
            log.info("a firing is left out", **firing.about)
            return True
        await self._claim(firing, self._until(firing.due))
        if firing.claim.state == "new":
            # What is tried again keeps its place: put aside, the next firing would run beside it.
            alone = not self._options.overlap
            await self._run(firing, step, self._message(firing.due), in_order=alone)
            return True
        return firing.claim.state == "done"

    def _is_missed(self, due: float) -> bool:
        if self._options.missed == "once":
            return False
        return self._clock.time() > due + self._options.jitter + LATE

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
