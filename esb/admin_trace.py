"""The part of the admin API that tells what became of messages: live, and afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, HTTPException, Query
from fastapi.responses import StreamingResponse
from pydantic import Field

from esb.bus import Bus
from esb.control import NotThere, Refused
from esb.envelope import Envelope
from esb.errors import EsbError
from esb.expressions import ExpressionError, compile_expression
from esb.options import Options, Size
from esb.recording import Recording
from esb.route import Called
from esb.story import story
from esb.traces import Trace
from esb.tracing import Listener, Tracing

BEAT: Final = 5.0
"""Seconds after which an empty line shows that somebody is still there."""


class Look(Options):
    """What is to be seen of a route's messages."""

    where: str = Field("", description="An expression: those messages for which it is true.")
    key: str = Field("", description="Those with this id, business key or correlation id.")
    errors: bool = Field(False, description="Those that fail or end in the dead letters.")
    bodies: bool = Field(True, description="Whether bodies are shown.")
    max_body: Size = Field(4096, le=1024**2, description="So much of a body.")
    limit: int = Field(0, ge=0, description="So many messages, and then it ends; 0: for ever.")


class Take(Options):
    """How much of a route's traffic makes tests."""

    max_body: Size = Field(65536, le=1024**2, description="No message with a larger body.")
    limit: int = Field(0, ge=0, description="So many messages, and then it ends; 0: for ever.")


def trace_api(bus: Bus) -> APIRouter:
    """Its paths."""
    api = APIRouter()

    def tracing() -> Tracing:
        for one in bus.shared.objects.values():
            if isinstance(one, Tracing):
                return one
        raise HTTPException(404, "this bus has no routes")

    @api.get("/routes/{name:path}/trace")
    async def trace(name: str, look: Annotated[Look, Query()]) -> StreamingResponse:
        """What each step receives and returns, live: a line of JSON for each message, once it is
        through. Empty lines come in between; nothing is looked at any more when the caller goes."""
        if name not in bus.routes:
            raise NotThere(f"there is no route '{name}'")
        if isinstance(bus.routes[name].source, Called):
            raise Refused(f"'{name}' is a sub-route: its steps are shown in the routes that run it")
        listener = Listener(name, wanted=_wanted(look), bodies=look.bodies, max_body=look.max_body)
        lines = _lines(tracing(), listener, look.limit)
        return StreamingResponse(lines, media_type="application/x-ndjson")

    @api.get("/routes/{name:path}/recording")
    async def recording(name: str, take: Annotated[Take, Query()]) -> StreamingResponse:
        """Tests made of live traffic: a line of JSON for each message, once it is through."""
        if name not in bus.routes or isinstance(bus.routes[name].source, Called):
            raise NotThere(f"there is no route '{name}' that messages come in at")
        outlines = {route.name: route.outline for route in bus.routes.values()}
        recorder = Recording(name, outlines, max_body=take.max_body)
        lines = _lines(tracing(), recorder, take.limit)
        return StreamingResponse(lines, media_type="application/x-ndjson")

    @api.get("/messages/{text:path}/traces")
    async def traces(text: str) -> list[dict[str, Any]]:
        """The traces that were kept of a message, by its id, business key or correlation id."""
        return [one.told() for one in await tracing().store.traces(text)]

    @api.get("/messages/{text:path}/story")
    async def told(text: str) -> dict[str, Any]:
        """What became of a message, in words: by its id, business key or correlation id."""
        return await story(text, bus.store, tracing().store, bus.routes)

    return api


def _wanted(look: Look) -> Callable[[Trace, Envelope], bool]:
    """Which messages are shown. Raises HTTPException for an expression that is none."""
    try:
        where = compile_expression(look.where) if look.where else None
    except ExpressionError as e:
        hint = f" ({e.hint})" if e.hint else ""
        raise HTTPException(422, f"where: {e.message}{hint}") from e

    def wanted(trace: Trace, envelope: Envelope) -> bool:
        names = (trace.id, trace.business_key, trace.correlation_id)
        if (look.key and look.key not in names) or (look.errors and not trace.failed):
            return False
        try:
            return where is None or bool(where(envelope))
        except EsbError:
            return False  # it has not even what is asked about

    return wanted


async def _lines(tracing: Tracing, listener: Listener, limit: int) -> AsyncIterator[bytes]:
    told = dropped = 0
    with tracing.listening(listener):
        yield b"\n"  # from now on nothing is missed
        while not limit or told < limit:
            try:
                async with asyncio.timeout(BEAT):
                    one = await listener.queue.get()
            except TimeoutError:
                yield b"\n"
                continue
            told += 1
            yield listener.line(one) + b"\n"
            if listener.dropped > dropped:
                dropped = listener.dropped
                yield msgspec.json.encode({"dropped": dropped}) + b"\n"
