"""The admin API for those who run the bus: routes, versions, endpoints, messages, dead letters.

Loaded with the first request for any of it (see `api.py`): FastAPI costs a bus nothing that nobody
administers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Protocol
from urllib.parse import urlencode

import msgspec
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.routing import APIRoute
from pydantic import Field

from esb import __version__
from esb.admin_answers import ANSWERS, MISTAKES, Octets, guarded
from esb.admin_trace import trace_api
from esb.asgi import AsgiApp
from esb.asyncapi import document as asyncapi_document
from esb.asyncapi import page as asyncapi_page_of
from esb.bus import Bus
from esb.control import (
    Filter,
    Key,
    NotThere,
    Refused,
    Replay,
    Selection,
    To,
    dead_letter,
    drop,
    end_subscription,
    find,
    listed,
    moment,
    replay,
    subscriptions,
)
from esb.control import failed as failed_because
from esb.durable import DEAD, Store, Stored
from esb.errors import EsbError
from esb.identity import EVERYBODY, Operators, acting
from esb.inside import Inside, View
from esb.options import Options
from esb.versions import Version, Versions


class Live(Protocol):
    """What runs the bus, and can change what it runs: see `esb.service.Service`."""

    @property
    def versions(self) -> Versions: ...
    async def configuration(self) -> dict[str, Any]: ...
    async def reload(self, by: str = "") -> dict[str, Any]: ...
    async def roll_back(self, number: int, by: str = "") -> dict[str, Any]: ...
    async def stop_route(self, name: str) -> None: ...
    async def start_route(self, name: str) -> None: ...
    async def restart_route(self, name: str) -> None: ...


def admin_api(
    bus: Bus,
    live: Live | None,
    view: View | None = None,
    operators: Callable[[], Operators] = lambda: EVERYBODY,
) -> AsgiApp:
    """The ASGI app. live: None where no bus runs. view: what looks into what runs, if that is not
    `bus` alone. operators: who may use it by now, which its document tells."""
    seen = view or Inside(bus)
    api = FastAPI(
        title="The bus's own API",
        version=__version__,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        responses=ANSWERS,
    )

    def store() -> Store:
        if (found := bus.store) is None:
            raise HTTPException(404, "no route of this bus needs a store")
        return found

    def running() -> Live:
        if live is None:
            raise Refused("no bus is running")
        return live

    async def told_of(name: str) -> dict[str, Any]:
        return next(one for one in await seen.routes() if one["name"] == name)

    @api.exception_handler(EsbError)
    async def failed(request: Request, error: EsbError) -> JSONResponse:
        status = 404 if isinstance(error, NotThere) else 409 if isinstance(error, Refused) else 503
        return JSONResponse({"detail": error.detail}, status)

    @api.exception_handler(405)
    async def wrong_method(request: Request, error: HTTPException) -> JSONResponse:
        # Starlette names the methods of the first route of that path alone.
        path = request.scope["route"].path
        same = [one for one in api.routes if isinstance(one, APIRoute) and one.path == path]
        named = (error.headers or {}).get("Allow", "").split(", ")
        allowed = {*named, *(method for one in same for method in one.methods or ())}
        headers = {"Allow": ", ".join(sorted(allowed))}
        return JSONResponse({"detail": error.detail}, 405, headers)

    @api.get("/")
    async def index() -> dict[str, str]:
        """What can be asked for here."""
        told = {"GET /healthz": "Liveness.", "GET /readyz": "Readiness, and what is waited for."}
        told["GET /startupz"] = "Whether it has started."
        told["GET /metrics"] = "Metrics in the text format of Prometheus."
        for path, item in api.openapi()["paths"].items():
            for method, operation in item.items():
                told[f"{method.upper()} {path}"] = operation["description"]
        return told

    @api.get("/openapi.json", include_in_schema=False)
    async def openapi() -> dict[str, Any]:
        return guarded(api.openapi(), operators())

    @api.get("/routes")
    async def routes() -> list[dict[str, Any]]:
        """Every route: where it takes messages, whether it runs, and its health."""
        return await seen.routes()

    @api.post("/routes/{name:path}/stop")
    async def stop_route(name: str) -> dict[str, Any]:
        """Stop a route until it is started, over reloads and restarts; what is in it is finished
        first. Callers of it are told to come back later."""
        await running().stop_route(name)
        return await told_of(name)

    @api.post("/routes/{name:path}/start")
    async def start_route(name: str) -> dict[str, Any]:
        """Start a route that was stopped."""
        await running().start_route(name)
        return await told_of(name)

    @api.post("/routes/{name:path}/restart")
    async def restart_route(name: str) -> dict[str, Any]:
        """Stop a route and start it."""
        await running().restart_route(name)
        return await told_of(name)

    @api.get("/configuration")
    async def configuration() -> dict[str, Any]:
        """Which version runs, whether that is what lies in the files, and the mistakes there."""
        return await running().configuration()

    @api.post("/reload", responses=MISTAKES)
    async def reload_routes(response: Response, who: Who | None = None) -> dict[str, Any]:
        """Read the files again. Mistakes are listed, with 422, and then the old routes run on."""
        return _loaded(await running().reload(_by(who)), response)

    @api.get("/versions")
    async def versions() -> list[dict[str, Any]]:
        """The configurations that ran, the newest first, without their files."""
        current = (await running().configuration())["version"]
        return [_version(one, current) for one in running().versions.all()]

    @api.get("/versions/{number}")
    async def version(number: Key) -> dict[str, Any]:
        """One configuration, with the digests of its files."""
        one = running().versions.get(number)
        return {**_version(one, (await running().configuration())["version"]), "files": one.files}

    @api.get("/versions/{number}/files/{path:path}", response_class=Octets)
    async def version_file(number: Key, path: str) -> Response:
        """A file as it was in that version."""
        kept = running().versions
        content = kept.content(kept.get(number), path)
        return Octets(content, headers=_INERT)

    @api.get("/versions/{number}/diff")
    async def differences(number: Key, to: Key | None = None) -> list[dict[str, Any]]:
        """What became of each file from that version `to` another; the running one if left out."""
        kept = running().versions
        other = (await running().configuration())["version"] if to is None else to
        found = kept.diff(kept.get(number), kept.get(other or number))
        return [msgspec.structs.asdict(one) for one in found]

    @api.post("/versions/{number}/roll-back", responses=MISTAKES)
    async def roll_back(number: Key, response: Response, who: Who | None = None) -> dict[str, Any]:
        """Make the project's files what they were in that version, and load them. What lies there
        now is kept as a version. Mistakes are listed, with 422, and nothing changes."""
        return _loaded(await running().roll_back(number, _by(who)), response)

    @api.get("/endpoints")
    async def endpoints() -> list[dict[str, Any]]:
        """Every endpoint that routes send to or call: what is there now, and its circuit."""
        return await seen.endpoints()

    @api.delete("/cache")
    async def purge_all() -> dict[str, int]:
        """Forget the answers that routes and calls keep."""
        return {"forgotten": await seen.purge()}

    @api.delete("/routes/{name:path}/cache")
    async def purge(name: str) -> dict[str, int]:
        """Forget the answers that a route and its calls keep."""
        return {"forgotten": await seen.purge(name)}

    @api.get("/asyncapi.json")
    async def asyncapi() -> dict[str, Any]:
        """The channels that routes read and feed, as AsyncAPI 3.0."""
        return asyncapi_document(bus.routes.values())

    @api.get("/asyncapi", response_class=HTMLResponse)
    async def asyncapi_page() -> HTMLResponse:
        """The same for people."""
        safe = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
        shown = asyncapi_page_of(asyncapi_document(bus.routes.values()))
        return HTMLResponse(shown, headers=safe)

    @api.get("/channels")
    async def channels() -> dict[str, int]:
        """How many messages lie in each channel of the store."""
        return await store().counts()

    @api.get("/store")
    async def store_info() -> dict[str, Any]:
        """Where the store is, how full, and how many messages lie in each of its channels."""
        usage = await store().usage()
        return {**msgspec.structs.asdict(usage), "channels": await store().counts()}

    @api.get("/messages")
    async def messages(q: Annotated[str, Query(min_length=1)]) -> list[dict[str, Any]]:
        """Where the messages are whose id or business key is `q`, and what became of them."""
        return await find(store(), q)

    @api.get("/topics")
    async def topics() -> list[dict[str, Any]]:
        """The subscriptions of all topics, how many messages lie there, and the routes that read
        them."""
        return await subscriptions(store(), bus.routes)

    @api.delete("/topics/{topic}/subscriptions/{name}", status_code=204)
    async def unsubscribe(topic: str, name: str) -> None:
        """End a subscription that no route reads, and forget for good what lies there."""
        await end_subscription(store(), bus.routes, topic, name)

    @api.get("/dead")
    async def dead(page: Annotated[Page, Query()], response: Response) -> list[dict[str, Any]]:
        """Dead letters that a filter lets through, the oldest first, without their bodies. How many
        there are in all is in X-Total-Count, the way to the next page in Link (RFC 8288)."""
        which = Filter.model_construct(**{n: getattr(page, n) for n in Filter.model_fields})
        found, total = await listed(store(), which, page.limit, page.after)
        response.headers["X-Total-Count"] = str(total)
        if len(found) == page.limit:
            given = {n: str(v) for n, v in page if v not in ("", None)}
            query = urlencode({**given, "after": found[-1].key})
            response.headers["Link"] = f'</dead?{query}>; rel="next"'
        return [_summary(one) for one in found]

    @api.post("/dead/replay")
    async def replay_many(which: Replay) -> dict[str, Any]:
        """Let dead letters run again: by `keys`, by a filter, or `all`; where each came from, or
        `to` another route or queue. Done once it is said, also if asked for twice."""
        return (await replay(store(), bus.routes, which, which.to)).told("replayed")

    @api.post("/dead/drop")
    async def drop_many(which: Selection) -> dict[str, Any]:
        """Forget dead letters for good: by `keys`, by a filter, or `all`."""
        return (await drop(store(), which)).told("dropped")

    @api.get("/dead/{key:int}")
    async def show(key: Key) -> dict[str, Any]:
        """One dead letter; a body that is no text is shown in hexadecimal."""
        return _whole(await dead_letter(store(), key))

    @api.get("/dead/{key:int}/body", response_class=Octets)
    async def body(key: Key) -> Response:
        """The body of a dead letter, byte for byte as it came."""
        one = await dead_letter(store(), key)
        # Whatever a sender put into it, no browser shall run it in the name of this API.
        kept = {"Content-Disposition": f"attachment; filename=dead-{key}", **_INERT}
        return Octets(one.envelope.body.raw, headers=kept)

    @api.post("/dead/{key:int}/replay", status_code=202)
    async def replay_one(key: Key, target: To | None = None) -> dict[str, Any]:
        """Let a dead letter run again: where it came from, or `to` another route or queue."""
        one = await dead_letter(store(), key)
        to = target.to if target else None
        tally = await replay(store(), bus.routes, Selection(keys=[key]), to)
        for why in tally.refused:
            raise Refused(why)
        return {"replayed": key, "route": to or (one.failure.route if one.failure else "")}

    @api.delete("/dead/{key:int}", status_code=204)
    async def drop_one(key: Key) -> None:
        """Forget a dead letter for good."""
        if not await store().done(key, lying_in=DEAD):
            raise NotThere(f"there is no dead letter {key}")

    api.include_router(trace_api(bus, seen))
    return api


def _by(who: Who | None) -> str:
    """Who asks: whom the listener knows, or else who he says he is."""
    return acting.get() or (who.by if who else "")


class Who(Options):
    """Who asks, for those who look at the versions later."""

    by: str = Field("", max_length=200, description="A name.")


def _loaded(result: dict[str, Any], response: Response) -> dict[str, Any]:
    response.status_code = 200 if result["reloaded"] else 422
    return result


def _version(one: Version, current: int | None) -> dict[str, Any]:
    return {
        "version": one.number,
        "time": one.time.isoformat(),
        "cause": one.cause,
        "by": one.by,
        **one.changes,
        "files": len(one.files),
        "runs": one.number == current,
    }


class Page(Filter):
    """A page of dead letters."""

    limit: int = Field(100, ge=1, le=1000, description="So many at most.")
    after: Key = Field(0, description="Those whose key is higher; the last one of a page before.")


_INERT = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox"}


def _summary(one: Stored) -> dict[str, Any]:
    envelope = one.envelope
    nothing = {"route": "", "step": "", "code": "", "detail": "", "notes": [], "time": ""}
    return {
        "key": one.key,
        "id": envelope.id,
        "business_key": envelope.business_key,
        "correlation_id": envelope.correlation_id,
        "content_type": envelope.content_type,
        **(failed_because(one) if one.failure else nothing),
        "attempts": one.attempts,
    }


def _whole(one: Stored) -> dict[str, Any]:
    envelope = one.envelope
    raw = envelope.body.raw
    try:
        body = raw.decode()
    except UnicodeDecodeError:
        body = raw.hex()
    return {
        **_summary(one),
        "source": envelope.source,
        "type": envelope.type,
        "subject": envelope.subject,
        "principal": envelope.principal,
        "traceparent": envelope.traceparent,
        "sent": envelope.time.isoformat(),
        "stored": moment(one.stored),
        "headers": [[name, str(value)] for name, value in envelope.headers],
        "params": {
            group: {n: str(v) for n, v in of.items()} for group, of in envelope.params.items()
        },
        "size": len(raw),
        "body": body,
    }
