"""Durable messages: what a store keeps, and what changes in it together.

Messages lie in named channels (EIP: Message Channel, Guaranteed Delivery). Whatever happens to them
is a `Change`, and a `Store` commits any number of changes as one: all are on the disk or none. What
one run of a route changes is gathered in a `Unit` (Unit of Work; EIP: Transactional Client): what
it sends to channels, what it marks as seen, and what becomes of the message it was about.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar, Token
from datetime import datetime
from typing import Final, Literal, Protocol, Self

import msgspec
import structlog

from esb.envelope import Envelope
from esb.errors import EsbError, Unavailable

log = structlog.get_logger("esb.store")

DEAD: Final = "dead"
"""The channel of dead letters (EIP: Dead Letter Channel)."""


KEPT: Final = "kept:"
"""How channels begin that nobody takes messages from. What expires there is forgotten; anywhere
else it becomes a dead letter."""


def accept_channel(route: str) -> str:
    """Where a route's accepted messages lie, and the dead letters that are replayed into it."""
    return f"accept:{route}"


class Superseded(EsbError):
    """A change meant a message that is no longer where, or whose, the change took it to be: it was
    handled, dropped or handed to somebody else. Nothing of the commit was stored."""

    code = "superseded"


class Failure(msgspec.Struct, frozen=True):
    """Why a message failed: the error's code and detail, where, when, after how many tries. notes:
    what senders do not see (`EsbError.noted`). since: when the first of the tries began, of one
    that is to be tried again."""

    code: str
    detail: str
    route: str
    step: str
    attempts: int
    time: datetime
    notes: tuple[str, ...] = ()
    since: datetime | None = None

    @classmethod
    def of(
        cls,
        error: EsbError,
        route: str,
        attempts: int,
        time: datetime,
        since: datetime | None = None,
    ) -> Failure:
        """The record of `error`."""
        return cls(error.code, error.detail, route, error.step, attempts, time, error.notes, since)


class Stored(msgspec.Struct, frozen=True):
    """A message in the store.

    due: a Unix time; it is not handed out before.
    attempts: runs that ended in a failure. crashes: runs in a row that never ended, because the
        process died in them.
    hold: who took it, a number no two takes share; 0 for a message nobody has in hand.
    """

    key: int
    channel: str
    envelope: Envelope
    attempts: int
    due: float
    stored: float
    failure: Failure | None = None
    hold: int = 0
    crashes: int = 0
    priority: int = 0
    expires: float = 0.0
    group: str = ""


class Entry(msgspec.Struct, frozen=True):
    """What a store knows of a message without reading it; fields as in Stored. id: the
    envelope's."""

    key: int
    id: str
    group: str
    stored: float


class Receipt(msgspec.Struct, frozen=True):
    """What is left of a message that is through, for those who ask what became of it. outcome: of
    its last run ("message", "reply", "accepted", "filtered"); finished: a Unix time."""

    id: str
    route: str
    outcome: str
    business_key: str = ""
    principal: str = ""
    finished: float = 0.0


class Usage(msgspec.Struct, frozen=True):
    """Where a store is and how full, in bytes: what messages take up, what they may, and what is
    left on the disk (None if the store cannot see it)."""

    where: str
    used: int
    max_size: int
    free: int | None = None


# --- changes --------------------------------------------------------------------------------------


class Put(msgspec.Struct, frozen=True):
    """A message goes into a channel.

    due, expires: Unix times; not handed out before the one, a dead letter after the other (0: at
        once; never). In a channel that begins with KEPT it is forgotten instead.
    priority: the higher comes first.
    group: messages of one channel and group are handed out one after the other, in the order they
        were put, the next when the one before has left the channel; "" for none.
    instead: it takes the room of what the same commit forgets, so it is taken when there is none.
    written: the envelope as it will lie on the disk, filled in by `Store.prepare`.
    """

    channel: str
    envelope: Envelope
    due: float = 0.0
    attempts: int = 0
    failure: Failure | None = None
    priority: int = 0
    expires: float = 0.0
    group: str = ""
    instead: bool = False
    written: bytes = b""


class Publish(msgspec.Struct, frozen=True):
    """A message goes to every subscription that a topic has at this moment; fields as in Put."""

    topic: str
    envelope: Envelope
    due: float = 0.0
    priority: int = 0
    expires: float = 0.0
    group: str = ""
    written: bytes = b""


class Done(msgspec.Struct, frozen=True):
    """A message is forgotten.

    hold: only if that take still has it in hand (0: whoever has it). lying_in: only if it is in
        that channel. Else the commit is Superseded.
    receipt: what is kept about it.
    """

    key: int
    hold: int = 0
    lying_in: str = ""
    receipt: Receipt | None = None


class Move(msgspec.Struct, frozen=True):
    """A message goes to another channel (or stays, to wait), and nobody has it in hand any more.
    Needs no room. `hold` and `lying_in` as in Done."""

    key: int
    channel: str
    due: float = 0.0
    attempts: int = 0
    failure: Failure | None = None
    hold: int = 0
    lying_in: str = ""


class Confirm(msgspec.Struct, frozen=True):
    """What was claimed is done, and `answer` is what to tell whoever claims it until the Unix time
    `until`. written: the answer as it will lie on the disk, as in Put."""

    scope: str
    value: str
    until: float
    answer: Envelope | None = None
    written: bytes = b""


class Release(msgspec.Struct, frozen=True):
    """What was claimed was not done: the next may try. done: also if it was confirmed, because it
    has been undone or may be done once more."""

    scope: str
    value: str
    done: bool = False


Change = Put | Publish | Done | Move | Confirm | Release


class Claim(msgspec.Struct, frozen=True):
    """The answer to a claim (EIP: Idempotent Receiver).

    state: "new": the claim is ours, to be confirmed or released; "busy": somebody else's who is at
        work; "done": it was confirmed, with `answer`.
    crashes: how many in a row had claimed it and died before they did either.
    """

    state: Literal["new", "busy", "done"]
    crashes: int = 0
    answer: Envelope | None = None


# --- the store ------------------------------------------------------------------------------------


class Store(Protocol):
    """Durable messages in named channels.

    A method that writes returns once its effect is on the disk. It raises Overloaded when there is
    no room and Transient when nothing can be written; then nothing was stored.
    """

    async def commit(self, changes: Sequence[Change]) -> list[int]:
        """Make changes, all or none. Returns the keys of what was Put, in order.

        Raises Superseded beside what is said above; what cannot be written at all (a message too
        large, a header of a type nothing keeps) is TooLarge, BadMessage or RouteFailure.
        """
        ...

    def prepare(self, change: Change) -> Change:
        """The change with its message or answer written, so that a commit will not fail for its
        sake. Raises what the body raises when it is written, TooLarge, BadMessage or RouteFailure.
        """
        ...

    async def take(
        self, channel: str, limit: int, *, in_order: bool = False, wait: float = 0.0
    ) -> list[Stored]:
        """Up to `limit` due messages, by priority, then oldest first, handed to nobody else until
        they are settled by a Done or a Move.

        in_order: nothing, while anything of the channel is in anybody's hand.
        wait: so many seconds at most, as long as there is none.
        That it was taken is noted before it is handed out, so what a dead process had in hand is
        there again with its `crashes` counted; after MOST_CRASHES it is a dead letter ("poison").
        """
        ...

    async def wait(self, channel: str, timeout: float, *, news: bool = False) -> None:
        """Return when something may be due in `channel`, at the latest after `timeout` seconds.

        news: whatever is due there, only when something has come since the call. It listens as
        soon as it runs for the first time.
        """
        ...

    async def claim(self, scope: str, value: str, until: float) -> Claim:
        """Claim the right to do what `value` names. A claim that is neither confirmed nor released
        ends with the process that made it. `until`: when a claim left behind may be forgotten."""
        ...

    async def subscribe(self, topic: str, name: str) -> None:
        """From now on a copy of what is published to `topic` goes to `subscription(topic, name)`,
        whether or not anybody takes messages from there (EIP: Durable Subscriber)."""
        ...

    async def unsubscribe(self, topic: str, name: str) -> bool:
        """End a subscription and forget what lies there. Returns whether there was one."""
        ...

    async def subscriptions(self, topic: str = "") -> list[tuple[str, str]]:
        """(topic, name) of each subscription, of one topic or of all."""
        ...

    async def browse(
        self, channel: str, *, limit: int = 100, after: int = 0, group: str = ""
    ) -> list[Stored]:
        """Messages of a channel, or of one group there, in the order of their keys, from the one
        after key `after`."""
        ...

    async def entries(self, channel: str, *, limit: int, after: int = 0) -> list[Entry]:
        """What is known, without reading them, of messages of a channel that have a group: of up to
        `limit` in the order of their keys, from the one after key `after`.

        Where several processes put messages, one may come to light after another whose key is
        later. So some that were there before may be told again, besides the limit.
        """
        ...

    async def get(self, key: int) -> Stored | None:
        """One message, wherever it lies."""
        ...

    async def find(self, text: str, *, limit: int = 100) -> tuple[list[Stored], list[Receipt]]:
        """Messages, and receipts of those that are through, whose id or business key is `text`."""
        ...

    async def counts(self) -> dict[str, int]:
        """Messages by channel."""
        ...

    async def usage(self) -> Usage:
        """Where it is, and how full."""
        ...

    # --- one change -------------------------------------------------------------------------------

    async def put(
        self,
        channel: str,
        envelope: Envelope,
        *,
        due: float = 0.0,
        attempts: int = 0,
        failure: Failure | None = None,
    ) -> int:
        """Store a message and return its key."""
        [key] = await self.commit((Put(channel, envelope, due, attempts, failure),))
        return key

    async def done(self, key: int, *, lying_in: str = "") -> bool:
        """Forget a message. `lying_in`: only if it is in that channel, so that two who mean the
        same message cannot undo each other's work. Returns whether it was there."""
        try:
            await self.commit((Done(key, lying_in=lying_in),))
        except Superseded:
            return False
        return True

    async def move(
        self,
        key: int,
        channel: str,
        *,
        due: float = 0.0,
        attempts: int = 0,
        failure: Failure | None = None,
        lying_in: str = "",
    ) -> bool:
        """Move a message to another channel, or to the same one, to wait; nobody has it in hand any
        more. `lying_in` and what is returned are as with `done`."""
        move = Move(key, channel, due, attempts, failure, lying_in=lying_in)
        try:
            await self.commit((move,))
        except Superseded:
            return False
        return True


MOST_CRASHES: Final = 3
"""So often a process may die with a message in hand before the message is to blame. From the
second time on it is handed out alone, so that no other is blamed for it."""

GIVE_UP_AGAIN: Final = 1.0
"""Seconds after which it is tried again to give up a claim."""


def subscription(topic: str, name: str) -> str:
    """The channel of a subscription."""
    return f"topic:{topic}/{name}"


# --- the unit of work -----------------------------------------------------------------------------


class Unit:
    """What one run changes in the store (Unit of Work; EIP: Transactional Client).

        async with Unit(store, taken=message) as unit:
            ...                     # what runs here adds its changes: see `change`
            await unit.commit()

    Whoever takes a message opens the unit, and commits it once the run is through. A unit that ends
    without a commit leaves no trace.

    taken: the message of the store that the run is about; what becomes of it (`settle`) is
        committed with everything else.
    within: the unit that this one is a part of: its commit hands the changes on to that one. So a
        part that fails and is tried again leaves nothing of its first try.
    in_order: what comes behind the message waits for it, so it keeps its place until it is settled.
    """

    def __init__(
        self,
        store: Store,
        *,
        taken: Stored | None = None,
        within: Unit | None = None,
        in_order: bool = False,
    ) -> None:
        self.store = store
        self.taken = taken
        self.in_order = in_order
        self.settled: Done | Move | None = None
        self.over = False
        self._committed = False
        self._within = within
        self._changes: list[Change] = []
        self._times: dict[str, int] = {}
        self._claims: dict[tuple[str, str], tuple[Unit, str]] = {}  # and who made each
        self._claiming = asyncio.Lock()
        self._around: Unit | None = None
        self._token: Token[Unit | None] | None = None

    async def __aenter__(self) -> Self:
        self._around = unit_on(self.store)
        self._token = _current.set(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._token is not None
        self.over = True
        _current.reset(self._token)
        claims, self._claims = self._claims, {}
        if claims:
            await give_up(self.store, *claims)

    def add(self, *changes: Change) -> None:
        """To be committed with the rest."""
        self._changes += changes

    def added(self) -> Iterator[Change]:
        """What the run has changed so far, as this part of it sees that, also if its own changes
        are committed apart from the rest."""
        if self._around is not None:
            yield from self._around.added()
        yield from self._changes

    def did(self, what: str) -> None:
        """Remember that the run has done something once more, unless this part of it fails."""
        self._times[what] = self._times.get(what, 0) + 1

    def times(self, what: str) -> int:
        """How often it has, as this part of it sees that."""
        around = self._within.times(what) if self._within is not None else 0
        return around + self._times.get(what, 0)

    @property
    def about(self) -> Stored | None:
        """The message of the store that the run is about, also for a part of the run."""
        return self.taken if self._within is None else self._within.about

    def settle(self, change: Done | Move) -> None:
        """What becomes of the message that was taken. The first word counts: what is further in
        knows better."""
        self.settled = self.settled or change

    async def claim(
        self, scope: str, value: str, until: float, *, by: str = "", part: Unit | None = None
    ) -> Claim:
        """As `Store.claim`. It is confirmed with the commit, if a Confirm was added; else given up
        with it, or when the unit ends. by: which of the messages that the run is about claims it:
        what it has itself is its own, what another has is done, unless that one's part failed.
        """
        part = part or self
        if self._within is not None:
            return await self._within.claim(scope, value, until, by=by, part=part)
        async with self._claiming:  # parts may run side by side
            claim = Claim("new")
            maker, of = self._claims.get((scope, value), (None, by))
            if maker is None:
                claim = await self.store.claim(scope, value, until)
            elif of != by and not maker._failed:
                return Claim("done")
            if claim.state == "new":
                self._claims[scope, value] = part, by
            return claim

    async def commit(self) -> None:
        """Commit everything at once. Raises what `Store.commit` raises; it may be tried again."""
        if self._within is not None:
            self._within.add(*self._changes)
            times = self._within._times
            for what, count in self._times.items():
                times[what] = times.get(what, 0) + count
            self._changes, self._times, self._committed = [], {}, True
            return
        confirmed = {(c.scope, c.value): c for c in self._changes if isinstance(c, Confirm)}
        changes = [c for c in self._changes if not isinstance(c, Confirm)] + [*confirmed.values()]
        changes += [Release(*claim) for claim in self._claims if claim not in confirmed]
        if self.settled is not None:
            changes.append(self.settled)
        if changes:
            await self.store.commit(changes)
        self._changes, self.settled, self._claims = [], None, {}

    @property
    def _failed(self) -> bool:
        """Whether what this part changed came to nothing."""
        if self._within is None:
            return False
        return (self.over and not self._committed) or self._within._failed


_current: ContextVar[Unit | None] = ContextVar("unit", default=None)


def unit_on(store: Store | None) -> Unit | None:
    """The unit of the run that the caller is part of, if it has one on this store."""
    unit = _current.get()
    # A task that was begun in a run and outlives it still sees the unit, which nobody commits now.
    return unit if unit is not None and unit.store is store and not unit.over else None


def from_store() -> bool:
    """Whether the message of the run was taken from a store: whoever sent it waits for nothing."""
    unit = _current.get()
    return unit is not None and unit.taken is not None and not unit.over


@asynccontextmanager
async def part() -> AsyncIterator[None]:
    """What runs here changes the store with the run that it is part of, if it gets to the end; what
    raises leaves nothing. Without a run around it, it is as if it stood alone."""
    around = _current.get()
    if around is None or around.over:
        yield
        return
    async with Unit(around.store, within=around) as unit:
        yield
        await unit.commit()


async def change(store: Store, *changes: Change) -> None:
    """Make changes: with everything else of the run if it has a unit, else at once.

    Raises what `Store.commit` raises.
    """
    unit = unit_on(store)
    if unit is None:
        await store.commit(changes)
    else:
        # What cannot be stored is an error of the step that sends it, not of the commit.
        unit.add(*map(store.prepare, changes))


@contextmanager
def at_once() -> Iterator[None]:
    """What runs here changes the store by itself, whatever becomes of the run around it."""
    token = _current.set(None)
    try:
        yield
    finally:
        _current.reset(token)


async def give_up(store: Store, *claims: tuple[str, str]) -> None:
    """Release claims, each a scope and a value: at once, or else as soon as the store takes it.
    Never raises; until then whoever claims the same hears that it is busy."""
    releases = [Release(*claim) for claim in claims]
    try:
        await store.commit(releases)
    except EsbError as e:
        log.warning("a claim could not be given up yet", error=e.detail)
        task = asyncio.create_task(_given_up(store, releases), name="esb store: claims")
        _giving_up.add(task)
        task.add_done_callback(_giving_up.discard)


_giving_up: Final[set[asyncio.Task[None]]] = set()


async def _given_up(store: Store, releases: Sequence[Release]) -> None:
    while True:
        await asyncio.sleep(GIVE_UP_AGAIN)
        try:
            await store.commit(releases)
            return
        except EsbError as e:
            if isinstance(e, Unavailable) and e.for_good:
                return
