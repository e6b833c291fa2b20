"""Resequencer (EIP): bring messages back into the order of their numbers.

A message that is ahead of its turn lies in the store until those before it have come. What is in
order is passed on in the commit that forgets it and remembers how far its stream is (see
`esb.gathering`), into a route of its own, "<route>/<name>", which runs the messages of one stream
one after the other, and has the policies of the route that the step is in.

For example:

    resequence:
      by: body.account
      number: body.sequence
      timeout: 10m
      steps: [{send: {queue: bookings}}]
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal

import structlog
from pydantic import Field

from esb.adapter import Build, Role
from esb.clock import Clock
from esb.durable import (
    DEAD,
    KEPT,
    Change,
    Done,
    Entry,
    Failure,
    Move,
    Put,
    Store,
    Stored,
    accept_channel,
    change,
)
from esb.envelope import Body, Envelope, Outcome
from esb.errors import BadMessage, Permanent
from esb.gathering import Gathering, is_replayed, key_text, side_by_side
from esb.options import Duration, Name, Options, RawSteps
from esb.step import Step, asked, pipeline

log = structlog.get_logger("esb.resequence")

AT_A_TIME: Final = 50
"""So many messages of a stream are in memory, and passed on in one commit."""
IN_MIND: Final = 10_000
"""So many streams of which nothing waits are kept in mind."""
LARGEST: Final = 2**63
_ONE_STREAM: Final = "*"
_DIGITS: Final = re.compile(r"-?[0-9]{1,19}")


class OutOfOrder(Permanent):
    """A message came after its turn, or waited in vain for those before it."""

    code = "out-of-order"


class ResequenceOptions(Options):
    """Bring messages into the order of their numbers, and run the steps on one after the other."""

    name: Name = Field(
        "resequence",
        description="Names the route that goes on with the messages, `<route>/<name>`, and where "
        "they wait: after a change of it what lies there is not found any more.",
    )
    number: str = Field(
        description="An expression: the message's number in its stream. The next one has the next "
        "whole number."
    )
    by: str | None = Field(
        None,
        description="An expression: what the messages of one stream have in common. Without it all "
        "are of one stream.",
    )
    first: int = Field(1, description="The number that a stream begins with.")
    timeout: Duration | None = Field(
        None,
        description="How long a message waits for those before it; then the stream goes on without "
        "them. Without it they are waited for until `most` are waiting.",
    )
    most: int = Field(
        1000,
        ge=1,
        description="When more of a stream are waiting, it goes on without those that are missing.",
    )
    incomplete: Literal["pass", "dead"] = Field(
        "pass",
        description="What becomes of messages that waited in vain: they pass, or go to the dead "
        "letters, from where a replay lets them pass.",
    )
    late: Literal["pass", "dead"] = Field(
        "dead",
        description="What becomes of a message whose number has had its turn: it goes to the dead "
        "letters, from where a replay lets it pass, or it passes out of order.",
    )
    keep: Duration = Field(
        30 * 86_400.0,
        description="How long after its last message it is remembered how far a stream is, where "
        "there are several; then it begins anew.",
    )
    steps: RawSteps = Field(
        description="What is done with each message. `sequence.number` is its number, "
        "`sequence.late` whether it came after its turn, `sequence.complete` false if it waited in "
        "vain for those before it."
    )


def make(options: ResequenceOptions, build: Build) -> Step:
    """The message is stored with the commit of its run and goes on with the outcome ACCEPTED.
    Raises BadMessage for one that has no number or belongs to no stream."""
    number_of = build.expression(options.number, "number")
    by = None if options.by is None else build.expression(options.by, "by")
    if not options.steps:
        build.problem("nothing is done with the messages", "steps", hint="steps: [{send: ...}]")
    store = build.store
    route = f"{build.route}/{options.name}"
    channel = f"resequence:{route}"
    streams = _Streams(options, store, channel, accept_channel(route), build.clock)
    steps = build.steps(options.steps, "steps")

    async def begin(envelope: Envelope) -> Envelope:
        turn = envelope.params.get("sequence", {})
        if not is_replayed(store):
            if options.late == "dead" and turn.get("late"):
                raise OutOfOrder(f"number {turn['number']} came after its turn")
            if options.incomplete == "dead" and not turn.get("complete", True):
                raise OutOfOrder(f"number {turn['number']} waited in vain for those before it")
        return envelope

    begin_and_go_on = pipeline([(build.where, begin), ("steps", steps)])
    gathering = Gathering(store, channel, streams, clock=build.clock)
    build.continuation(options.name, gathering, begin_and_go_on)

    async def resequence(envelope: Envelope) -> Envelope:
        stream = _ONE_STREAM if by is None else key_text(await asked(by, envelope), "stream")
        group = _group(_whole(await asked(number_of, envelope)), stream)
        await change(store, Put(channel, envelope, group=group))
        return envelope.replace(outcome=Outcome.ACCEPTED)

    return resequence


def _whole(value: object) -> int:
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    if type(value) is int and abs(value) < LARGEST:
        return value
    raise BadMessage("the message has no whole number to put it in order by")


def _group(number: int, stream: str) -> str:
    # So a message is found by its number without being read, and a second one beside it.
    return f"{number} {stream}"


@dataclass(slots=True)
class _Stream:
    """What is kept in mind of a stream.

    expected: the number whose turn it is; None if that was not looked up yet. place: the key under
    which it is remembered, 0 if it is not; until: for how long. waiting: since when, by number.
    vain: up to this number, messages have waited in vain. timed: whether it is among those that go
    on by time.
    """

    expected: int | None = None
    place: int = 0
    until: float = float("inf")
    waiting: dict[int, float] = field(default_factory=dict)
    vain: int = -LARGEST
    timed: bool = False


class _Streams:
    """The rule by which messages have their turn (see `esb.gathering.Rule`)."""

    def __init__(
        self, options: ResequenceOptions, store: Store, channel: str, ready: str, clock: Clock
    ) -> None:
        self._options = options
        self._store = store
        self._channel = channel
        self._places = f"{KEPT}{channel}"
        self._ready = ready
        self._clock = clock
        self.forget()

    def forget(self) -> None:
        self._streams: dict[str, _Stream] = {}
        self._changed: dict[str, None] = {}  # in their order
        self._by_time: list[tuple[float, str]] = []  # a stream goes on then, or later

    def learn(self, entry: Entry, now: float) -> None:
        number, _, stream = entry.group.partition(" ")
        state = self._streams.setdefault(stream, _Stream())
        if int(number) not in state.waiting:
            state.waiting[int(number)] = min(entry.stored, now)
            self._changed[stream] = None

    async def act(self, now: float) -> None:
        todo, self._changed = self._changed, {}
        while self._by_time and self._by_time[0][0] <= now:
            _, stream = heapq.heappop(self._by_time)
            if state := self._streams.get(stream):
                state.timed = False
                todo[stream] = None
        await side_by_side(self._go_on(stream, now) for stream in todo)
        if len(self._streams) > IN_MIND:
            self._streams = {name: state for name, state in self._streams.items() if state.waiting}

    def due(self) -> float | None:
        return self._by_time[0][0] if self._by_time else None

    async def _go_on(self, stream: str, now: float) -> None:
        """Pass on all whose turn it is."""
        state = self._streams[stream]
        if state.expected is None or state.until <= now:
            await self._look_up(stream, state, now)
        most = AT_A_TIME
        while numbers := self._in_turn(state, now)[:most]:
            try:
                await self._pass_on(stream, state, numbers)
                most = AT_A_TIME
            except Permanent as e:
                if most == 1:
                    await self._bury(stream, state, numbers[0], e)
                most = 1  # together they are too large, or one is to blame
        if state.waiting and (end := self._end(state)) is not None and not state.timed:
            state.timed = True
            heapq.heappush(self._by_time, (end, stream))

    async def _look_up(self, stream: str, state: _Stream, now: float) -> None:
        state.expected, state.place, state.until = self._options.first, 0, float("inf")
        for place in await self._store.browse(self._places, group=stream):
            until = place.expires or float("inf")
            if until > now:
                expected = int(place.envelope.body.text)
                state.expected, state.place, state.until = expected, place.key, until

    def _end(self, state: _Stream) -> float | None:
        timeout = self._options.timeout
        return None if timeout is None else min(state.waiting.values()) + timeout

    def _in_turn(self, state: _Stream, now: float) -> list[int]:
        """The numbers of messages that may go on, in their order."""
        assert state.expected is not None
        if late := sorted(number for number in state.waiting if number < state.expected):
            return late
        if not state.waiting:
            return []
        number = min(state.waiting)
        in_vain = number != state.expected
        if in_vain:
            end = self._end(state)
            if (end is None or now < end) and len(state.waiting) <= self._options.most:
                return []
        run = [number]
        while run[-1] + 1 in state.waiting:
            run.append(run[-1] + 1)
        if in_vain:
            state.vain = run[-1]
        return run

    async def _pass_on(self, stream: str, state: _Stream, numbers: Sequence[int]) -> None:
        gone: list[Change] = []
        on: list[Change] = []
        passed: list[int] = []
        expected = state.expected
        assert expected is not None
        for number in numbers:
            passed.append(number)
            found = await self._those(stream, number)
            if not found:
                break  # it was damaged, and those behind it are to wait for it
            gone += [Done(stored.key, lying_in=self._channel) for stored in found]
            for envelope in {stored.envelope.id: stored.envelope for stored in found}.values():
                late = number < expected
                facts = {
                    "number": number,
                    "late": late,
                    "complete": late or number > state.vain,
                }
                numbered = envelope.replace(params={**envelope.params, "sequence": facts})
                on.append(Put(self._ready, numbered, group=stream, instead=True))
                expected = max(expected, number + 1)
        if expected != state.expected:
            await self._move_on(stream, state, expected, [*gone, *on])
        elif gone:
            await self._store.commit([*gone, *on])
        for number in passed:
            del state.waiting[number]

    async def _those(self, stream: str, number: int) -> list[Stored]:
        return await self._store.browse(self._channel, group=_group(number, stream))

    async def _move_on(
        self, stream: str, state: _Stream, expected: int, changes: Sequence[Change]
    ) -> None:
        """Commit changes, and with them how far the stream is."""
        several = self._options.by is not None
        expires = self._clock.time() + self._options.keep if several else 0.0
        envelope = Envelope(body=Body(str(expected).encode(), "text/plain"))
        place = Put(self._places, envelope, expires=expires, group=stream, instead=True)
        before = [Done(state.place, lying_in=self._places)] if state.place else []
        keys = await self._store.commit([*changes, *before, place])
        state.expected, state.place, state.until = expected, keys[-1], expires or float("inf")

    async def _bury(self, stream: str, state: _Stream, number: int, error: Permanent) -> None:
        """One that cannot be passed on is a dead letter, and the next has its turn."""
        log.warning("a message goes to the dead letters", channel=self._channel, error=error.detail)
        assert state.expected is not None
        when = datetime.fromtimestamp(self._clock.time(), UTC)
        failure = Failure.of(error, self._channel, 0, when)
        dead = [
            Move(stored.key, DEAD, failure=failure, lying_in=self._channel)
            for stored in await self._those(stream, number)
        ]
        await self._move_on(stream, state, max(state.expected, number + 1), dead)
        del state.waiting[number]


step = Role(ResequenceOptions, make)
