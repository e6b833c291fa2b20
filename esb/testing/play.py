"""Plays one test: messages come in, time passes until nothing is left to be done."""

from __future__ import annotations

import asyncio
import gc
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from esb.adapter import Rehearsing, Resource, Source
from esb.bus import Shared
from esb.clock import current
from esb.config import Project
from esb.consumer import Consumer
from esb.durable import DEAD, Store, Stored, Unit
from esb.envelope import Envelope
from esb.errors import EsbError, RouteFailure
from esb.route import Called, Route
from esb.step import Seen, Step
from esb.testing.stage import Stage

_number: ContextVar[int] = ContextVar("number", default=-1)
"""Which of the messages that came in is being handed in here."""

LONGEST = 400 * 86_400.0
"""Seconds of a test's own time after which it is given up: something goes on without an end."""

MOST_TURNS = 200_000


@dataclass(frozen=True)
class Coming:
    """A message that comes in. after: seconds after the one before, and all that brought about at
    once."""

    message: Envelope
    after: float = 0.0


@dataclass(frozen=True)
class Told:
    """What the sender of a message was told: `answer` or `error`; `answer` is None for one that
    was put where the route takes messages from."""

    answer: Envelope | None = None
    error: EsbError | None = None


@dataclass(frozen=True)
class Run:
    """One message through a route, from one of its sources. of: which of those that came in it is,
    counted from 0; -1 for one that some step made."""

    of: int
    route: str
    result: Envelope | None
    error: EsbError | None


@dataclass
class Played:
    """What was seen of a test. passed: how often messages went through steps, by route and place.
    last: the step that began last. took: seconds, of the test's own time."""

    told: list[Told] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    dead: list[Stored] = field(default_factory=list)
    passed: Counter[tuple[str, str]] = field(default_factory=Counter)
    last: str = ""
    took: float = 0.0


class Player:
    """Runs routes of a project on a stage.

    route: the one that messages come in at. also: those that run beside it.
    """

    def __init__(
        self, stage: Stage, project: Project, shared: Shared, route: str, also: Sequence[str]
    ) -> None:
        self._stage = stage
        self._project = project
        self._shared = shared
        names = {route, *also}
        self._routes = [r for r in project.routes if r.name.partition("/")[0] in names]
        self._route = next(r for r in project.routes if r.name == route)
        self._step: Step = self._route.step
        self._active = 0
        self._channels: set[str] = set()
        self._played = Played()
        self._last_begun = 0.0
        self._ids: dict[str, int] = {}

    async def play(self, coming: Sequence[Coming], within: float | None) -> Played:
        """Let the messages come, then time pass: for `within` seconds, or until all is through."""
        current.set(self._stage.clock)
        loop, played = self._stage.loop, self._played
        opened = [thing for thing in self._shared.objects.values() if _is_inside(thing)]
        for route in self._project.routes:
            route.watch.observe("test", self._observer(route.watch.route))
        started: list[Source] = []
        tasks: list[asyncio.Task[Told]] = []
        self._ids = {one.message.id: number for number, one in enumerate(coming)}
        try:
            for thing in opened:
                await thing.open()
            for route in self._routes:
                started += await self._start(route)
            began = loop.time()
            for number, one in enumerate(coming):
                await self._pass(began, tasks, loop.time() + one.after)
                tasks.append(asyncio.create_task(self._hand_in(one.message, number)))
            await self._pass(began, tasks, None if within is None else began + within)
            played.took = loop.time() - began
            for task in tasks:
                if not task.done():
                    self._stage.problem(_UNDONE)
                    task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            played.told = [one for one in done if isinstance(one, Told)]
            if (store := self._store()) is not None:
                played.dead = await store.browse(DEAD, limit=1000)
            return played
        finally:
            await asyncio.gather(*(source.stop(0) for source in started), return_exceptions=True)
            for thing in reversed(opened):
                await thing.close()

    # --- what runs

    async def _start(self, route: Route) -> list[Source]:
        """Let a route take messages from wherever the bus itself keeps them."""
        main = route.source
        started: list[Source] = []
        for source, step in reversed(route.sources):
            step = self._noted(route.name, step)
            if source is main and route is self._route:
                self._step = step
            if source is main and not (self._fires(source) or _takes_from_inside(route)
                                       or isinstance(source, Rehearsing)):  # fmt: skip
                continue  # what comes from outside is handed in
            await source.start(step)
            started.append(source)
            self._channels.add(getattr(source, "channel", ""))
        return started

    def _fires(self, source: Source) -> bool:
        """Whether a source makes messages by itself, in a test that hands none in."""
        return not self._ids and bool(getattr(source, "inside", False))

    def _noted(self, route: str, step: Step) -> Step:
        async def noted(envelope: Envelope) -> Envelope:
            result: Envelope | None = None
            error: EsbError | None = None
            self._active += 1
            try:
                result = await step(envelope)
                return result
            except EsbError as e:
                error = e
                raise
            except Exception as e:
                error = RouteFailure(f"internal error: {e!r}")
                raise
            finally:
                self._active -= 1
                number = _number.get()
                if number < 0:
                    number = self._ids.get(envelope.id, -1)
                self._played.runs.append(Run(number, route, result, error))

        return noted

    def _observer(self, route: str) -> Callable[[Seen], None]:
        played = self._played

        def observe(seen: Seen) -> None:
            played.passed[route, seen.place] += 1
            if seen.begun >= self._last_begun:  # what is further in ends sooner
                self._last_begun = seen.begun
                played.last = f"{seen.place} of route '{route}'"

        return observe

    async def _hand_in(self, message: Envelope, number: int) -> Told:
        source = self._route.source
        _number.set(number)
        try:
            if isinstance(source, Rehearsing):
                return Told(await source.rehearse(message))
            if isinstance(source, Consumer):
                store = self._store()
                assert store is not None
                await store.put(source.channel, message)
                return Told()
            if isinstance(source, Called) and (store := self._store()) is not None:
                # Whoever runs it has a unit of work.
                async with Unit(store) as unit:
                    answer = await self._step(message)
                    await unit.commit()
                return Told(answer)
            return Told(await self._step(message))
        except EsbError as e:
            return Told(error=e)
        except ValueError as e:
            self._stage.problem(f"the message cannot come in: {e}")
            return Told()
        except Exception as e:  # noqa: BLE001 - told as what makes the test fail
            self._stage.problem(f"the bus itself failed: {e!r}")
            return Told()

    # --- time

    async def _pass(
        self, began: float, tasks: Sequence[asyncio.Task[Told]], until: float | None
    ) -> None:
        """Let time pass until `until`, or (None) until all is through."""
        loop = self._stage.loop
        for _ in range(MOST_TURNS):
            then = await loop.idle()
            if until is None and await self._is_quiet(tasks):
                return
            if until is not None and (then is None or then > until):
                loop.jump(until)
                return
            if then is None:
                return  # whoever still waits, waits for what never comes
            if then - began > LONGEST:
                break
            loop.jump(then)
        self._stage.problem(f"it is not through after {LONGEST / 86_400:g} days of its own time")

    async def _is_quiet(self, tasks: Sequence[asyncio.Task[Told]]) -> bool:
        if self._active or not all(task.done() for task in tasks):
            return False
        if (store := self._store()) is None:
            return True
        counts: Mapping[str, int] = Counter(await store.counts())
        return not any(counts[channel] for channel in self._channels)

    def _store(self) -> Store | None:
        store: Store | None = self._shared.objects.get(("store",))
        return store


_UNDONE = "the message is not through, and nothing is left that could happen"


def _is_inside(thing: Any) -> bool:
    """Whether something that endpoints share reaches nothing beyond the store."""
    return isinstance(thing, Resource) and (
        Store in type(thing).__mro__ or getattr(thing, "inside", False)
    )


def _takes_from_inside(route: Route) -> bool:
    if route.outline.kind != "route":
        return True  # it goes on with what a step of another put aside
    sources = [part for part in route.outline.parts if part.kind == "source"]
    channels = [channel for part in sources for channel in part.channels]
    return bool(channels) and not any(channel.outside for channel in channels)


def seeded(name: str) -> None:
    """The same chances each time, whichever tests came before; what they left behind is gone."""
    random.seed(name)
    gc.collect(0)
