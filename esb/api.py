"""The admin listener: probes, metrics, and an API for those who run the bus.

Probes and metrics are answered by a few lines of ASGI; FastAPI is loaded with the first request
for anything else, so that it costs a bus nothing that nobody administers.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Any
from urllib.parse import unquote

import prometheus_client
from pydantic import Field

from esb import __version__
from esb.bus import Bus
from esb.durable import DEAD, Store, Stored
from esb.errors import EsbError
from esb.http import App, HttpServer, Limits
from esb.middleware.endpoint import Guard

Reload = Callable[[], Awaitable[dict[str, Any]]]
_LIMITS = Limits(max_connections=100)
Key = Annotated[int, Field(ge=0, lt=2**63, description="Of a message in the store.")]


def admin_app(bus: Bus, reload: Reload, hosts: set[str]) -> App:
    """The ASGI app. `hosts` are the names it may be called by: any other Host is refused, so that
    a page in somebody's browser cannot reach it by rebinding a name of its own."""
    api: list[App] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"] = unquote(scope["raw_path"].decode())
        headers = dict(scope["headers"])
        if path in ("/healthz", "/readyz"):
            well, details = bus.healthz() if path == "/healthz" else bus.readyz()
            await _answer(send, 200 if well else 503, details)
        elif path == "/metrics":
            body = prometheus_client.generate_latest()
            await _send(send, 200, prometheus_client.CONTENT_TYPE_LATEST, body)
        elif not _may(headers, hosts):
            await _answer(send, 403, {"title": "this name or origin may not use the admin API"})
        else:
            if not api:
                api.append(_fastapi(bus, reload))
            await api[0](scope, receive, send)

    return app


def _may(headers: dict[bytes, bytes], hosts: set[str]) -> bool:
    host = headers.get(b"host", b"").decode("latin-1")
    if host.rpartition(":")[0].strip("[]") not in hosts and host not in hosts:
        return False
    origin = headers.get(b"origin")
    return origin is None or origin.decode("latin-1").split("://")[-1] == host


async def _answer(send: Any, status: int, content: dict[str, Any]) -> None:
    await _send(send, status, "application/json", json.dumps(content).encode())


async def _send(send: Any, status: int, content_type: str, body: bytes) -> None:
    headers = [(b"content-type", content_type.encode()), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _fastapi(bus: Bus, reload: Reload) -> App:
    from fastapi import FastAPI, HTTPException

    api = FastAPI(title="The bus's own API", version=__version__, docs_url=None, redoc_url=None)

    def store() -> Store:
        for thing in bus.shared.objects.values():
            if hasattr(thing, "counts") and hasattr(thing, "move"):
                found: Store = thing
                return found
        raise HTTPException(404, "no route of this bus needs a store")

    @api.get("/")
    async def index() -> dict[str, str]:
        """What can be asked for here."""
        told = {"GET /healthz": "Liveness.", "GET /readyz": "Readiness, and what is waited for."}
        told["GET /metrics"] = "Metrics in the text format of Prometheus."
        for path, item in api.openapi()["paths"].items():
            for method, operation in item.items():
                told[f"{method.upper()} {path}"] = operation["description"]
        return told

    @api.get("/routes")
    async def routes() -> list[dict[str, Any]]:
        """Every route with its health."""
        return [
            {
                "name": route.name,
                "description": route.options.description,
                "up": route.health().up,
                "detail": route.health().detail,
            }
            for route in bus.routes.values()
        ]

    @api.get("/endpoints")
    async def endpoints() -> list[dict[str, Any]]:
        """Every endpoint that routes send to or call: what is there now, and its circuit."""
        found = [one for one in bus.shared.objects.values() if isinstance(one, Guard)]
        return [guard.status() for guard in sorted(found, key=lambda guard: guard.name)]

    @api.post("/reload")
    async def reload_routes() -> dict[str, Any]:
        """Read the files again. Mistakes are listed, and then the old routes run on."""
        return await reload()

    @api.get("/channels")
    async def channels() -> dict[str, int]:
        """How many messages lie in each channel of the store."""
        return await store().counts()

    @api.get("/dead")
    async def dead(limit: int = 100, after: Key = 0) -> list[dict[str, Any]]:
        """Dead letters, oldest first, without their bodies."""
        found = await store().browse(DEAD, limit=max(1, min(limit, 1000)), after=after)
        return [_summary(one) for one in found]

    @api.get("/dead/{key}")
    async def dead_letter(key: Key) -> dict[str, Any]:
        """One dead letter; a body that is no text is shown in hexadecimal."""
        one = await _dead(store(), key)
        raw = one.envelope.body.raw
        try:
            body = raw.decode()
        except UnicodeDecodeError:
            body = raw.hex()
        headers = [[name, str(value)] for name, value in one.envelope.headers]
        return {**_summary(one), "headers": headers, "body": body}

    @api.post("/dead/{key}/replay", status_code=202)
    async def replay(key: Key) -> dict[str, Any]:
        """Run the message through its route again."""
        one = await _dead(store(), key)
        route = one.failure.route if one.failure else ""
        if route not in bus.routes:
            raise HTTPException(409, f"its route '{route}' is not running")
        try:
            await bus.routes[route].take_back(store(), key)
        except EsbError as e:
            raise HTTPException(409, e.detail) from e
        return {"replayed": key, "route": route}

    @api.delete("/dead/{key}", status_code=204)
    async def drop(key: Key) -> None:
        """Forget the message."""
        if not await store().done(key, lying_in=DEAD):
            raise HTTPException(404, f"there is no dead letter {key}")

    async def _dead(store: Store, key: int) -> Stored:
        one = await store.get(key)
        if one is None or one.channel != DEAD:
            raise HTTPException(404, f"there is no dead letter {key}")
        return one

    return api


def _summary(one: Stored) -> dict[str, Any]:
    failure = one.failure
    return {
        "key": one.key,
        "id": one.envelope.id,
        "correlation_id": one.envelope.correlation_id,
        "content_type": one.envelope.content_type,
        "route": failure.route if failure else "",
        "step": failure.step if failure else "",
        "code": failure.code if failure else "",
        "detail": failure.detail if failure else "",
        "notes": list(failure.notes) if failure else [],
        "attempts": one.attempts,
        "time": failure.time.isoformat() if failure else "",
    }


class AdminServer:
    """Serves the admin app until it is closed. `port` 0 takes a free one."""

    def __init__(
        self, bus: Bus, reload: Reload, host: str, port: int, limits: Limits = _LIMITS
    ) -> None:
        self.host = host
        self.port = port
        names = {"localhost", "127.0.0.1", "::1", host}
        self._server = HttpServer(admin_app(bus, reload, names), limits)

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
