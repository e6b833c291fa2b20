"""Answers that are kept for a while, so that the same question is asked once (RFC 9111; RFC 5861
for answers that are past their time).

What is kept is found by all that may make a difference: what the message was dispatched by, its
body, and who asks. Headers that are no part of that are taken off the message, so that no answer
depends on one of them and is then given to somebody who sent another. While a question is on its
way, whoever asks the same waits for its answer instead of asking, too.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Annotated, Any, Final, Literal
from weakref import WeakSet

import msgspec
import structlog
from pydantic import BeforeValidator, Field, field_validator

from esb.adapter import Expression, Health
from esb.clock import REAL, Clock
from esb.durable import at_once
from esb.envelope import Body, Envelope, Headers, HeaderValue, Outcome
from esb.errors import BadReply, EsbError, OutcomeUnknown, TimedOut, Transient
from esb.metrics import Counter, Gauge
from esb.middleware.kept import Entry, Memory, Shared, unwritten
from esb.options import Duration, Options, Size, Words
from esb.redis import Redis
from esb.step import Step, asked

log = structlog.get_logger("esb.cache")

How = Literal["hit", "stale", "joined", "miss", "passed", "evicted", "refreshed", "unrefreshed"]
CACHE: Final = Counter(
    "esb_cache_total",
    "What a cache did: hit, stale (past its time, yet good enough), joined (waited for the answer "
    "to another), miss, passed (cannot be kept), evicted, refreshed, unrefreshed (that failed).",
    ("cache", "how"),
)

_OF_ONE_TOKEN: Final = frozenset(
    {"exp", "iat", "nbf", "jti", "auth_time", "nonce", "at_hash", "c_hash", "sid"}
)
"""Claims that say nothing of who has the token, and are others in his next one."""

_GOOD: Final = frozenset({None, 200, 203, 204})
"""Statuses of answers that are kept."""

_CREDENTIALS: Final = ("authorization", "cookie")
_REFRESH_WITHIN: Final = 60.0
"""Seconds that an answer which nobody waits for may take."""

_REMEMBERED: Final = 1000
"""Of how many answers it is known that they came a moment ago."""

_REST: Final = 1.0
"""Seconds for which an answer that could not be refreshed, or kept, is not tried again."""

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")


class CacheOptions(Options):
    """Keep good answers for a while, and answer the same question with them."""

    __shorthand__ = "ttl"

    ttl: Duration = Field(
        description="How long an answer is good. A far side that tells less (`Cache-Control: "
        "max-age`) is heeded, and so are `no-store`, `no-cache`, `private` and `Vary: *`."
    )
    key: str | None = Field(
        None,
        description="An expression that gives what an answer depends on: `path.id`. If left out: "
        "path, query, method or operation, and the body.",
    )
    vary: Words = Field(
        [],
        description="Headers of the message that an answer depends on as well. The steps behind "
        "see none but these, and `Accept`, `Authorization` and `Cookie`.",
    )
    shared: bool = Field(
        False,
        description="Who asks makes no difference. Else nobody gets an answer that was made for "
        "another principal or for other credentials.",
    )
    stale: Duration = Field(
        0.0,
        description="For so long after `ttl` an answer is still given, at once, while a new one is "
        "fetched in the background (stale-while-revalidate).",
    )
    stale_if_error: Duration = Field(
        0.0,
        description="For so long after `ttl` an answer is given if no new one can be had: the far "
        "side is away, or fails.",
    )
    max_entries: int = Field(1000, ge=1, description="How many answers are kept in this process.")
    max_size: Size = Field(
        16 * 1024 * 1024,
        description="How many bytes they may take up; who was not asked for longest goes first.",
    )
    where: Literal["memory", "redis"] | None = Field(
        None, description="Where they are kept: in Redis if the project has one, else in memory."
    )

    @field_validator("vary")
    @classmethod
    def _lower(cls, value: list[str]) -> list[str]:
        for name in value:
            if not _TOKEN.match(name):
                raise ValueError(f"'{name}' is no name of a header")
        return sorted({name.lower() for name in value})

    @field_validator("ttl")
    @classmethod
    def _some(cls, value: float) -> float:
        if value <= 0:
            raise ValueError("an answer that is kept is good for longer than that")
        return value


def _ttl(value: Any) -> Any:
    return value if isinstance(value, Mapping | CacheOptions) else {"ttl": value}


Caching = Annotated[CacheOptions, BeforeValidator(_ttl, json_schema_input_type=str | CacheOptions)]


class Cache:
    """The answers of one route or of one call. A Resource, so that what is fetched in the
    background ends with it.

    name: for people, metrics and whoever empties it. version: of what the answers come from, so
    that buses share no answers of different ones. key: compiled from the options. redis: where
    answers are kept, else in this process. tells: whether an answer says in its params "cached"
    how old it is.
    """

    inside = True

    def __init__(
        self,
        name: str,
        options: CacheOptions,
        *,
        version: str = "",
        key: Expression | None = None,
        redis: Redis | None = None,
        tells: bool = False,
        clock: Clock = REAL,
    ) -> None:
        self.name = name
        self._tells = tells
        self._options = options
        self._key = key
        self._vary = ["accept", *([] if options.shared else _CREDENTIALS), *options.vary]
        self._seen = frozenset(("accept", *_CREDENTIALS, *options.vary))
        self._clock = clock
        self._count = {how: CACHE.labels(name, how) for how in How.__args__}  # type: ignore[attr-defined]
        self.memory = Memory(options.max_entries, options.max_size, self._count["evicted"])
        self._kept: Memory | Shared = (
            self.memory if redis is None else Shared(redis, f"{name}\0{version}", self.memory)
        )
        self._flights: dict[bytes, asyncio.Future[_Landed]] = {}
        self._resting: OrderedDict[bytes, float] = OrderedDict()
        self._landed: OrderedDict[bytes, object] = OrderedDict()  # another each time
        self._fetching: set[asyncio.Task[None]] = set()
        self._era = 0  # what was asked in another one is not kept
        _CACHES.add(self)

    # --- the resource

    async def open(self) -> None:
        """Nothing is to be opened."""

    async def close(self) -> None:
        """Give up what is fetched in the background."""
        fetching = list(self._fetching)
        for task in fetching:
            task.cancel()
        await asyncio.gather(*fetching, return_exceptions=True)
        for flight in self._flights.values():  # of those that had not begun
            if not flight.done():
                flight.set_result(_AGAIN)
        self._flights.clear()

    def health(self) -> Health:
        """It works without."""
        return Health(True)

    async def purge(self) -> int:
        """Forget all answers, also those on their way; how many there were. Raises Unavailable."""
        self._era += 1
        return await self._kept.purge()

    # --- the middleware

    def around(self, step: Step) -> Step:
        """`step` behind the cache. It also raises what the question of another failed with."""
        clock = self._clock

        async def cached(envelope: Envelope) -> Envelope:
            envelope = envelope.replace(headers=envelope.headers.keep(self._seen.__contains__))
            try:
                key, private = await asked(self._key_of, envelope)
            except (EsbError, UnicodeError, OverflowError):
                self._count["passed"].value += 1
                return await step(envelope)  # which will say what is wrong with it
            while True:
                now, landed_before = clock.time(), self._landed.get(key)
                entry = await self._kept.get(key, now)
                if entry is not None and now < entry.fresh:
                    self._count["hit"].value += 1
                    return self._told(entry.answer(envelope), entry, private)
                if entry is not None and now < entry.stale:
                    self._count["stale"].value += 1
                    self._refresh(key, envelope, step)
                    return self._told(entry.answer(envelope), entry, private)
                flight = self._flights.get(key)
                if flight is None and self._landed.get(key) is not landed_before:
                    continue  # it came while Redis was asked whether it is there
                if flight is None and self._rests(key, now) and entry is None:
                    self._count["passed"].value += 1
                    return await step(envelope)
                try:
                    if flight is None:
                        self._count["miss"].value += 1
                        result, entry = await self._lead(key, self._take_off(key), envelope, step)
                        return result if entry is None else self._told(result, entry, private)
                    landed = await self._join(flight, envelope)
                except (Transient, OutcomeUnknown, BadReply):
                    if entry is None or clock.time() >= entry.rescue:
                        raise
                    self._count["stale"].value += 1
                    return self._told(entry.answer(envelope), entry, private)
                if isinstance(landed, Entry):
                    self._count["joined"].value += 1
                    return self._told(landed.answer(envelope), landed, private)
                if landed is _NOT_KEPT:
                    self._count["passed"].value += 1
                    return await step(envelope)

        return cached

    def _told(self, answer: Envelope, entry: Entry, private: bool) -> Envelope:
        if not self._tells:
            return answer
        told = {
            "age": max(0, int(self._clock.time() - entry.made)),
            "ttl": max(0, int(entry.fresh - entry.made)),
            "private": private,
            "vary": self._vary,
        }
        return answer.replace(params={**answer.params, "cached": told})

    def _take_off(self, key: bytes) -> asyncio.Future[_Landed]:
        """From now on who asks the same joins."""
        flight = self._flights[key] = asyncio.get_running_loop().create_future()
        return flight

    async def _lead(
        self, key: bytes, flight: asyncio.Future[_Landed], envelope: Envelope, step: Step
    ) -> tuple[Envelope, Entry | None]:
        """Ask, for whoever wants to know the same meanwhile, too. The answer, and what is kept of
        it."""
        landed: _Landed = _AGAIN
        era = self._era
        try:
            result = await step(envelope)
            now = self._clock.time()
            entry = self._entry(envelope, result, now)
            if entry is None:
                landed = _NOT_KEPT
                self._rest(key)
                return result, None
            if era == self._era:
                await self._kept.put(key, entry, now)
            landed = entry
            self._landed[key] = object()
            if len(self._landed) > _REMEMBERED:
                self._landed.popitem(last=False)
            return result, entry
        except EsbError as e:
            late = envelope.deadline is not None and self._clock.monotonic() >= envelope.deadline
            landed = _AGAIN if late else e  # that this caller has no time left is his alone
            raise
        finally:
            self._flights.pop(key, None)
            if not flight.done():
                flight.set_result(landed)

    async def _join(self, flight: asyncio.Future[_Landed], envelope: Envelope) -> _Landed:
        """What became of a question that is on its way. Raises what it failed with, TimedOut."""
        left = None
        if envelope.deadline is not None:
            left = max(0.0, envelope.deadline - self._clock.monotonic())
        done, _ = await asyncio.wait((flight,), timeout=left)
        if not done:
            raise TimedOut("no answer came in time to the same question of another")
        landed = flight.result()
        if isinstance(landed, EsbError):
            raise _another(landed)
        return landed

    def _refresh(self, key: bytes, envelope: Envelope, step: Step) -> None:
        """Fetch a new answer in the background, if nobody does and the last try was a while ago."""
        if key in self._flights or self._rests(key, self._clock.time()):
            return
        until = self._clock.monotonic() + _REFRESH_WITHIN
        flight = self._take_off(key)

        async def fetch() -> None:
            try:
                await self._lead(key, flight, envelope.replace(deadline=until), step)
                self._count["refreshed"].value += 1
            except EsbError as e:
                self._rest(key)
                self._count["unrefreshed"].value += 1
                log.info("an answer was not refreshed", cache=self.name, error=e.detail)
            except Exception as e:
                self._rest(key)
                log.error("an answer was not refreshed", cache=self.name, exc_info=e)

        with at_once():  # it is no part of the run that asked for it
            task = asyncio.create_task(fetch(), name=f"cache {self.name}")
        self._fetching.add(task)
        task.add_done_callback(self._fetching.discard)

    def _rest(self, key: bytes) -> None:
        self._resting[key] = self._clock.time() + _REST
        if len(self._resting) > self._options.max_entries:
            self._resting.popitem(last=False)

    def _rests(self, key: bytes, now: float) -> bool:
        return bool(self._resting) and self._resting.get(key, 0.0) > now

    # --- what is kept, and by what it is found

    def _key_of(self, envelope: Envelope) -> tuple[bytes, bool]:
        """By what an answer is found, and whether it is for this caller alone. Raises EsbError,
        UnicodeError, OverflowError for a message that has no such thing."""
        params, headers = envelope.params, envelope.headers
        if self._key is not None:
            what: Any = self._key(envelope)
        else:
            body = envelope.body
            method = params.get("http", _NOTHING).get("method", "")
            what = (
                "GET" if method == "HEAD" else method,
                envelope.subject,
                sorted(params.get("path", _NOTHING).items()),
                sorted(params.get("query", _NOTHING).items()),
                None if body.is_empty else (body.content_type, _bytes(body)),
            )
        who: Any = None
        if not self._options.shared:
            principal = params.get("principal", _NOTHING)
            if envelope.principal or principal:
                told = [principal.get(name) for name in ("name", "method", "roles", "scopes")]
                claims = principal.get("claims", _NOTHING)
                lasting = [one for one in claims.items() if one[0] not in _OF_ONE_TOKEN]
                who = (envelope.principal, told, sorted(lasting))
            elif any(name in headers for name in _CREDENTIALS):
                who = [headers.get_all(name) for name in _CREDENTIALS]
        varies = [headers.get_all(name) for name in ("accept", *self._options.vary)]
        written = _KEYS.encode((what, who, varies))
        return blake2b(written, digest_size=16).digest(), who is not None

    def _entry(self, envelope: Envelope, result: Envelope, now: float) -> Entry | None:
        """What is kept of an answer; None if it is none that may be."""
        options, body = self._options, result.body
        if body.is_stream or result.outcome not in (Outcome.MESSAGE, Outcome.REPLY):
            return None
        ttl = options.ttl
        facts: Mapping[str, Any] | None = None
        if result.outcome is Outcome.REPLY:
            facts = result.params.get("reply", _NOTHING)
            if facts.get("status") not in _GOOD:
                return None
            ttl = min(ttl, _allowed(result.headers))
            if ttl <= 0:
                return None
            headers = result.headers.keep(lambda name: name != "age")
        else:
            # What came with the question is of whoever asked.
            came = set(map(_pair, envelope.headers))
            headers = Headers.trusted(one for one in result.headers if _pair(one) not in came)
        if "set-cookie" in headers:
            return None
        try:
            size = body.size
            if size is None:
                size = len(unwritten(body).raw)
        except EsbError:
            return None  # whoever wants to read it is told why it cannot be
        size += sum(len(name) + len(str(value)) for name, value in headers)
        fresh = now + ttl
        return Entry(
            body, headers, facts, now, fresh, fresh + options.stale,
            fresh + options.stale_if_error, size,
        )  # fmt: skip


_AGAIN: Final = "again"
_NOT_KEPT: Final = "not kept"
_Landed = Entry | EsbError | Literal["again", "not kept"]
"""What became of a question: its answer, its error; that it is to be asked again, by the next; that
its answer is for nobody else."""

_NOTHING: Final[dict[str, Any]] = {}
_KEYS: Final = msgspec.msgpack.Encoder(enc_hook=repr, decimal_format="string")


def _bytes(body: Body) -> bytes:
    # Not those of the body itself: what is data may still be written in another format.
    return body.raw if body.is_written or not body.is_parsed else unwritten(body).raw


def _pair(pair: tuple[str, HeaderValue]) -> tuple[str, str]:
    return pair[0].lower(), repr(pair[1])


def _allowed(headers: Headers) -> float:
    """For how many seconds the far side lets its answer be kept, by what HTTP has to say that
    (RFC 9111, sections 3 and 4). Of `Vary` only the asterisk matters: all other headers that the
    far side was sent are the same for all who have the key."""
    if any("*" in str(value) for value in headers.get_all("vary")):
        return 0.0
    seconds = float("inf")
    for value in headers.get_all("cache-control"):
        items = (item.partition("=") for item in str(value).split(","))
        told = {name.strip().lower(): given.strip(' \t"') for name, _, given in items}
        if told.keys() & {"no-store", "no-cache", "private"}:
            return 0.0
        age = told.get("s-maxage", told.get("max-age"))
        if age is not None:
            seconds = min(seconds, float(age) if age.isascii() and age.isdigit() else 0.0)
    old = str(headers.get("age", ""))
    return seconds - (float(old) if old.isascii() and old.isdigit() else 0.0)


def _another(error: EsbError) -> EsbError:
    """The same error for somebody else: on its way each learns where it was."""
    made = type(error).__new__(type(error), *error.args)
    made.__dict__.update(error.__dict__)
    if error.notes:
        made.__notes__ = list(error.notes)
    return made


# --- what is read from the caches when somebody asks ----------------------------------------------

_CACHES: Final[WeakSet[Cache]] = WeakSet()


def _read_off(what: Callable[[Cache], float]) -> Callable[[], dict[tuple[str, ...], float]]:
    def read() -> dict[tuple[str, ...], float]:
        found: dict[tuple[str, ...], float] = {}
        for cache in list(_CACHES):
            found[cache.name,] = found.get((cache.name,), 0) + what(cache)
        return found

    return read


Gauge(
    "esb_cache_entries",
    "Answers that are kept in this process.",
    ("cache",),
    _read_off(lambda cache: len(cache.memory)),
)
Gauge(
    "esb_cache_bytes",
    "What these take up.",
    ("cache",),
    _read_off(lambda cache: cache.memory.size),
)
