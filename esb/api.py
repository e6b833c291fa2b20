"""The admin listener: probes, metrics, and an API for those who run the bus.

Probes and metrics are answered by a few lines; FastAPI is loaded with the first request for
anything else, so that it costs a bus nothing that nobody administers.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import structlog

from esb import asgi
from esb.audit import LOOKS, Audit, begins, ended, is_told
from esb.bus import Bus
from esb.durable import Store
from esb.envelope import Headers
from esb.errors import Denied, EsbError, Throttled
from esb.http import App, Exchange, HttpServer, Limits
from esb.identity import EVERYBODY, PUBLIC, Credentials, Operators, Principal, acting
from esb.inside import Inside, View
from esb.metrics import Gauge

if TYPE_CHECKING:
    from esb.admin import Live

log = structlog.get_logger("esb.admin")

_LIMITS = Limits(max_connections=100)


def admin_app(
    bus: Bus,
    live: Live | None,
    hosts: set[str],
    view: View | None = None,
    operators: Callable[[], Operators] = lambda: EVERYBODY,
    audit: Audit | None = None,
) -> App:
    """What the admin listener serves. `hosts` are the names it may be called by: any other Host is
    refused, so that a page in somebody's browser cannot reach it by rebinding a name of its own.
    Where callers are known any name will do: a page has nothing to show for itself.
    All of it is below /admin as well, for who puts it behind a proxy beside other things. view:
    as in `admin_api`. operators: who may use it by now. Probes are for everybody, and tell details
    to those who may use the rest. audit: where it is told who did what."""
    seen = view or Inside(bus)
    api: list[asgi.AsgiApp] = []

    async def app(exchange: Exchange) -> None:
        path = unquote(exchange.path)
        if path.startswith("/admin/"):
            path = path.removeprefix("/admin")
        who = operators()
        known = who.auth is not PUBLIC
        if path == "/startupz":
            well, details = bus.startupz()
            _answer(exchange, 200 if well else 503, details)
        elif path in ("/healthz", "/readyz"):
            well, details = bus.healthz() if path == "/healthz" else await seen.readyz()
            looks = await _may_look(exchange, who) if known else _may(exchange.headers, hosts)
            if not looks:
                details = {"status": details.get("status", "")}
            _answer(exchange, 200 if well else 503, details)
        elif known and (refused := await _refused(exchange, who)):
            tell(exchange, path, ended(refused))
        elif not _may(exchange.headers, None if known else hosts):
            _answer(exchange, 403, {"title": "this name or origin may not use the admin API"})
            tell(exchange, path, "denied")
        elif path == "/metrics":
            await _measure(bus.store)
            from prometheus_client import CONTENT_TYPE_LATEST

            _send(exchange, 200, CONTENT_TYPE_LATEST, await seen.metrics())
        else:
            if not api:
                from esb.admin import admin_api

                api.append(admin_api(bus, live, seen, operators))
            status = 0
            if begins(path):
                tell(exchange, path, "begun")
            try:
                status = await asgi.answer(api[0], exchange, path)
            finally:
                if is_told(exchange.method, path) and not begins(path):
                    tell(exchange, path, ended(status))

    def tell(exchange: Exchange, path: str, result: str) -> None:
        if audit is not None:
            action, address = f"{exchange.method} {path}", exchange.connection.client
            audit.tell(action, acting.get() or "loopback", result, **{"from": address})

    return app


async def _caller(exchange: Exchange, who: Operators) -> Principal:
    return await who.auth.authenticate(
        Credentials(
            headers=exchange.headers,
            method=exchange.method,
            target=exchange.path,
            address=exchange.connection.client,
        )
    )


async def _may_look(exchange: Exchange, who: Operators) -> bool:
    """Whether a probe is asked by somebody who may look at the rest, too."""
    try:
        principal = await _caller(exchange, who)
    except EsbError:
        return False
    except Exception:
        log.exception("a caller could not be looked at", path=exchange.path)
        return False
    return not (who.operators | who.readers).isdisjoint(principal.roles)


async def _refused(exchange: Exchange, who: Operators) -> int:
    """0 if whoever asks may, whose name then is `acting`; else the status he was answered with."""
    try:
        principal = await _caller(exchange, who)
    except EsbError as e:
        told: Mapping[type[EsbError], int] = {Denied: 401, Throttled: 429}
        status = next((number for kind, number in told.items() if isinstance(e, kind)), 503)
        headers = [("www-authenticate", one) for one in getattr(e, "challenge", ())]
        if (wait := getattr(e, "retry_after", None)) is not None:
            headers.append(("retry-after", str(math.ceil(wait))))
        _answer(exchange, status, {"title": "Who are you?", "detail": e.detail}, headers)
        acting.set("nobody")
        return status
    except Exception:
        log.exception("a caller could not be looked at", path=exchange.path)
        _answer(exchange, 500, {"title": "It cannot be told who asks"})
        acting.set("nobody")
        return 500
    acting.set(principal.name)
    looks = exchange.method in LOOKS
    roles = who.operators | who.readers if looks else who.operators
    if roles.isdisjoint(principal.roles):
        text = f"this takes a role: {' or '.join(sorted(roles))}"
        _answer(exchange, 403, {"title": text, "detail": text})
        return 403
    return 0


def _may(headers: Headers, hosts: set[str] | None) -> bool:
    host: str = headers.get("host", "")
    if hosts is not None and host.rpartition(":")[0].strip("[]") not in hosts and host not in hosts:
        return False
    # Of several none is believed: who reads another one than we do is not to be let in by it.
    origins = headers.get_all("origin")
    return all(str(origin).split("://")[-1] == host for origin in origins) and len(origins) <= 1


def _answer(
    exchange: Exchange,
    status: int,
    content: dict[str, Any],
    headers: Sequence[tuple[str, str]] = (),
) -> None:
    _send(exchange, status, "application/json", json.dumps(content).encode(), headers)


def _send(
    exchange: Exchange,
    status: int,
    content_type: str,
    body: bytes,
    headers: Sequence[tuple[str, str]] = (),
) -> None:
    own = [("content-type", content_type), ("cache-control", "no-store")]
    exchange.answer(status, [*own, *headers], body)


# --- metrics of the store, read when they are asked for -------------------------------------------

BYTES = Gauge("esb_store_bytes", "What messages in the store take up; max_size is the most.")
FREE = Gauge("esb_store_free_bytes", "What is left on the disk of a store that is a file.")
WAITING = Gauge("esb_store_messages", "Messages in a channel of the store.", ("channel",))
MOST_CHANNELS: Final = 200
"""The fullest are told one by one, the others together: names of queues may come from messages."""
OTHERS: Final = "(others)"


async def _measure(store: Store | None) -> None:
    WAITING.clear()  # what cannot be told is not there, rather than as it was
    if store is None:
        return
    with contextlib.suppress(EsbError):
        usage, counts = await store.usage(), await store.counts()
        BYTES.labels().value = usage.used
        FREE.labels().value = usage.free if usage.free is not None else float("nan")
        fullest = sorted(counts, key=counts.__getitem__, reverse=True)
        for channel in fullest[:MOST_CHANNELS]:
            WAITING.labels(channel).value = counts[channel]
        if rest := fullest[MOST_CHANNELS:]:
            WAITING.labels(OTHERS).value = sum(counts[channel] for channel in rest)


class AdminServer:
    """Serves the admin app until it is closed. `port` 0 takes a free one."""

    def __init__(
        self,
        bus: Bus,
        live: Live | None,
        host: str,
        port: int,
        limits: Limits = _LIMITS,
        *,
        view: View | None = None,
        operators: Callable[[], Operators] = lambda: EVERYBODY,
        audit: Audit | None = None,
    ) -> None:
        self.host = host
        self.port = port
        names = {"localhost", "127.0.0.1", "::1", host}
        self._server = HttpServer(admin_app(bus, live, names, view, operators, audit), limits)

    async def open(self) -> None:
        """Bind and serve. Raises EsbError if the address cannot be had."""
        try:
            self.port = await self._server.open(self.host, self.port)
        except EsbError as e:
            raise EsbError(
                f"the admin API {e.detail}; set another port under 'admin:', or 'enabled: false'"
            ) from e

    async def close(self) -> None:
        """Stop serving."""
        await self._server.close()
