"""What became of a message that was only accepted: the status monitor that its 202 points to.

RFC 9110, section 15.3.3. The store is asked; nothing is kept here.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

import msgspec

from esb.adapter import Build
from esb.durable import DEAD, Receipt, Stored, accept_channel
from esb.errors import BadMessage, EsbError, NoSuchOperation
from esb.identity import Authenticator, exactly, sender
from esb_web import Request, Response, Site, problem
from esb_web.messages import JSON, Headerlist
from esb_web.openapi import path_parameters
from esb_web.router import decode_segment
from esb_web.server import claim_path

_ASK_AGAIN: Final = 1
_NOT_IN_PATHS: Final = re.compile(r"[^\w.~-]+")

_OUTCOMES: Final = {"filtered": "filtered", "dead": "dead"}
"""States by the outcome of the last run; any other is delivered."""

_TIME: Final = {"type": "string", "format": "date-time"}
_SCHEMA: Final = {
    "type": "object",
    "description": "What became of a message that was accepted.",
    "properties": {
        "id": {"type": "string", "description": "The message's id."},
        "state": {
            "enum": ["waiting", "working", "retrying", "delivered", "filtered", "dead"],
            "description": "waiting: nobody has had it in hand. working: somebody has. retrying: "
            "it failed and is tried again later. delivered, filtered: the bus is through with it. "
            "dead: it was set aside for the operators.",
        },
        "accepted": {**_TIME, "description": "When it was; of one that is not through yet."},
        "finished": {**_TIME, "description": "When the bus was through with it."},
        "attempts": {"type": "integer", "description": "How often it failed."},
        "detail": {"type": "string", "description": "Why it failed the last time."},
    },
    "required": ["id", "state"],
}
ACCEPTED: Final[dict[str, Any]] = {
    "description": "Stored; what becomes of it is told at `status_url`.",
    "headers": {"Location": {"schema": {"type": "string", "format": "uri-reference"}}},
    "content": {
        JSON: {
            "schema": {
                "type": "object",
                "properties": {
                    "id": {"type": "string", "description": "The message's id."},
                    "status_url": {"type": "string", "format": "uri-reference"},
                },
                "required": ["id"],
            }
        }
    },
}
"""The Response Object of a request whose message was accepted."""


class Monitor:
    """Tells senders what became of the messages that one route accepted from them."""

    def __init__(
        self, build: Build, path: str | None, *, document: bool, api: str, auth: Authenticator
    ) -> None:
        name = _NOT_IN_PATHS.sub("-", build.route)
        path = path or f"/accepted/{name}/:id"
        claim_path(build, path, ["GET"], "status_path")
        if [p["name"] for p in path_parameters(path)] != ["id"] or not path.endswith("/:id"):
            raise build.problem("a status path ends in /:id, its only parameter", "status_path")
        self._below = path.removesuffix(":id")
        self._route = build.route
        self._store = build.store
        self._clock = build.clock
        self.site = Site(
            path=path,
            methods=("GET",),
            handler=self._handle,
            operation=self._operation() if document else None,
            schemas={"MessageStatus": _SCHEMA},
            api=api,
            auth=auth,
        )

    def url(self, request: Request, message_id: str) -> str:
        """Where to ask for a message that `request` brought; "" if its id fits into no path."""
        segment = quote(message_id, safe="")
        try:
            decode_segment(segment)
        except BadMessage:
            return ""
        return request.base_path + quote(self._below) + segment

    def _operation(self) -> dict[str, Any]:
        schema = {"$ref": "#/components/schemas/MessageStatus"}
        wait = {"schema": {"type": "integer"}, "description": "While it is not through."}
        return {
            "operationId": f"{self._route}-status",
            "summary": f"What became of a message that {self._route} accepted",
            "responses": {
                "200": {
                    "description": "What became of it.",
                    "headers": {"Retry-After": wait},
                    "content": {JSON: {"schema": schema}},
                },
                "404": {"description": "Nothing that the caller sent, or too long ago."},
            },
        }

    async def _handle(self, request: Request) -> Response:
        try:
            return await self._answer(request)
        except EsbError as e:
            return problem(e, instance=request.raw_path)

    async def _answer(self, request: Request) -> Response:
        asked = request.path_params["id"]
        who = exactly(request.principal, request.who.method if request.who else "")
        lying, receipts = await self._store.find(asked)
        # Found by business key, or sent by somebody else, it is none of the caller's.
        here = [
            stored
            for stored in lying
            if stored.envelope.id == asked
            and sender(stored.envelope) == who
            and self._is_ours(stored)
        ]
        through = [
            receipt
            for receipt in receipts
            if receipt.id == asked and receipt.principal == who and receipt.route == self._route
        ]
        headers: Headerlist = [("content-type", JSON), ("cache-control", "no-store")]
        if here:
            stored = max(here, key=lambda one: one.key)
            told = _lying(stored)
            if told["state"] != "dead":
                wait = 0.0 if stored.hold else stored.due - self._clock.time()
                headers.append(("retry-after", str(max(_ASK_AGAIN, math.ceil(wait)))))
        elif through:
            told = _through(max(through, key=lambda one: one.finished))
        else:
            raise NoSuchOperation("you sent no message with this id, or it was too long ago")
        return Response(200, headers, msgspec.json.encode({"id": asked, **told}))

    def _is_ours(self, stored: Stored) -> bool:
        channel = accept_channel(self._route)
        if stored.channel == DEAD:
            # Of one that nobody could take in hand the store knows the channel alone.
            return stored.failure is not None and stored.failure.route in (self._route, channel)
        return stored.channel == channel


def _lying(stored: Stored) -> dict[str, Any]:
    failure = stored.failure
    told: dict[str, Any] = {
        "state": "dead"
        if stored.channel == DEAD
        else "working"
        if stored.hold
        else "waiting"
        if failure is None
        else "retrying",
        "accepted": _date(stored.stored),
        "attempts": stored.attempts,
    }
    if stored.channel == DEAD and failure is not None:
        told["finished"] = failure.time
    # An error of no known kind was not written for the sender.
    if failure is not None and failure.code != EsbError.code:
        told["detail"] = failure.detail
    return told


def _through(receipt: Receipt) -> dict[str, Any]:
    return {
        "state": _OUTCOMES.get(receipt.outcome, "delivered"),
        "finished": _date(receipt.finished),
    }


def _date(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
