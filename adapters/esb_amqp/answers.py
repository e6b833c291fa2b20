"""Answering who asked (EIP: Request-Reply, Return Address, Correlation Identifier)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import structlog

from esb.envelope import NO_BODY, Body, Envelope, Outcome
from esb.errors import BadMessage, EsbError, Fault, Rejected
from esb_amqp.client import Channel, Delivery
from esb_amqp.link import Lane, Link
from esb_amqp.mapping import to_properties

log = structlog.get_logger("esb.amqp")

PROBLEM: Final = "application/problem+json"
_JSON: Final = msgspec.json.Encoder(decimal_format="number", enc_hook=str)
_TIMEOUT: Final = 10.0


class Answers:
    """Publishes what came of a message to the queue that its sender named for it.

    allowed: how the names of queues begin that a sender may name.
    """

    def __init__(self, link: Link, allowed: Sequence[str], route: str) -> None:
        self._allowed = tuple(allowed)
        self._route = route
        # Opened when the first answer is due.
        self._lane = Lane(link, "replies", _nothing, confirms=True)

    async def close(self) -> None:
        """Answer nobody any more."""
        await self._lane.close()

    def address(self, delivery: Delivery) -> str:
        """The queue to answer to: only one of a kind that was allowed, never any other."""
        wanted = delivery.properties.reply_to
        if not wanted or wanted.startswith(self._allowed):
            return wanted
        log.warning(
            "reply_to of a sender ignored: its queue is none that the route allows",
            route=self._route,
            reply_to=wanted,
        )
        return ""

    async def send(
        self, delivery: Delivery, envelope: Envelope, result: Envelope | EsbError
    ) -> EsbError | None:
        """Publish the answer; returns why that failed, if it did."""
        try:
            try:
                body = _body(envelope, result)
                raw = body.raw
            except EsbError as e:
                body = _problem(envelope, e)
                raw = body.raw
            answer = result if isinstance(result, Envelope) else envelope.reply(body)
            properties = to_properties(answer.replace(body=body), persistent=False)
            properties.correlation_id = delivery.properties.correlation_id or envelope.id
            properties.priority = delivery.properties.priority
            await self._lane.open()
            channel = await self._lane.channel(_TIMEOUT)
            await channel.publish("", envelope.reply_to, properties, raw, timeout=_TIMEOUT)
        except Rejected:
            log.info("nobody waits for the reply any more", route=self._route, message=envelope.id)
        except EsbError as e:
            return e
        return None


def _body(envelope: Envelope, result: Envelope | EsbError) -> Body:
    if isinstance(result, EsbError):
        return _problem(envelope, result)
    if result.outcome is Outcome.DEAD:
        kept = EsbError("the message was set aside with the reason; it is not lost")
        kept.code = "dead-letter"
        return _problem(envelope, kept)
    if result.outcome is Outcome.ACCEPTED:
        return Body(msgspec.json.encode({"id": envelope.id}), "application/json")
    if result.outcome is Outcome.FILTERED:
        return NO_BODY
    return result.body


def _problem(envelope: Envelope, error: EsbError) -> Body:
    """An error as problem+json (RFC 9457)."""
    problem: dict[str, Any] = {
        "type": f"urn:esb:problem:{error.code}",
        "title": "The message could not be processed",
        "status": 400 if isinstance(error, BadMessage) else 500,
        "detail": error.detail,
        "id": envelope.id,
    }
    if isinstance(error, BadMessage) and error.errors:
        problem["errors"] = error.errors
    elif isinstance(error, Rejected) and error.status is not None:
        problem["upstream_status"] = error.status
    elif isinstance(error, Fault):
        if error.party == "sender":
            problem["status"] = 400
        problem["type"] = error.type or problem["type"]
        problem["title"] = error.name or problem["title"]
        problem |= {name: value for name, value in error.info.items() if name not in problem}
        if error.data is not None:
            problem["fault"] = error.data
    return Body(_JSON.encode(problem), PROBLEM)


async def _nothing(channel: Channel) -> None:
    """There is nothing to prepare."""
