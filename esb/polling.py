"""Looks by itself for what there is to handle, in files or by the clock (EIP: Polling Consumer).

Each thing is claimed in the store by name while it is handled, and that it was is stored in one
commit with what its message changed there. So of several processes on one store exactly one handles
it, and another one if that dies.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from esb.adapter import Build, Health
from esb.durable import MOST_CRASHES, Claim, Confirm, Release, Unit, give_up
from esb.envelope import Envelope, Outcome
from esb.errors import EsbError, Permanent, Transient, Unavailable
from esb.options import Range
from esb.step import Step

log = structlog.get_logger("esb.polling")

TURN: Final = "turn"
"""What is claimed before the thing itself by those who handle one at a time."""


@dataclass(slots=True, eq=False)
class Item:
    """Something there is to handle.

    value: what it is claimed by. about: what logs call it.
    claim: the answer to the last claim. remembered: until when it is known that it was handled.
    held: what is claimed for it, and neither confirmed nor released.
    failures: how often in a row that failed for now. trouble: what is wrong with it, for people.
    """

    value: str
    about: dict[str, str]
    claim: Claim = field(default=Claim("busy"), kw_only=True)
    remembered: float = field(default=0.0, kw_only=True)
    held: list[str] = field(default_factory=list, kw_only=True)
    failures: int = field(default=0, kw_only=True)
    trouble: str = field(default="", kw_only=True)


class PollingConsumer(ABC):
    """What Sources have in common that look for their messages themselves; one of them says how it
    looks (`_poll`), how it is (`_state`), and what becomes of what it has found.

    where: as in Source. scope: in which the store knows what it claims. thing: what people call an
    item, "file". in_turn: one at a time, whichever process it is that handles it. backoff: how long
    one that failed for now is put off.
    """

    waits = False

    def __init__(
        self, build: Build, where: str, scope: str, thing: str, *, in_turn: bool, backoff: Range
    ) -> None:
        self.where = where
        self._scope = scope
        self._thing = thing
        self._in_turn = in_turn
        self._backoff = backoff
        self._route = build.route
        self._store = build.store
        self._clock = build.clock
        self._poison: set[str] = set()
        self._running: dict[asyncio.Task[None], Item] = {}
        self._poller: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()

    @abstractmethod
    async def _poll(self, step: Step) -> None:
        """Look for items and begin with each; runs until it is cancelled."""

    @abstractmethod
    def _state(self) -> Health:
        """How it is while it looks."""

    def _is_hopeless(self, message: Envelope, error: EsbError) -> bool:
        """Whether one whose step raised this is through, and not to be tried again."""
        return isinstance(error, Permanent)

    # --- what a Source does

    async def start(self, step: Step) -> None:
        """Begin to look. What is not there yet is waited for."""
        self._stopping.clear()
        self._poller = asyncio.create_task(self._poll(step), name=f"esb {self.where}")

    async def stop(self, grace: float) -> None:
        """Begin with nothing more, and let what is in the route finish for `grace` seconds; what
        does not is there to be handled again."""
        self._stopping.set()
        poller, self._poller = self._poller, None
        if poller is not None:
            poller.cancel()
            await asyncio.gather(poller, return_exceptions=True)
        if self._running:
            await asyncio.wait(self._running, timeout=grace)
        unfinished = tuple(self._running)
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)

    def health(self) -> Health:
        """Whether messages can come; and what to heed."""
        return Health(False, "stopped") if self._poller is None else self._state()

    async def admit(self, envelope: Envelope) -> Envelope:
        """Refuses what the process died with again and again. Raises Permanent."""
        if envelope.id in self._poison:
            error = Permanent(
                f"the bus died {MOST_CRASHES} times in a row with this {self._thing} in hand"
            )
            error.code = "poison"
            raise error
        return envelope

    # --- what becomes of an item

    def _take_up(self, item: Item, handling: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Handle an item in a task of its own, which goes on when the one that looks is stopped."""
        task = asyncio.create_task(handling)
        self._running[task] = item
        task.add_done_callback(self._running.pop)
        return task

    async def _claim(self, item: Item, remembered: float) -> None:
        """Claim an item, and the turn before it; whether it is ours is in `item.claim`. Raises what
        the store raises; `_let_go` follows whatever happens."""
        item.remembered = remembered
        for value in (TURN, item.value) if self._in_turn else (item.value,):
            item.claim = await self._store.claim(self._scope, value, remembered)
            if item.claim.state != "new":
                return
            item.held.append(value)

    async def _let_go(self, item: Item) -> None:
        """Give up what is still held for an item."""
        if item.held:
            await give_up(self._store, *((self._scope, value) for value in item.held))
            item.held.clear()

    async def _run(
        self, item: Item, step: Step, message: Envelope, *, in_order: bool = False
    ) -> bool:
        """Run the step on the message of an item that is ours, and store that it was handled.
        in_order: as in Unit. Returns whether it failed for good. Raises what the step and the store
        raise."""
        if item.claim.crashes >= MOST_CRASHES:
            self._poison.add(message.id)
        async with Unit(self._store, in_order=in_order) as unit:
            try:
                dead = (await step(message)).outcome is Outcome.DEAD
            except EsbError as e:
                if not self._is_hopeless(message, e):
                    raise
                log.warning(f"a {self._thing} has failed for good", **item.about, error=e.detail)
                dead = True
            answer = Envelope(outcome=Outcome.DEAD) if dead else None
            unit.add(Confirm(self._scope, item.value, item.remembered, answer))
            unit.add(*(Release(self._scope, other) for other in item.held if other != item.value))
            await self._commit(unit, item)
        self._poison.discard(message.id)
        item.held.clear()
        return dead

    async def _commit(self, unit: Unit, item: Item) -> None:
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
                item.trouble = e.detail
            await self._clock.sleep(self._backoff.delay(failures))

    def _put_off(self, item: Item, error: BaseException) -> float:
        """Seconds until an item that failed for now is to be tried again. Raises the error if the
        task that handles it is to end."""
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise error
        item.failures += 1
        pause = self._backoff.delay(item.failures)
        item.trouble = error.detail if isinstance(error, EsbError) else "internal error"
        bug = None if isinstance(error, EsbError | asyncio.CancelledError) else error
        tell = log.error if bug else log.info
        tell(
            f"a {self._thing} is to be tried again",
            **item.about,
            seconds=round(pause, 1),
            error=item.trouble,
            exc_info=bug,
        )
        return pause

    async def _wait(self, seconds: float, event: asyncio.Event) -> None:
        """Let the time pass, or the event happen."""
        sleeping = asyncio.ensure_future(self._clock.sleep(seconds))
        happens = asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait((sleeping, happens), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
            happens.cancel()
