"""What those who run the bus do with messages in its store (EIP: Control Bus, Message Store).

A replay is a move out of the dead letters, on the disk before it is said to have happened, and only
of what still lies there: whoever asks for it twice, or is killed in the middle and asks again, has
each message replayed once. Its tries count anew; the last failure stays with it until it is through
or has failed again.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

import msgspec
import structlog
from pydantic import BeforeValidator, Field, model_validator

from esb.clock import REAL, Clock
from esb.durable import DEAD, Done, Move, Receipt, Store, Stored, Superseded, subscription
from esb.errors import EsbError
from esb.mistakes import did_you_mean
from esb.options import Options, parse_duration
from esb.route import Route
from esb.store import DAMAGED

log = structlog.get_logger("esb.control")

PAGE: Final = 50
"""So many messages are in memory at a time, with their bodies."""
AT_ONCE: Final = 100
"""So many are moved or forgotten in one commit."""
EXAMPLES: Final = 20


class Refused(EsbError):
    """What an operator asked for cannot be done as things are."""

    code = "refused"


class NotThere(Refused):
    """There is no such dead letter, or not any more."""

    code = "not-there"


# --- which messages -------------------------------------------------------------------------------


def parse_when(value: Any) -> datetime:
    """A moment from ISO 8601 ("2026-11-25T14:00:00Z"; UTC if it does not say) or from how long ago
    it was ("2h"). Raises ValueError with the spellings that would do."""
    text = str(value).strip()
    try:
        if re.match(r"\d{4}-", text):
            moment = datetime.fromisoformat(text)
            return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return datetime.now(UTC) - timedelta(seconds=parse_duration(text))
    except (ValueError, OverflowError) as e:
        raise ValueError("a moment is 2026-11-25T14:00:00Z, or how long ago it was: 90m, 2d") from e


When = Annotated[datetime, BeforeValidator(parse_when)]
Key = Annotated[int, Field(ge=0, lt=2**63, description="Of a message in the store.")]


def _numeric(value: Any) -> Any:
    # Pydantic takes true for 1, and another message than was meant would be dropped.
    if isinstance(value, bool | str):
        raise ValueError("a key is a whole number")
    return value


class Filter(Options):
    """Which dead letters: those for which everything holds that is set."""

    route: str = Field("", description="The route, or the channel of the store, it failed in.")
    code: str = Field("", description="The code of the error.")
    since: When | None = Field(None, description="Failed then or later: ISO 8601, or 2h for ago.")
    until: When | None = Field(None, description="Failed then or before.")
    text: str = Field("", description="Found in the id, business key or correlation id.")

    def matches(self, one: Stored) -> bool:
        """Whether a dead letter is one of them."""
        envelope, failure, when = one.envelope, one.failure, failed_at(one)
        return (
            (not self.route or (failure is not None and failure.route == self.route))
            and (not self.code or (failure is not None and failure.code == self.code))
            and (self.since is None or when >= self.since)
            and (self.until is None or when <= self.until)
            and any(
                self.text in name
                for name in (envelope.id, envelope.business_key, envelope.correlation_id)
            )
        )


class Selection(Filter):
    """Dead letters by their keys, or by a filter, or all."""

    keys: list[Annotated[Key, BeforeValidator(_numeric)]] = Field([], description="Their keys.")
    all: bool = Field(False, strict=True, description="All there are.")

    @model_validator(mode="after")
    def _one_way(self) -> Selection:
        filtered = any(getattr(self, name) not in ("", None) for name in Filter.model_fields)
        if bool(self.keys) + filtered + self.all != 1:
            raise ValueError("say which: keys, a filter (route, code, since, until, text), or all")
        return self


class To(Options):
    """Where dead letters are replayed to."""

    to: str | dict[str, str] | None = Field(
        None,
        description="Another route, by its name; or a queue of the bus: {queue: name}. Where each "
        "came from if left out.",
    )


class Replay(Selection, To):
    """Which dead letters are replayed, and where to."""


def failed_at(one: Stored) -> datetime:
    """When it became a dead letter."""
    return one.failure.time if one.failure else datetime.fromtimestamp(one.stored, UTC)


async def listed(
    store: Store, which: Filter, limit: int, after: int = 0
) -> tuple[list[Stored], int]:
    """Up to `limit` dead letters, the oldest first, from the one after key `after`; and how many
    there are in all."""
    if which == Filter():
        page = await store.browse(DEAD, limit=limit, after=after)
        return page, (await store.counts()).get(DEAD, 0)
    found: list[Stored] = []
    total = 0
    async for one in _dead(store, which):
        total += 1
        if one.key > after and len(found) < limit:
            found.append(one)
    return found, total


async def dead_letter(store: Store, key: int) -> Stored:
    """One dead letter. Raises NotThere."""
    one = await store.get(key)
    if one is None or one.channel != DEAD:
        raise NotThere(f"there is no dead letter {key}")
    return one


async def _dead(store: Store, which: Filter) -> AsyncIterator[Stored]:
    after = 0
    while page := await store.browse(DEAD, limit=PAGE, after=after):
        for one in page:
            if which.matches(one):
                yield one
        after = page[-1].key


async def _selected(store: Store, which: Selection, tally: Tally) -> AsyncIterator[Stored]:
    if which.keys:
        for key in dict.fromkeys(which.keys):
            try:
                yield await dead_letter(store, key)
            except NotThere as e:
                tally.refuse(key, e.detail)
        return
    # What fails again, or for the first time, while this goes on is not meant.
    now = datetime.now(UTC)
    async for one in _dead(store, which):
        if failed_at(one) <= now:
            yield one


# --- what is done to them -------------------------------------------------------------------------


@dataclass
class Tally:
    """What became of those that were selected. refused: keys by the reason why nothing did."""

    done: int = 0
    refused: dict[str, list[int]] = field(default_factory=dict)

    def refuse(self, key: int, why: str) -> None:
        """Count one that nothing was done to."""
        self.refused.setdefault(why, []).append(key)

    def told(self, verb: str) -> dict[str, Any]:
        """As an answer to whoever asked."""
        why = [
            {"why": why, "count": len(keys), "keys": keys[:EXAMPLES]}
            for why, keys in self.refused.items()
        ]
        return {verb: self.done, "refused": why}


async def replay(
    store: Store, routes: Mapping[str, Route], which: Selection, to: str | dict[str, str] | None
) -> Tally:
    """Let dead letters run again: where they came from, or where `to` says (see `To`).

    Raises Refused if nothing can be replayed `to` there; of single messages the Tally tells.
    """
    way = _Way(routes)
    fixed = way.to(to) if to is not None else ""
    tally = Tally()

    def change(one: Stored) -> Move:
        failure = one.failure and msgspec.structs.replace(one.failure, since=None)
        return Move(one.key, fixed or way.back(one), failure=failure, lying_in=DEAD)

    await _each(store, which, change, tally)
    if tally.done:
        log.info("dead letters are replayed", count=tally.done, to=fixed or "where they came from")
    return tally


async def drop(store: Store, which: Selection) -> Tally:
    """Forget dead letters for good."""
    tally = Tally()
    await _each(store, which, lambda one: Done(one.key, lying_in=DEAD), tally)
    if tally.done:
        log.warning("dead letters were dropped", count=tally.done)
    return tally


async def _each(
    store: Store, which: Selection, change: Callable[[Stored], Done | Move], tally: Tally
) -> None:
    changes: list[Done | Move] = []
    async for one in _selected(store, which, tally):
        try:
            changes.append(change(one))
        except Refused as e:
            tally.refuse(one.key, e.detail)
        if len(changes) == AT_ONCE:
            await _commit(store, changes, tally)
            changes = []
    await _commit(store, changes, tally)


async def _commit(store: Store, changes: list[Done | Move], tally: Tally) -> None:
    try:
        await store.commit(changes)
        tally.done += len(changes)
    except Superseded:
        if len(changes) > 1:
            for one in changes:
                await _commit(store, [one], tally)
        else:
            tally.refuse(changes[0].key, "it is no dead letter any more: somebody was faster")


class _Way:
    """From the dead letters to the channels that routes take messages from."""

    def __init__(self, routes: Mapping[str, Route]) -> None:
        self._routes = routes
        self._channels = {channel for route in routes.values() for channel in route.channels}
        self._gathered = {channel for route in routes.values() for channel in route.gathered}

    def to(self, target: str | dict[str, str]) -> str:
        """The channel that a target means. Raises Refused."""
        if isinstance(target, str):
            if target not in self._routes:
                raise Refused(_unknown("route", target, self._routes))
            return self._into(self._routes[target])
        if len(target) != 1:
            raise Refused('\'to\' is the name of a route, or one queue: {"queue": "name"}')
        [(kind, name)] = target.items()
        channel = f"{kind}:{name}"
        if channel not in self._channels:
            near = [c.removeprefix(f"{kind}:") for c in self._channels if c.startswith(f"{kind}:")]
            raise Refused(f"no route takes messages from {_unknown(kind, name, near)}")
        return channel

    def back(self, one: Stored) -> str:
        """The channel of where a dead letter came from. Raises Refused."""
        came_from = one.failure.route if one.failure else ""
        if came_from in self._routes:
            return self._into(self._routes[came_from], grouped=bool(one.group))
        # It lay too long, or the bus died of it, before any route could fail.
        if came_from in self._channels or came_from in self._gathered:
            return came_from
        if ":" in came_from:
            raise Refused(f"no route takes messages from {came_from.replace(':', ' ', 1)}")
        raise Refused(f"its route '{came_from}' is not there any more; replay it to another")

    def _into(self, route: Route, *, grouped: bool = False) -> str:
        channel = route.way_back(grouped=grouped)
        if not channel:
            raise Refused(
                f"callers of route '{route.name}' wait for its answer, and nobody would get this "
                "one; replay it to another route, or give this one 'accept: durable'"
            )
        return channel


def _unknown(kind: str, name: str, known: Iterable[str]) -> str:
    hint = did_you_mean(name, sorted(known))
    return f"{'there is no route' if kind == 'route' else kind} '{name}'" + (
        f": {hint}" if hint else ""
    )


# --- where a message is ---------------------------------------------------------------------------


async def find(store: Store, text: str, clock: Clock = REAL) -> list[dict[str, Any]]:
    """What became of messages with this id or business key, in the order of time: one entry for
    each that lies in the store, and one for each that went through a route.

    Their `state` is delivered or filtered; or waiting, working, retrying, dead, damaged.
    """
    lying, receipts = await store.find(text)
    through = sorted(receipts, key=lambda receipt: receipt.finished)
    return [*map(_done, through), *(_lying(one, clock.time()) for one in lying)]


def _done(receipt: Receipt) -> dict[str, Any]:
    ended = receipt.outcome in ("filtered", "dead")
    return {
        "state": receipt.outcome if ended else "delivered",
        "id": receipt.id,
        "business_key": receipt.business_key,
        "route": receipt.route,
        "outcome": receipt.outcome,
        "principal": receipt.principal,
        "finished": moment(receipt.finished),
    }


def _lying(one: Stored, now: float) -> dict[str, Any]:
    if one.channel in (DEAD, DAMAGED):
        state = one.channel
    elif one.hold:
        state = "working"
    else:
        state = "retrying" if one.attempts else "waiting"
    failure = one.failure
    return {
        "state": state,
        "id": one.envelope.id,
        "business_key": one.envelope.business_key,
        "channel": one.channel,
        "key": one.key,
        "stored": moment(one.stored),
        "due": moment(one.due) if one.due > now else None,
        "expires": moment(one.expires) if one.expires else None,
        "attempts": one.attempts,
        "failure": failed(one) if failure else None,
    }


def failed(one: Stored) -> dict[str, Any]:
    """The last failure of a message, for people."""
    failure = one.failure
    assert failure is not None
    return {
        "route": failure.route,
        "step": failure.step,
        "code": failure.code,
        "detail": failure.detail,
        "notes": list(failure.notes),
        "time": failure.time.isoformat(),
    }


def moment(seconds: float) -> str:
    """A Unix time in ISO 8601."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()


# --- topics ---------------------------------------------------------------------------------------


async def subscriptions(store: Store, routes: Mapping[str, Route]) -> list[dict[str, Any]]:
    """Every subscription of a topic in the store: how many messages lie there, and the routes that
    read it."""
    counts = await store.counts()
    return [
        {
            "topic": topic,
            "subscription": name,
            "messages": counts.get(subscription(topic, name), 0),
            "routes": _readers(routes, topic, name),
        }
        for topic, name in await store.subscriptions()
    ]


async def end_subscription(
    store: Store, routes: Mapping[str, Route], topic: str, name: str
) -> None:
    """End a subscription and forget what lies there. Raises NotThere; and Refused while a route
    reads it, which would subscribe again when it next starts."""
    if readers := _readers(routes, topic, name):
        raise Refused(f"route '{readers[0]}' reads subscription '{name}': take it out first")
    if not await store.unsubscribe(topic, name):
        raise NotThere(f"topic '{topic}' has no subscription '{name}'")


def _readers(routes: Mapping[str, Route], topic: str, name: str) -> list[str]:
    channel = subscription(topic, name)
    return [route.name for route in routes.values() if channel in route.channels]
