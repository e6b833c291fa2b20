"""Aggregator (EIP): gather messages that belong together, and go on with each whole group as one.

A member lies in the store from the moment its own run is through. A group is passed on in the
commit that forgets its members (see `esb.gathering`), into a route of its own, "<route>/<name>",
which has the policies of the route that the step is in.

For example:

    aggregate:
      by: body.order
      size: 10
      timeout: 5m
      steps: [{send: {queue: parcels}}]
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final, Literal

import structlog
from lxml import etree
from pydantic import Field

from esb.adapter import Build, Expression, Role
from esb.clock import Clock
from esb.durable import (
    DEAD,
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
from esb.envelope import Body, Envelope, Headers, Outcome
from esb.errors import EsbError, Permanent, RouteFailure
from esb.gathering import Gathering, is_replayed, key_text, side_by_side
from esb.options import Duration, Name, Options, RawSteps
from esb.step import Step, asked, pipeline

log = structlog.get_logger("esb.aggregate")

PAGE: Final = 200
IN_MEMORY: Final = 1000
"""So many members, of groups or of one that has more, are in memory at a time."""
_ONE_GROUP: Final = "*"
_IN_COMMON: Final = ("source", "type", "subject", "business_key", "principal", "traceparent")


class Incomplete(Permanent):
    """A group was not complete in time."""

    code = "incomplete"


class AggregateOptions(Options):
    """Gather messages, and run the steps on each group. At least one of `size`, `when`, `timeout`
    and `idle` says when a group is complete; the first that holds counts."""

    name: Name = Field(
        "aggregate",
        description="Names the route that goes on with the groups, `<route>/<name>`, and where "
        "members lie meanwhile: after a change of it what lies there is not found any more.",
    )
    by: str | None = Field(
        None,
        description="An expression: what the members of a group have in common. Without it all "
        "messages are of one group, and the next one after that.",
    )
    size: int | None = Field(None, ge=1, description="Complete with so many members.")
    when: str | None = Field(
        None,
        description="Complete when this expression is true. It is tried with each new member and "
        "sees `body`, the list of the members' bodies so far, and `group.key` and `group.size`.",
    )
    timeout: Duration | None = Field(
        None, description="Complete so long after its first member came, with those that are there."
    )
    idle: Duration | None = Field(
        None, description="Complete so long after its last member came, with those that are there."
    )
    incomplete: Literal["pass", "dead"] = Field(
        "pass",
        description="What becomes of a group that was waited for in vain, by `timeout` or `idle` "
        "although there is a `size` or `when`, or that has the `most` members: it passes like "
        "others, or goes to the dead letters, from where a replay lets it pass.",
    )
    most: int = Field(1000, ge=1, description="A group never gets more members than this.")
    body: str | None = Field(
        None,
        description="An expression over the group that gives the new body; the list of the "
        "members' bodies, in the order in which they came, if left out.",
    )
    steps: RawSteps = Field(
        description="What is done with each group. `group.key` is what its members have in common, "
        "`group.size` their number, `group.complete` false if some were waited for in vain."
    )


def make(options: AggregateOptions, build: Build) -> Step:
    """The message is stored with the commit of its run and goes on with the outcome ACCEPTED. One
    whose id the group has already is no new member. Raises BadMessage for a message whose body
    cannot be read or that belongs to no group."""
    _check(options, build)
    by = None if options.by is None else build.expression(options.by, "by")
    when = None if options.when is None else build.expression(options.when, "when")
    body = None if options.body is None else build.expression(options.body, "body")
    store = build.store
    route = f"{build.route}/{options.name}"
    channel = f"aggregate:{route}"
    groups = _Groups(options, store, channel, accept_channel(route), when, build.clock)
    steps = build.steps(options.steps, "steps")

    async def begin(envelope: Envelope) -> Envelope:
        group = envelope.params.get("group", {})
        if not is_replayed(store):
            if reason := group.get("failure"):
                raise RouteFailure(reason)
            if options.incomplete == "dead" and not group.get("complete", True):
                raise Incomplete(f"the group was not complete in time: {group['size']} came")
        if body is None:
            return envelope
        return envelope.with_body(Body.of(await asked(body, envelope)))

    begin_and_go_on = pipeline([(build.where, begin), ("steps", steps)])
    gathering = Gathering(store, channel, groups, clock=build.clock)
    build.continuation(options.name, gathering, begin_and_go_on)

    async def aggregate(envelope: Envelope) -> Envelope:
        group = _ONE_GROUP if by is None else key_text(await asked(by, envelope), "group")
        # What is wrong with one message is not to be found out when it is in a group with others.
        await asked(_written, envelope)
        await change(store, Put(channel, envelope, group=group))
        return envelope.replace(outcome=Outcome.ACCEPTED)

    return aggregate


def _check(options: AggregateOptions, build: Build) -> None:
    ends = ("size", "when", "timeout", "idle")
    if all(getattr(options, end) is None for end in ends):
        build.problem("nothing says when a group is complete", hint=", ".join(ends))
    if options.size is not None and options.size > options.most:
        build.problem(f"no group has more than {options.most} members", "size",
                      hint="say more in 'most'")  # fmt: skip
    if not options.steps:
        build.problem("nothing is done with the groups", "steps", hint="steps: [{send: ...}]")


def _written(envelope: Envelope) -> bytes:
    return Body.of([_data(envelope)]).raw


def _data(envelope: Envelope) -> Any:
    data = envelope.body.data
    return envelope.body.text if isinstance(data, etree._Element) else data


@dataclass(slots=True)
class _Group:
    """What is kept in mind of a group that is not complete. tried: with so many members `when` was
    false. timed: the time by which it is among those that end by time."""

    first: float
    last: float
    ids: set[str] = field(default_factory=set)
    tried: int = 0
    timed: float | None = None


class _Groups:
    """The rule by which groups are completed (see `esb.gathering.Rule`)."""

    def __init__(
        self,
        options: AggregateOptions,
        store: Store,
        channel: str,
        ready: str,
        when: Expression | None,
        clock: Clock,
    ) -> None:
        self._options = options
        self._bound = min(options.size or options.most, options.most)
        self._store = store
        self._channel = channel
        self._ready = ready
        self._when = when
        self._clock = clock
        self.forget()

    def forget(self) -> None:
        self._groups: dict[str, _Group] = {}
        self._changed: dict[str, None] = {}  # in their order
        self._by_time: list[tuple[float, str]] = []  # a group ends then, or later

    def learn(self, entry: Entry, now: float) -> None:
        stored = min(entry.stored, now)  # in the future, if the clock was set back
        group = self._groups.setdefault(entry.group, _Group(stored, stored))
        if entry.id not in group.ids:
            group.ids.add(entry.id)
            group.last = max(group.last, stored)
            self._changed[entry.group] = None
            self._time(entry.group, group)

    async def act(self, now: float) -> None:
        changed, self._changed = self._changed, {}
        ripe = {
            key: None
            for key in changed
            if self._when is not None or len(self._groups[key].ids) >= self._bound
        }
        while self._by_time and self._by_time[0][0] <= now:
            end, key = heapq.heappop(self._by_time)
            group = self._groups.get(key)
            if group is None or group.timed != end:
                continue  # that was one before it
            group.timed = None
            if self._end(group) <= now:
                ripe[key] = None
            else:
                self._time(key, group)
        for some in self._few(ripe):
            await side_by_side(self._complete(key, now) for key in some)

    def due(self) -> float | None:
        return self._by_time[0][0] if self._by_time else None

    def _few(self, keys: Iterable[str]) -> Iterator[list[str]]:
        """Groups that together have not too many members to be in memory at a time."""
        some: list[str] = []
        members = 0
        for key in keys:
            count = min(len(self._groups[key].ids), self._bound)
            if some and members + count > IN_MEMORY:
                yield some
                some, members = [], 0
            some.append(key)
            members += count
        if some:
            yield some

    def _time(self, key: str, group: _Group) -> None:
        if group.timed is None and (end := self._end(group)) != float("inf"):
            group.timed = end
            heapq.heappush(self._by_time, (end, key))

    def _end(self, group: _Group) -> float:
        timeout, idle = self._options.timeout, self._options.idle
        return min(
            float("inf") if timeout is None else group.first + timeout,
            float("inf") if idle is None else group.last + idle,
        )

    def _facts(self, key: str, size: int) -> dict[str, Any]:
        return {"key": "" if self._options.by is None else key, "size": size}

    async def _complete(self, key: str, now: float) -> None:
        """Pass on what is complete of a group's members, and keep the rest in mind."""
        while True:
            members, again, all_read = await self._members(key)
            group = replace(self._groups[key])
            if members:
                group.first = min(members[0].stored, now)
                group.last = min(members[-1].stored, now)
            count, ended = self._judge(key, group, members, all_read, now)
            if not count:
                del self._groups[key]
                if members:
                    group.ids = {member.envelope.id for member in members}
                    self._groups[key] = group
                    self._time(key, group)
                return
            await self._pass_on(key, members[:count], again, ended)
            self._groups[key].tried = 0

    async def _members(self, key: str) -> tuple[list[Stored], list[Stored], bool]:
        """The first members of a group; those between them that were delivered again; and whether
        these are all."""
        members: dict[str, Stored] = {}
        again: list[Stored] = []
        after = 0
        while (more := self._bound - len(members)) > 0:
            limit = min(more, PAGE)
            page = await self._store.browse(self._channel, group=key, limit=limit, after=after)
            for stored in page:
                if members.setdefault(stored.envelope.id, stored) is not stored:
                    again.append(stored)
            if len(page) < limit:
                return list(members.values()), again, True
            after = page[-1].key
        return list(members.values()), again, False

    def _judge(
        self, key: str, group: _Group, members: Sequence[Stored], all_read: bool, now: float
    ) -> tuple[int, dict[str, Any]]:
        """With how many of its members a group is complete, 0 if it is not; and how it ended."""
        options = self._options
        expected = options.size is not None or self._when is not None
        if self._when is not None:
            bodies: list[Any] = []
            try:
                bodies += [_data(member.envelope) for member in members]
                for count in range(group.tried + 1, len(members) + 1):
                    if self._when(_so_far(self._facts(key, count), bodies[:count])):
                        return count, {"complete": True}
                    group.tried = count
            except EsbError as e:
                return len(members), {"complete": False, "failure": e.detail}
        if len(members) == self._bound:
            return len(members), {"complete": self._bound == options.size}
        if members and all_read and self._end(group) <= now:
            return len(members), {"complete": not expected}
        return 0, {}

    async def _pass_on(
        self, key: str, members: Sequence[Stored], again: Sequence[Stored], ended: dict[str, Any]
    ) -> None:
        ids = {member.envelope.id for member in members}
        gone = [*members, *(stored for stored in again if stored.envelope.id in ids)]
        try:
            facts = self._facts(key, len(members)) | ended
            aggregate = _aggregate(facts, [member.envelope for member in members])
            done = [Done(stored.key, lying_in=self._channel) for stored in gone]
            await self._store.commit([*done, Put(self._ready, aggregate, instead=True)])
        except Permanent as e:
            # As one they cannot be stored; replayed, each joins a group again.
            log.warning("a group goes to the dead letters", channel=self._channel, error=e.detail)
            when = datetime.fromtimestamp(self._clock.time(), UTC)
            failure = Failure.of(e, self._channel, 0, when)
            await self._store.commit(
                [Move(s.key, DEAD, failure=failure, lying_in=self._channel) for s in gone]
            )


def _so_far(facts: dict[str, Any], bodies: list[Any]) -> Envelope:
    return Envelope(id=facts["key"], body=Body.of(bodies), params={"group": facts})


def _aggregate(facts: dict[str, Any], members: Sequence[Envelope]) -> Envelope:
    """One message for all: with what they have in common, headers included."""
    first, *others = members
    common = {
        name: getattr(first, name)
        for name in _IN_COMMON
        if all(getattr(other, name) == getattr(first, name) for other in others)
    }
    headers = [
        (name, value)
        for name, value in first.headers
        if all(value in other.headers.get_all(name) for other in others)
    ]
    return Envelope(
        body=Body.of([_data(member) for member in members]),
        headers=Headers.trusted(headers),
        correlation_id=facts["key"],
        params={"group": facts},
        **common,
    )


step = Role(AggregateOptions, make)
