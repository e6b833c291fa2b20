"""The part of the admin API that tells what became of messages: live, and afterwards."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query

from esb.admin_answers import Lines
from esb.bus import Bus
from esb.control import NotThere
from esb.expressions import ExpressionError
from esb.inside import Look, Take, View, source_of
from esb.route import Called
from esb.story import story
from esb.tracing import Tracing


def trace_api(bus: Bus, view: View) -> APIRouter:
    """Its paths."""
    api = APIRouter()

    def tracing() -> Tracing:
        for one in bus.shared.objects.values():
            if isinstance(one, Tracing):
                return one
        raise HTTPException(404, "this bus has no routes")

    @api.get("/routes/{name:path}/trace", response_class=Lines)
    async def trace(name: str, look: Annotated[Look, Query()]) -> Lines:
        """What each step receives and returns, live: a line of JSON for each message, once it is
        through. Empty lines come in between; nothing is looked at any more when the caller goes."""
        source_of(bus, name)
        try:
            lines = view.trace(name, look)
        except ExpressionError as e:
            hint = f" ({e.hint})" if e.hint else ""
            raise HTTPException(422, f"where: {e.message}{hint}") from e
        return Lines(lines)

    @api.get("/routes/{name:path}/recording", response_class=Lines)
    async def recording(name: str, take: Annotated[Take, Query()]) -> Lines:
        """Tests made of live traffic: a line of JSON for each message, once it is through."""
        if name not in bus.routes or isinstance(bus.routes[name].source, Called):
            raise NotThere(f"there is no route '{name}' that messages come in at")
        lines = view.recording(name, take)
        return Lines(lines)

    @api.get("/messages/{text:path}/traces")
    async def traces(text: str) -> list[dict[str, Any]]:
        """The traces that were kept of a message, by its id, business key or correlation id."""
        return [one.told() for one in await tracing().store.traces(text)]

    @api.get("/messages/{text:path}/story")
    async def told(text: str) -> dict[str, Any]:
        """What became of a message, in words: by its id, business key or correlation id."""
        return await story(text, bus.store, tracing().store, bus.routes)

    return api
