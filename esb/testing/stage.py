"""What a route of a test stands on: far sides that are played, and a store that keeps count.

Steps, retries, guards and the unit of work are the real ones, and so is the store, in a folder that
is gone afterwards. What is played is what lies beyond an endpoint.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from esb.adapter import Expression, Text
from esb.build import Builder
from esb.clock import Clock
from esb.durable import Change, Publish, Put, Stored
from esb.envelope import Body, Envelope, Headers
from esb.errors import KINDS, Fault, Permanent, Transient
from esb.outline import Part
from esb.store import SqliteStore
from esb.testing.models import Reply
from esb.testing.virtual import VirtualLoop

_FOR_EVER = 1e9


class NotMocked(Permanent):
    """A message would have gone to a far side that the test says nothing about."""

    code = "not-mocked"


@dataclass(frozen=True)
class Answering:
    """A reply as a test writes it, ready: its body, and what must be true of what was sent."""

    reply: Reply
    body: Body
    when: Expression | None = None


@dataclass
class Mock:
    """What the endpoints that go by `key` answer.

    always: the one reply answers each time; else one after the other, but for those that look at
        what they are asked.
    own: of the test itself, so that it goes before what is said for all tests of the file.
    """

    key: str
    replies: Sequence[Answering]
    always: bool
    own: bool


@dataclass(frozen=True)
class Endpoint:
    """An endpoint of a route, and the names it may be called by, the most special first."""

    route: str
    part: Part
    places: tuple[str, ...]
    names: tuple[str, ...]

    def rank(self, key: str, route: str) -> int:
        """How specially `key` means this endpoint, in a test of `route`; 0: not at all."""
        if key in (f"{self.route}/{place}" for place in self.places):
            return 4
        if key in self.places:
            return 4 if self.route == route else 0
        if key in self.names:
            return 3
        channels = {channel.name for channel in self.part.channels}
        if key in channels or key in {name.partition(" ")[2] for name in channels}:
            return 2
        return 1 if key in (self.part.name, f"{self.part.direction} {self.part.name}") else 0

    @property
    def shown(self) -> str:
        """As people are told of it."""
        return f"{self.places[0]} ({self.part.name}) of route '{self.route}'"

    @property
    def is_inside(self) -> bool:
        """Whether it feeds the bus's own channels and nothing else."""
        channels = self.part.channels
        return bool(channels) and not any(channel.outside for channel in channels)


@dataclass(frozen=True)
class Sent:
    """A message that went to an endpoint. facts: what the endpoint's protocol says besides."""

    endpoint: Endpoint
    message: Envelope
    facts: Mapping[str, Any]


@dataclass
class Stage:
    """All that is played in one test of `route`, and what was seen of it."""

    route: str
    loop: VirtualLoop
    clock: Clock
    folder: Path
    mocks: Sequence[Mock] = ()
    endpoints: list[Endpoint] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    put: list[tuple[str, Envelope]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    _used: Counter[str] = field(default_factory=Counter)  # answers, by the keys of mocks

    def stand_in(self, place: Builder, raw: Any) -> StandIn:
        """For the endpoint that is being built: see `esb.loading.Stage`."""
        endpoint = _endpoint(place, raw)
        if place.part.direction != "source":
            self.endpoints.append(endpoint)
        return StandIn(self, endpoint, place, raw)

    def store(self) -> CountedStore:
        """The store of the project, made when the first part asks for it."""
        return CountedStore(self.folder / "store.db", self.loop, self.clock, self.put)

    def mock(self, endpoint: Endpoint) -> Mock | None:
        """What is to be answered at an endpoint."""
        ranked = [(mock.own, endpoint.rank(mock.key, self.route), mock) for mock in self.mocks]
        fitting = [one for one in ranked if one[1]]
        return max(fitting, key=lambda one: one[:2])[2] if fitting else None

    async def answer(self, endpoint: Endpoint, mock: Mock, sent: Envelope) -> Envelope:
        """The reply of a far side. Raises what it fails with."""
        chosen = self._next(endpoint, mock, sent)
        reply = chosen.reply
        if reply.delay:
            await self.clock.sleep(reply.delay)
        if reply.error is not None:
            error = KINDS[reply.error](reply.detail or f"the mock of {endpoint.places[0]} fails")
            if isinstance(error, Transient):
                error.retry_after = reply.retry_after
            raise error
        if reply.fault:
            detail = reply.detail or reply.fault
            raise Fault(detail, name=reply.fault, party="sender", data=reply.data)
        facts = {"status": reply.status} if reply.status is not None else {}
        return sent.reply(chosen.body, headers_of(reply.headers), facts)

    def _next(self, endpoint: Endpoint, mock: Mock, sent: Envelope) -> Answering:
        for one in mock.replies:
            if one.when is not None and one.when(sent):
                return one
        others = [one for one in mock.replies if one.when is None for _ in range(one.reply.times)]
        if not others:
            raise self.problem(f"no answer of '{mock.key}' fits what {endpoint.shown} was sent")
        if mock.always:
            return others[0]
        used = self._used[mock.key]
        self._used[mock.key] += 1
        if used >= len(others):
            raise self.problem(
                f"{endpoint.shown} was asked for the {_ordinal(used + 1)} time, and "
                f"'{mock.key}' has {len(others)} answer{'s' * (len(others) != 1)}"
            )
        return others[used]

    def problem(self, text: str) -> NotMocked:
        """Note what makes the test fail whatever it expects, and return what may be raised."""
        if text not in self.problems:
            self.problems.append(text)
        return NotMocked(text)


def _ordinal(number: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(number, f"{number}th")


def headers_of(given: Mapping[str, Any]) -> Headers:
    """Headers as a test writes them: a list has several of one name. Raises BadMessage."""
    return Headers(
        (name, one if isinstance(one, str | int | float | bool) else str(one))
        for name, value in given.items()
        for one in (value if isinstance(value, list) else [value])
    )


def _endpoint(place: Builder, raw: Any) -> Endpoint:
    part = place.part
    options = raw if isinstance(raw, dict) else {"": raw}
    names = tuple(
        str(value) for value in options.values() if isinstance(value, str | int) and value != ""
    )
    above = part.place.removesuffix(f".{part.name}")
    return Endpoint(place.route, part, (above, part.place), names)


class StandIn:
    """In the place of one endpoint's far side or, if its adapter does not ask for that, of the
    whole endpoint: a Sink and a RequestReply."""

    def __init__(self, stage: Stage, endpoint: Endpoint, place: Builder, raw: Any) -> None:
        self.endpoint = endpoint
        self._stage = stage
        self._place = place
        self._raw = raw
        self._texts: dict[str, Text | Any] | None = None

    def instead(self, made: Any, *, taken: bool) -> Any:
        """What stands at the endpoint's place: what its adapter `made` if this one was `taken` for
        what lies beyond it, or if nothing lies beyond the bus."""
        if self._place.part.direction == "source" or taken:
            return made
        if self.endpoint.is_inside and self._stage.mock(self.endpoint) is None:
            return made
        options = self._raw if isinstance(self._raw, dict) else {}
        self._texts = {
            name: self._place.text(value, name)
            if isinstance(value, str) and "{{" in value
            else value
            for name, value in options.items()
        }
        return self

    async def send(self, envelope: Envelope) -> None:
        """As a Sink."""
        await self.call(envelope)

    async def call(self, envelope: Envelope) -> Envelope:
        """As the far side: the reply to what is sent. Raises what the test says, or NotMocked."""
        stage, endpoint = self._stage, self.endpoint
        if self._texts is None:
            facts = dict(envelope.params.get("sent", {}))
        else:
            facts = {n: v(envelope) if callable(v) else v for n, v in self._texts.items()}
        stage.sent.append(Sent(endpoint, envelope, facts))
        mock = stage.mock(endpoint)
        if mock is None:
            raise stage.problem(f"{endpoint.shown} is not mocked, and was sent a message")
        return await stage.answer(endpoint, mock, envelope)


# --- the store ------------------------------------------------------------------------------------


class CountedStore(SqliteStore):
    """The embedded store, for a loop whose time must stand still while it works.

    put: filled with what is put into channels and topics, by their names.
    """

    def __init__(
        self, path: Path, loop: VirtualLoop, clock: Clock, put: list[tuple[str, Envelope]]
    ) -> None:
        super().__init__(path, min_free=0, clock=clock)
        self._loop = loop
        self._put = put

    async def commit(self, changes: Sequence[Change]) -> list[int]:
        """As `Store.commit`."""
        keys = await super().commit(changes)
        for change in changes:
            if isinstance(change, Put):
                self._put.append((change.channel, change.envelope))
            elif isinstance(change, Publish):
                self._put.append((f"topic:{change.topic}", change.envelope))
        return keys

    async def take(
        self, channel: str, limit: int, *, in_order: bool = False, wait: float = 0.0
    ) -> list[Stored]:
        """As `Store.take`. Who waits is not handed what the writing thread commits for others: that
        thread would be at work without anybody's asking, and time would pass meanwhile."""
        while not (taken := await super().take(channel, limit, in_order=in_order)) and wait > 0:
            await self.wait(channel, wait)
        return taken

    async def wait(self, channel: str, timeout: float, *, news: bool = False) -> None:
        """As `Store.wait`, but for as long as it takes: nobody sets this clock."""
        await super().wait(channel, max(timeout, _FOR_EVER), news=news)

    def _writes(self) -> Any:
        return _Busy(super()._writes(), self._loop)

    def _reads(self) -> Any:
        return _Busy(super()._reads(), self._loop)

    async def _again_and_again(self, what: Any, pause: float) -> None:
        """Nothing: in the time that a test lets pass the upkeep would have much to do."""


class _Busy:
    """A thread of the store; time stands still while something is asked of it."""

    def __init__(self, thread: Any, loop: VirtualLoop) -> None:
        self._thread = thread
        self._loop = loop

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._thread, name)

        def asked(*args: Any, **options: Any) -> Any:
            answer = method(*args, **options)
            if answer is not None:  # else nobody waits for it
                answer = asyncio.ensure_future(answer)
                self._loop.busy_until(answer)
            return answer

        return asked
