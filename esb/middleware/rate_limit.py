"""How often a route may be asked (rate limits), and how much in all (quotas).

A limit counts in a sliding window made of two counts: that of the present window of time, and that
of the one before, of which the part counts that is not over yet. So there is no moment at which
twice as many pass, and what is known of somebody is two numbers
(https://blog.cloudflare.com/counting-things-a-lot-of-different-things/). A quota of a day or a
month counts from the first to the last second of it.

The counts are kept here, because a library for that (`limits`) walks through all its keys with each
message; in Redis a script looks at all limits of a route and counts in one round trip.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Annotated, Any, Final, Literal, NamedTuple, Protocol
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from esb.adapter import Expression
from esb.clock import REAL, Clock
from esb.durable import Store
from esb.envelope import Envelope, Outcome
from esb.errors import Quota, Throttled, Unavailable
from esb.identity import network_of, sender
from esb.metrics import Counter
from esb.middleware.retry import Aside, park, stopped_within
from esb.options import Name, Options, parse_duration
from esb.redis import Redis, Script
from esb.step import Middleware, Step, asked

REFUSED: Final = Counter(
    "esb_rate_limited_total",
    "Messages over a rate limit, by what became of them: refused, delayed, parked.",
    ("route", "limit", "how"),
)
UNCHECKED: Final = Counter(
    "esb_rate_limit_unchecked_total", "Messages let in because Redis was away.", ("route",)
)

MOST_KEYS: Final = 100_000
"""Of how many principals, addresses or the like a process knows how often they came, all limits
together: some 30 MB. Whoever has not come for longest is forgotten first."""

HELD_FOR: Final = 600.0
"""Seconds for which what nobody waits for waits in process, where it keeps others in their queue.
Then it is put aside in the store: RabbitMQ closes the channel of who holds a message for half an
hour."""

_CALENDAR: Final = {"day": 86_400, "month": 2_592_000}
_MOST: Final = 10**12  # what a header may say has fifteen digits (RFC 9651, section 3.3.1)
_RATE: Final = re.compile(r"\s*(\d+)\s*/\s*(?:(day|month)|(\d*(?:\.\d+)?\s*(?:s|ms|m|h|d)))\s*")


class Rate(BaseModel):
    """So many messages in so long: `seconds`, which roll, or those of a day or a month."""

    model_config = ConfigDict(frozen=True)
    amount: int
    seconds: float
    calendar: Literal["", "day", "month"] = ""

    @property
    def spelled(self) -> str:
        """As in YAML."""
        for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
            if self.seconds % size == 0:
                return f"{self.amount}/{self.calendar or f'{self.seconds / size:g}{unit}'}"
        return f"{self.amount}/{self.seconds:g}s"


def parse_rate(value: Any) -> Rate:
    """A rate from "100/1m" or "10000/month". Raises ValueError with the spelling that would do."""
    if isinstance(value, Rate):
        return value
    found = _RATE.fullmatch(value) if isinstance(value, str) else None
    if found is not None and 0 < int(found[1]) <= _MOST:
        if found[2]:
            calendar: Literal["day", "month"] = "day" if found[2] == "day" else "month"
            return Rate(amount=int(found[1]), seconds=_CALENDAR[calendar], calendar=calendar)
        spelled = found[3] if found[3][0].isdigit() else f"1{found[3]}"
        if (seconds := parse_duration(spelled)) > 0:
            return Rate(amount=int(found[1]), seconds=seconds)
    raise ValueError("a limit is a number and a time: 10/s, 100/1m, 1000/1d, 1000/day, 50000/month")


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ValueError, OSError, LookupError) as e:
        raise ValueError(f"there is no time zone '{value}': UTC, Europe/Berlin") from e
    return value


class RateLimitOptions(Options):
    """How often a route may be asked. Who asks more often is told 429 and when to come back; a
    message that nobody waits for waits until it is its turn, and none is lost."""

    __shorthand__ = "limit"

    limit: Annotated[
        Rate,
        BeforeValidator(parse_rate),
        WithJsonSchema({"type": "string", "pattern": _RATE.pattern.replace("(?:", "(")}),
    ] = Field(
        description="So many messages in so long: `10/s`, `100/1m`, `1000/1d` in any such time; "
        "`1000/day`, `50000/month` from midnight to midnight, from the first to the last."
    )
    per: str = Field(
        "route",
        description="Who shares it: `route` for all messages of the route, `principal` for those "
        "of one who proved who he is (who did not is one of them, too), `address` for those from "
        "one address (of IPv6: one network of 64 bits), or an expression: `path.tenant`.",
    )
    zone: Annotated[str, AfterValidator(_zone)] = Field(
        "UTC", description="The time zone in which a day or a month begins."
    )
    scope: Name | None = Field(
        None,
        description="A name: limits of the same scope, time and `per` are one, in whatever routes, "
        "such as those of one API.",
    )
    name: str = Field(
        "",
        pattern=r"^[A-Za-z0-9._-]{0,50}$",
        description="How callers and metrics are told of it; made from `limit` if left out.",
    )
    on_failure: Literal["allow", "refuse"] = Field(
        "allow",
        description="What to do with a message while Redis is away: let it pass uncounted, or "
        "refuse it with 503.",
    )

    @property
    def label(self) -> str:
        """Its name."""
        rate = self.limit
        return self.name or f"{rate.amount}-per-{rate.calendar or f'{rate.seconds:g}s'}"


def _listed(value: Any) -> Any:
    given = value if isinstance(value, list | tuple) else [value]
    return [one if isinstance(one, Mapping | RateLimitOptions) else {"limit": one} for one in given]


RateLimits = Annotated[
    tuple[RateLimitOptions, ...],
    BeforeValidator(
        _listed, json_schema_input_type=str | RateLimitOptions | list[str | RateLimitOptions]
    ),
]


# --- the arithmetic -------------------------------------------------------------------------------


class Window(NamedTuple):
    """The present window of a limit: which it is, how many seconds it has left of how many, and
    which part of the one before still counts."""

    number: int
    left: float
    length: float
    overlap: float

    def fits(self, limit: int, before: int, count: int) -> bool:
        """Whether one more may pass, where so many did in the window before and in this."""
        return before * self.overlap + count + 1 <= limit

    def wait(self, limit: int, before: int, count: int) -> float:
        """Seconds until one more may pass if nobody else comes; 0 if it may now."""
        if self.fits(limit, before, count):
            return 0.0
        if not self.overlap:
            return self.left
        if count + 1 <= limit:  # when so much less of the window before counts
            return self.left - (limit - 1 - count) * self.length / before
        return self.left + self.length * (1 - (limit - 1) / count)

    def quota(self, name: str, limit: int, before: int, count: int, *, broken: bool) -> Quota:
        """What is left when so many have passed."""
        left = max(0, math.floor(limit - before * self.overlap - count))
        reset = self.left if left else self.wait(limit, before, count)
        return Quota(name, limit, max(1, round(self.length)), left, reset, broken)


class Windows:
    """The windows of a limit, one after the other. zone: of a calendar's."""

    def __init__(self, rate: Rate, zone: ZoneInfo | None = None) -> None:
        self._rate, self._zone = rate, zone
        self._number, self._begin, self._end = 0, 0.0, 0.0

    def at(self, now: float) -> Window:
        """That of a moment."""
        if not self._begin <= now < self._end:
            self._turn(now)
        length = self._end - self._begin
        left = self._end - now
        return Window(self._number, left, length, 0.0 if self._zone else left / length)

    def _turn(self, now: float) -> None:
        rate = self._rate
        if self._zone is None:
            self._number = int(now // rate.seconds)
            self._begin = min(self._number * rate.seconds, now)
            self._end = max((self._number + 1) * rate.seconds, math.nextafter(now, math.inf))
            return
        begin = datetime.fromtimestamp(now, self._zone).replace(
            hour=0, minute=0, second=0, microsecond=0, fold=0
        )
        if rate.calendar == "day":
            self._number, end = begin.toordinal(), begin + timedelta(days=1)
        else:
            begin = begin.replace(day=1)
            self._number = begin.year * 12 + begin.month
            end = (begin + timedelta(days=32)).replace(day=1)
        # Where clocks change a day has not 24 hours.
        self._begin, self._end = begin.timestamp(), end.timestamp()


class Ask(NamedTuple):
    """One limit, asked for somebody: `key` is no longer than a digest, whatever it is made of."""

    key: bytes
    limit: int
    window: Window


class Counts(Protocol):
    """Where it is counted who came how often."""

    async def take(self, asks: Sequence[Ask]) -> tuple[bool, list[tuple[int, int]]]:
        """Count a message for each limit if it fits all of them, else for none. Whether it did, and
        what each had counted until then, in the window before and in this.

        Raises Unavailable.
        """
        ...


class InProcess:
    """Counts of this process. most: of how many keys."""

    def __init__(self, most: int = MOST_KEYS) -> None:
        self._most = most
        self._known: OrderedDict[bytes, list[int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    async def take(self, asks: Sequence[Ask]) -> tuple[bool, list[tuple[int, int]]]:
        """See Counts."""
        found = [self._look(key, window.number) for key, _, window in asks]
        told = [(before, count) for _, before, count in found]
        fit = all(
            window.fits(limit, *counted)
            for (_, limit, window), counted in zip(asks, told, strict=True)
        )
        if fit:
            for one in found:
                one[2] += 1
        return fit, told

    def known(self, key: bytes, number: int) -> tuple[int, int]:
        """What was counted for a key in the window before that of this number, and in that."""
        _, before, count = self._look(key, number)
        return before, count

    def _look(self, key: bytes, number: int) -> list[int]:
        """Of a key its window, what the one before counted, and what this one did."""
        one = self._known.get(key)
        if one is None:
            one = self._known[key] = [number, 0, 0]
            if len(self._known) > self._most:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(key)
            if one[0] != number:
                one[:] = number, (one[2] if one[0] == number - 1 else 0), 0
        return one


_SCRIPT: Final = """
local told = {1}
for i = 1, #KEYS / 2 do
  local before = tonumber(redis.call('GET', KEYS[2*i-1]) or '0')
  local count = tonumber(redis.call('GET', KEYS[2*i]) or '0')
  if before * tonumber(ARGV[3*i-1]) + count + 1 > tonumber(ARGV[3*i-2]) then told[1] = 0 end
  told[2*i] = before
  told[2*i+1] = count
end
if told[1] == 1 then
  for i = 1, #KEYS / 2 do
    redis.call('INCR', KEYS[2*i])
    redis.call('PEXPIRE', KEYS[2*i], ARGV[3*i])
  end
end
return told
"""
"""`Window.fits` of all limits, and one more for each: in one go, so that two buses never both take
the last place."""


class InRedis:
    """Counts that several buses share. Keys go by themselves when nobody needs them any more."""

    def __init__(self, redis: Redis) -> None:
        self._run: Script = redis.script(_SCRIPT)

    async def take(self, asks: Sequence[Ask]) -> tuple[bool, list[tuple[int, int]]]:
        """See Counts."""
        keys, args = [], []
        for key, limit, window in asks:
            name = f"limit:{key.hex()}:"
            keys += [f"{name}{window.number - 1}", f"{name}{window.number}"]
            kept = window.left + (window.length if window.overlap else 0.0)
            args += [str(limit), repr(window.overlap), str(math.ceil(kept * 1000))]
        fit, *counted = await self._run(keys, args)
        return bool(fit), list(zip(counted[::2], counted[1::2], strict=True))


class Limiter(NamedTuple):
    """The limits of a route, compiled. keys: who shares each; None for the whole route. counts:
    where it is counted."""

    options: Sequence[RateLimitOptions]
    keys: Sequence[Expression | None]
    counts: Counts


# --- the middleware -------------------------------------------------------------------------------


def limiting(
    limiter: Limiter,
    *,
    route: str,
    waits: bool,
    store: Store | None = None,
    stopping: asyncio.Event | None = None,
    clock: Clock = REAL,
) -> Middleware:
    """Let no more messages pass than each of the limits says; one over any of them counts for none.

    waits: a caller waits for the answer. It gets Throttled, and what passes tells in the params
        "limits" what is left ("quotas"). Else the message waits: in process, and in `store` where
        it has longer to wait and needs not keep its place. stopping: set when the route stops.
    """
    options, keys, counts = limiter
    windows = [
        Windows(one.limit, ZoneInfo(one.zone) if one.limit.calendar else None) for one in options
    ]
    # Which limit it is must not change with how high it is, or a reload would start anew.
    scopes = [
        "\0".join(
            (
                one.scope or f"{route}\0{number}",
                one.per,
                one.limit.calendar or repr(one.limit.seconds),
                one.zone,
                "",
            )
        ).encode()
        for number, one in enumerate(options)
    ]
    refused = [
        {how: REFUSED.labels(route, one.label, how) for how in ("refused", "delayed", "parked")}
        for one in options
    ]
    unchecked = UNCHECKED.labels(route)
    strict = any(one.on_failure == "refuse" for one in options)

    def ask(envelope: Envelope) -> list[Ask]:
        now = clock.time()
        asks = []
        for one, when, scope, key in zip(options, windows, scopes, keys, strict=True):
            whose = b"" if key is None else str(key(envelope)).encode(errors="backslashreplace")
            digest = blake2b(scope + whose, digest_size=16).digest()
            asks.append(Ask(digest, one.limit.amount, when.at(now)))
        return asks

    async def take(envelope: Envelope) -> tuple[bool, list[Quota], float]:
        """Whether it may pass, what is then left, and else the seconds to wait."""
        asks = await asked(ask, envelope)
        fit, counted = await counts.take(asks)
        quotas, wait = [], 0.0
        for one, (_, limit, window), (before, count) in zip(options, asks, counted, strict=True):
            own = 0.0 if fit else window.wait(limit, before, count)
            wait = max(wait, own)
            broken = own > 0
            quotas.append(window.quota(one.label, limit, before, count + fit, broken=broken))
        return fit, quotas, wait

    def count(quotas: Sequence[Quota], how: str) -> None:
        for numbers, quota in zip(refused, quotas, strict=True):
            numbers[how].value += quota.broken

    def middleware(step: Step) -> Step:
        async def refuse(envelope: Envelope) -> Envelope:
            try:
                fit, quotas, wait = await take(envelope)
            except Unavailable:
                if strict:
                    raise
                unchecked.value += 1
                return await step(envelope)
            if not fit:
                count(quotas, "refused")
                names = ", ".join(quota.name for quota in quotas if quota.broken)
                raise Throttled(
                    f"too many requests: the limit {names} is used up",
                    retry_after=wait,
                    quotas=quotas,
                )
            result = await step(envelope)
            return result.replace(params={**result.params, "limits": {"quotas": quotas}})

        async def delay(envelope: Envelope) -> Envelope:
            late, patience = False, HELD_FOR
            while True:
                quotas: list[Quota] = []
                try:
                    fit, quotas, wait = await take(envelope)
                except Unavailable as e:
                    fit, wait = not strict, e.retry_after or 1.0
                    unchecked.value += fit
                if fit:
                    return await step(envelope)
                if not late:
                    late = True
                    count(quotas, "delayed")
                pause = min(wait, patience)
                patience -= pause
                stops = pause > 0 and await stopped_within(pause, stopping, clock)
                if (stops or patience <= 0) and await put_aside(envelope, wait - pause):
                    count(quotas, "parked")
                    return envelope.replace(outcome=Outcome.ACCEPTED)
                if stops:
                    # As at the end of the grace time, which nothing is left to do in.
                    raise asyncio.CancelledError("given back: the route stops")
                patience = patience or HELD_FOR  # it keeps its place, so it stays

        async def put_aside(envelope: Envelope, wait: float) -> bool:
            if store is None:
                return False
            aside = Aside(clock.time() + wait, envelope.attempt - 1)
            return await park(store, route, envelope, aside, stopping)

        return refuse if waits else delay

    return middleware


def shared_by(per: str, expression: Callable[[str], Expression]) -> Expression | None:
    """What tells who shares a limit (`RateLimitOptions.per`); None for the whole route.

    expression: compiles one.
    """
    if per == "route":
        return None
    if per == "principal":
        return sender
    if per == "address":
        return lambda envelope: network_of(
            envelope.params.get("client", _NOBODY).get("address", "")
        )
    return expression(per)


_NOBODY: Final[dict[str, Any]] = {}
