"""Envelopes to AMQP messages and back.

Nothing that came over a wire controls delivery here: expiration, delivery mode, reply address, user
and the headers that RabbitMQ itself obeys (CC, BCC, x-death, ...) are shown to the route and never
published again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from esb.envelope import NO_BODY, Body, Envelope, Headers, Outcome, new_id
from esb.redaction import CREDENTIALS
from esb.tracecontext import tracestate, valid_traceparent
from esb_amqp.client import Delivery
from esb_amqp.properties import Properties, as_time

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_LINE = re.compile(r"[\r\n\0]")
_PLAIN = re.compile(r"[\x20-\x7e]{1,255}\Z")

_BROKER_HEADERS: Final = frozenset(
    {
        "cc", "bcc",  # further destinations: "sender-selected distribution"
        "x-death", "x-first-death-exchange", "x-first-death-queue", "x-first-death-reason",
        "x-last-death-exchange", "x-last-death-queue", "x-last-death-reason",
        "x-delivery-count", "x-acquired-count", "x-received-from", "x-delay", "x-stream-offset",
    }
)  # fmt: skip
"""Headers that a broker writes or obeys: a copy would steer what happens to the message."""

_OTHERS_BUSINESS: Final = frozenset(
    {
        # Credentials stay with who they were given to.
        *CREDENTIALS, "proxy-authenticate", "www-authenticate", "authentication-info",
        "proxy-authentication-info",
        # One HTTP connection's (RFC 9110, section 7.6.1), or said by a property or the body here.
        "connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding",
        "upgrade", "host", "content-length", "content-type", "content-encoding", "expect",
        "accept-encoding",
    }
)  # fmt: skip

_TRACE: Final = frozenset({"traceparent", "tracestate"})
_NEVER: Final = _BROKER_HEADERS | _OTHERS_BUSINESS | _TRACE


def refused_header(name: str) -> bool:
    """Whether a route may not name this header itself."""
    return name.lower() in _NEVER


def stream_offset(delivery: Delivery) -> int | None:
    """A message's place in the stream it comes from: a header that the broker writes, over one of
    the sender's, in streams alone."""
    offset = (delivery.properties.headers or {}).get("x-stream-offset")
    return offset if isinstance(offset, int) else None


def from_delivery(delivery: Delivery, queue: str, offset: int | None = None) -> Envelope:
    """The message that a delivery carries. Its body is read by nobody until a step asks.

    params "amqp" holds everything AMQP knows beside body and headers; None where the sender said
    nothing. A header that no other protocol could carry (its name is no token, its text has line
    breaks) lies there too, in "headers".

    offset: its place in the stream that it comes from, by which it is known if it has no id.
    """
    properties = delivery.properties
    pairs: list[tuple[str, Any]] = []
    odd: dict[str, Any] = {}
    trace = {"traceparent": "", "tracestate": ""}
    for name, value in (properties.headers or {}).items():
        if name in trace and isinstance(value, str):
            trace[name] = value
        elif _NAME.match(name) and not (isinstance(value, str) and _LINE.search(value)):
            pairs.append((name, value))
        else:
            odd[name] = value
    if not valid_traceparent(trace["traceparent"]):
        trace = {"traceparent": "", "tracestate": ""}
    content_type = properties.content_type if _PLAIN.match(properties.content_type) else ""
    body = Body(delivery.body, content_type) if delivery.body or content_type else NO_BODY
    facts = {
        "queue": queue,
        "exchange": delivery.exchange,
        "routing_key": delivery.routing_key,
        "redelivered": delivery.redelivered,
        "delivery_mode": properties.delivery_mode,
        "priority": properties.priority,
        "expiration": properties.expiration or None,
        "content_encoding": properties.content_encoding or None,
        "message_id": properties.message_id or None,
        "correlation_id": properties.correlation_id or None,
        "reply_to": properties.reply_to or None,
        "timestamp": properties.timestamp,
        "type": properties.type or None,
        "user_id": properties.user_id or None,
        "app_id": properties.app_id or None,
        "headers": odd,
    }
    if offset is not None:
        facts["offset"] = offset
    sent = as_time(properties.timestamp) if properties.timestamp is not None else None
    return Envelope(
        body=body,
        id=_id(properties.message_id, queue, offset),
        source=f"amqp:{queue}",
        type=properties.type or "message",
        time=sent or datetime.now(UTC),
        subject=delivery.routing_key,
        correlation_id=properties.correlation_id if _PLAIN.match(properties.correlation_id) else "",
        headers=Headers.trusted(pairs),
        params={"amqp": facts},
        traceparent=trace["traceparent"],
        tracestate=tracestate([trace["tracestate"]]),
    )


def _id(given: str, queue: str, offset: int | None) -> str:
    if _PLAIN.match(given):
        return given
    return new_id() if offset is None else f"{queue[-200:]}:{offset}"


def to_properties(
    envelope: Envelope,
    *,
    forward: Callable[[str], bool] | None = None,
    own: Mapping[str, Any] | None = None,
    persistent: bool = True,
    priority: int | None = None,
    expiration: float | None = None,
) -> Properties:
    """The properties a message is published with.

    forward: which of its headers go on, by lower-case name; None for all that may.
    own: headers of the route, over those.
    What came by AMQP keeps its app id, priority, timestamp and odd headers, and its content
    encoding unless the body is a reply's. Raises BadMessage when the body cannot be written.
    """
    facts: Mapping[str, Any] = envelope.params.get("amqp", {})
    headers: dict[str, Any] = {}
    for name, value in envelope.headers:
        lower = name.lower()
        if lower in _NEVER or (forward is not None and not forward(lower)):
            continue
        if name in headers and isinstance(value, str) and isinstance(headers[name], str):
            # A table has each name once; a repeated field is its values, joined (RFC 9110, 5.3).
            value = f"{headers[name]}, {value}"
        headers[name] = value
    if forward is None:
        for name, value in facts.get("headers", {}).items():
            if name.lower() not in _NEVER:
                headers.setdefault(name, value)
    if envelope.traceparent:
        headers["traceparent"] = envelope.traceparent
        if envelope.tracestate:
            headers["tracestate"] = envelope.tracestate
    if own:
        taken = {name.lower() for name in own}
        headers = {n: v for n, v in headers.items() if n.lower() not in taken} | dict(own)
    if priority is None:
        priority = facts.get("priority")
    timestamp = facts.get("timestamp")
    encoding = facts.get("content_encoding")
    return Properties(
        content_type=envelope.content_type,
        content_encoding=(encoding or "") if envelope.outcome is not Outcome.REPLY else "",
        headers=headers or None,
        delivery_mode=2 if persistent else 1,
        priority=priority,
        correlation_id=envelope.correlation_id or facts.get("correlation_id") or "",
        expiration="" if expiration is None else str(max(0, round(expiration * 1000))),
        message_id=envelope.id,
        timestamp=int(envelope.time.timestamp()) if timestamp is None else timestamp,
        type="" if envelope.type == "message" else envelope.type,
        app_id=facts.get("app_id") or "",
    )
