"""What several buses share beside their store: counts of limits, and answers that are kept.

All of it may be lost without harm, and a Redis that is away stops no message: whoever asks it is
told so at once, rather than after a timeout each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

import structlog
from pydantic import Field, SecretStr, field_validator

from esb.adapter import Health
from esb.errors import Unavailable
from esb.options import Duration, Options

if TYPE_CHECKING:
    from redis.asyncio import Redis as Client

T = TypeVar("T")
log = structlog.get_logger("esb.redis")

_ASK_AGAIN: Final = 1.0
"""Seconds for which a Redis that failed is left alone; then one call tries it."""

_MOST_CONNECTIONS: Final = 20

_MOST_WAIT: Final = 5.0
"""Seconds that a call may wait for a connection that others use, beside those that an answer may
take. A crowd is no outage."""

Script = Callable[[Sequence[str], Sequence[str]], Awaitable[Any]]
"""Runs a Lua script with these keys and arguments, all of it at once. Raises Unavailable."""


class RedisOptions(Options):
    """A Redis (or Valkey) that several buses, or the workers of one, share what they count and keep
    in: `rate_limit` and `cache` use it then. It is an extra: `pip install esb[redis]`."""

    url: SecretStr | None = Field(
        None,
        description="Where it is: `redis://host:6379/0`, `rediss://user:password@host` over TLS, "
        "`unix:///path`. Without it each process counts and keeps for itself.",
    )
    prefix: str = Field(
        "esb:", description="What its keys begin with. Buses with the same one share them."
    )
    timeout: Duration = Field(0.5, description="How long an answer may take.")

    @field_validator("url")
    @classmethod
    def _known(cls, value: SecretStr | None) -> SecretStr | None:
        schemes = ("redis://", "rediss://", "unix://")
        if value is not None and not value.get_secret_value().startswith(schemes):
            raise ValueError("the URL of a Redis starts with redis://, rediss:// or unix://")
        if value is not None and not _whole(value.get_secret_value()):
            raise ValueError(
                "this is no URL with a host and a port; in a password %2F stands for /, %23 for #"
            )
        return value


class Redis:
    """One Redis; a Resource. Raises ImportError if its library is not installed."""

    def __init__(self, url: str, options: RedisOptions) -> None:
        import redis.asyncio

        self._url = url
        self._options = options
        self._library = redis
        self._client: Client | None = None
        self._away_until = 0.0  # 0 while it answers
        self._reason = ""
        self._greeting: asyncio.Task[None] | None = None

    # --- the resource

    async def open(self) -> None:
        """Connections are made when they are needed. Nobody waits for the first answer, but that
        there is none is told at once: a wrong URL would else be seen by whoever asks first."""
        from redis.asyncio import BlockingConnectionPool
        from redis.asyncio import Redis as Client
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        seconds = self._options.timeout
        self._client = Client.from_pool(
            BlockingConnectionPool.from_url(
                self._url,
                socket_timeout=seconds,
                socket_connect_timeout=seconds,
                max_connections=_MOST_CONNECTIONS,
                timeout=seconds + _MOST_WAIT,
                retry=Retry(NoBackoff(), 1),  # one may have ended since it was last used
            )
        )
        self._greeting = asyncio.create_task(self._greet())

    async def close(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if self._greeting is not None:
            self._greeting.cancel()
            await asyncio.wait([self._greeting])
            self._greeting = None
        if client is not None:
            await client.aclose()

    def health(self) -> Health:
        """It works without: what is shared is then counted and kept by nobody."""
        return Health(True, f"away: {self._reason}" if self._away_until else "")

    # --- what it is asked

    def script(self, text: str) -> Script:
        """A script, sent by its digest once Redis knows it."""
        made: dict[int, Any] = {}

        async def run(keys: Sequence[str], args: Sequence[str]) -> Any:
            def ask(client: Client) -> Coroutine[Any, Any, Any]:
                if id(client) not in made:
                    made.clear()
                    made[id(client)] = client.register_script(text)
                answer: Coroutine[Any, Any, Any] = made[id(client)](
                    keys=[self._options.prefix + key for key in keys], args=args
                )
                return answer

            return await self._ask(ask)

        return run

    async def get(self, key: str) -> bytes | None:
        """What is kept under a key. Raises Unavailable."""
        found: Any = await self._ask(lambda client: client.get(self._options.prefix + key))
        return found if isinstance(found, bytes) else None

    async def put(self, key: str, value: bytes, seconds: float) -> None:
        """Keep something for so long. Raises Unavailable."""
        millis = max(1, int(seconds * 1000))
        await self._ask(lambda client: client.set(self._options.prefix + key, value, px=millis))

    async def forget(self, start: str) -> int:
        """Forget whatever is kept under keys that begin so; how many there were. Raises
        Unavailable."""

        async def all_of_them(client: Client) -> int:
            gone = 0
            pattern = _literal(self._options.prefix + start) + "*"
            async for key in client.scan_iter(match=pattern, count=1000):
                gone += int(await client.unlink(key))
            return gone

        return await self._ask(all_of_them)

    async def _ask(self, ask: Callable[[Client], Awaitable[T]]) -> T:
        if self._away_until:
            if monotonic() < self._away_until:
                raise self._away()
            self._away_until = monotonic() + _ASK_AGAIN  # others need not try it, too
        client = self._client  # it may be closed before it answers
        if client is None:
            raise Unavailable("what is shared with others is not open")
        try:
            answer = await ask(client)
        except (self._library.RedisError, OSError, TimeoutError, asyncio.IncompleteReadError) as e:
            self._reason = f"{_where(client)}: {_shown(e)}"
            if not self._away_until:
                log.warning("redis is away", error=self._reason)
            self._away_until = monotonic() + _ASK_AGAIN
            raise self._away() from e
        if self._away_until:
            self._away_until = 0.0
            log.info("redis is back")
        return answer

    async def _greet(self) -> None:
        """Ask until it answers once: no route may ask for long, and see that it has come."""
        while self._client is not None:  # a cancellation may be lost in the library
            try:
                await self._ask(lambda client: client.ping())
                return
            except Unavailable:
                if self._client is not None:
                    await asyncio.sleep(_ASK_AGAIN)

    def _away(self) -> Unavailable:
        error = Unavailable("what is shared with others cannot be reached").noted(
            f"redis: {self._reason}"
        )
        error.retry_after = _ASK_AGAIN
        return error


def _whole(url: str) -> bool:
    """Whether it has the parts it seems to have. A password with a slash ends the host, and would
    be told for it."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError
    except ValueError:
        return False
    return parts.scheme == "unix" or "@" not in parts.path + parts.fragment


def _literal(text: str) -> str:
    """A pattern of Redis that stands for itself."""
    return "".join(f"\\{c}" if c in "*?[]\\^-" else c for c in text)


def _where(client: Client) -> str:
    """Its address, without who logs in."""
    known = client.connection_pool.connection_kwargs
    if "path" in known:
        return str(known["path"])
    return f"{known.get('host', 'localhost')}:{known.get('port', 6379)}"


def _shown(error: BaseException) -> str:
    # Redis' own words may quote a command, and with that a key or a password; those of the system
    # say no more than why there is no connection.
    kind, reason = type(error).__name__, error
    while not isinstance(reason, OSError):
        below = reason.__cause__ or reason.__context__
        if below is None:
            return kind
        reason = below
    return f"{kind}: {reason}"[:200] if str(reason) else kind
